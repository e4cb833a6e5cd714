# SPDX-License-Identifier: Apache-2.0
"""All three symptoms, and how they are told. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from . import hardware, no_gain, read_failures
from .model import CONFIRMED, LIKELIHOODS, LIKELY, POSSIBLE, RULED_OUT, SYMPTOMS, Evidence, Finding

_WIDTH = 110
_MARKS = {CONFIRMED: "!!", LIKELY: " !", POSSIBLE: " ?"}


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return what was found, by symptom, the likeliest first."""
    found = [*no_gain.walk(evidence), *read_failures.walk(evidence), *hardware.walk(evidence)]
    order = {symptom: number for number, symptom in enumerate(SYMPTOMS)}
    return sorted(found, key=lambda finding: (order[finding.symptom], LIKELIHOODS.index(finding.likelihood)))


def unseen(evidence: Evidence) -> list[str]:
    """Return what could not be read or judged."""
    return [*evidence.unseen, *no_gain.unseen(evidence)]


def ill(findings: Sequence[Finding]) -> bool:
    """Whether anything is confirmed or likely."""
    return any(finding.likelihood in (CONFIRMED, LIKELY) for finding in findings)


def as_dict(host: str, evidence: Evidence, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the diagnosis as plain JSON."""
    return {
        "schema": 1,
        "host": host,
        "kernel": evidence.kernel,
        "openssl": evidence.openssl,
        "phase": evidence.ordered,
        "healthy": not ill(findings),
        "findings": [finding.as_dict() for finding in findings],
        "unseen": unseen(evidence),
    }


def text(host: str, evidence: Evidence, findings: Sequence[Finding]) -> str:
    """Return the diagnosis for people: causes first, what was ruled out in one paragraph each."""
    lines = [f"{host}: kernel {evidence.kernel}, {evidence.openssl}, phase {evidence.ordered}"]
    for symptom, words in SYMPTOMS.items():
        mine = [finding for finding in findings if finding.symptom == symptom]
        lines += ["", f"{words}:"]
        causes = [finding for finding in mine if finding.likelihood != RULED_OUT]
        if not causes:
            lines.append("  nothing found" if mine else "  nothing could be seen")
        for finding in causes:
            lines.append(f"  {_MARKS[finding.likelihood]} {finding.code} ({finding.likelihood})")
            lines += _wrapped(finding.what, "     ")
            lines += _wrapped(f"run:  {finding.run}", "     ") if finding.run else []
            lines += _wrapped(f"cure: {finding.cure}", "     ") if finding.cure else []
        out = [f"{finding.code} ({finding.what})" for finding in mine if finding.likelihood == RULED_OUT]
        if out:
            lines += _wrapped(f" - ruled out: {'; '.join(out)}", "  ")
    if missing := unseen(evidence):
        lines += ["", "not seen, so that nothing is said of it:"]
        lines += [line for what in missing for line in _wrapped(f"- {what}", "  ")]
    return "\n".join(lines)


def _wrapped(words: str, indent: str) -> list[str]:
    return textwrap.wrap(
        words,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
