# SPDX-License-Identifier: Apache-2.0
"""docs/compatibility.md from recorded measurements: pure, so that a test can tell a stale page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.compatibility_text import CLAIMS, FINDINGS, FOOT, HEAD, MEANING, NO_GNUTLS

Matrix = Mapping[str, Any]
"""What ``tests/vm/levers/guest/matrix.py`` prints: ``kernel``, ``openssl`` and ``cells``."""
Suite = tuple[str, str]
"""Protocol version and OpenSSL's name of the cipher suite."""

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "compatibility"
PAGE = ROOT / "docs" / "compatibility.md"
GNUTLS = FIXTURES / "gnutls.json"

IMAGES = {
    "debian12": "Debian 12",
    "debian13": "Debian 13",
    "debian13-backports": "Debian 13 with the kernel of backports",
}
KEY_UPDATES = ("peer", "peer_requested", "own")
MODES = ("tx", "rx")

_MARKS = "abcdefgh"
_NOT_THERE = "–"


def read(image: str) -> Matrix:
    """Return what was recorded of an image."""
    matrix: Matrix = json.loads((FIXTURES / f"{image}.json").read_text(encoding="utf-8"))
    return matrix


def write(image: str, matrix: Matrix) -> None:
    """Record what was measured on an image."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / f"{image}.json").write_text(json.dumps(matrix, indent=1) + "\n", encoding="utf-8")


def read_gnutls() -> Mapping[str, Any] | None:
    """Return what was recorded of GnuTLS, if that was."""
    found: Mapping[str, Any] | None = json.loads(GNUTLS.read_text(encoding="utf-8")) if GNUTLS.exists() else None
    return found


def kind(outcome: str | None) -> str | None:
    """Return what happened without the reason: ``ok``, ``breaks``, ``hangs``, ``userspace``."""
    return outcome.replace("(", " ").replace(":", " ").split()[0] if outcome else None


def suites(matrix: Matrix) -> list[Suite]:
    """Each suite once, in order."""
    return list(dict.fromkeys((entry["version"], entry["cipher"]) for entry in matrix["cells"]))


def cell(matrix: Matrix, suite: Suite, mode: str) -> Mapping[str, Any]:
    """Return the measurement of one suite in one mode; KeyError when there is none."""
    for entry in matrix["cells"]:
        if (entry["version"], entry["cipher"], entry["mode"]) == (*suite, mode):
            found: Mapping[str, Any] = entry
            return found
    raise KeyError((*suite, mode))


def kinds(matrix: Matrix) -> dict[str, dict[str, object]]:
    """All that must not change unnoticed: every cell by name, without the words of the reasons."""
    found: dict[str, dict[str, object]] = {}
    for entry in matrix["cells"]:
        facts: dict[str, object] = {name: entry[name] for name in ("offered", "tx", "rx")}
        facts["data"] = entry["data"] == "ok"
        updates = entry["key_update"]
        facts["key_update"] = updates and {name: kind(updates[name]) for name in KEY_UPDATES}
        found[f"{entry['version']} {entry['cipher']} {entry['mode']}"] = facts
    return found


def page(recorded: Mapping[str, Matrix], gnutls: Mapping[str, Any] | None = None) -> str:
    """Return the whole page; ``recorded`` has a matrix for each of IMAGES."""
    parts = [HEAD, *(_section(IMAGES[image], recorded[image]) for image in IMAGES), MEANING]
    parts += [FINDINGS + "\n".join(_claim(text, test(recorded)) for text, test in CLAIMS) + "\n"]
    parts += ["## GnuTLS\n\n<!-- gnutls: begin -->\n", _gnutls(gnutls), "<!-- gnutls: end -->\n", FOOT]
    return "\n".join(parts)


def _claim(text: str, holds: bool) -> str:
    return f"- {'Confirmed' if holds else '**Contradicted**'}: {text}"


def _section(title: str, matrix: Matrix) -> str:
    reasons: dict[str, str] = {}
    rows = [_row(matrix, suite, reasons) for suite in suites(matrix)]
    notes = [f"- [{mark}] {reason}" for reason, mark in reasons.items()]
    return "\n".join(
        [
            f"## {title}: Linux {'.'.join(matrix['kernel'].split('.')[:2])}, OpenSSL {openssl_version(matrix)}\n",
            f"Measured on kernel `{matrix['kernel']}` with `{matrix['openssl']}`.\n",
            "| protocol | cipher suite | TX | RX | TX only: peer | requested | own | TX + RX: peer | requested | own |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            *(["", *notes] if notes else []),
            "",
        ]
    )


def openssl_version(matrix: Matrix) -> str:
    """Major and minor version of the library: ``3.5``."""
    return ".".join(matrix["openssl"].split()[1].split(".")[:2])


def _row(matrix: Matrix, suite: Suite, reasons: dict[str, str]) -> str:
    tx, rx = (cell(matrix, suite, mode) for mode in MODES)
    columns = [suite[0].replace("TLSv", "TLS "), f"`{suite[1]}`"]
    columns += [_direction(tx, "tx", reasons), _direction(rx, "rx", reasons)]
    for entry in (tx, rx):
        updates = entry["key_update"] or dict.fromkeys(KEY_UPDATES)
        columns += [_outcome(updates[name], reasons) for name in KEY_UPDATES]
    return f"| {' | '.join(columns)} |"


def _direction(entry: Mapping[str, Any], direction: str, reasons: dict[str, str]) -> str:
    if not entry["offered"]:
        return "not offered"
    if entry["data"] != "ok":
        return f"**fails** {_mark(entry['data'], reasons)}"
    return "kernel" if entry[direction] else "userspace"


def _outcome(outcome: str | None, reasons: dict[str, str]) -> str:
    if outcome is None:
        return _NOT_THERE
    if kind(outcome) in {"ok", "userspace"}:
        return outcome
    reason = outcome.removeprefix("breaks: ")
    return f"**{kind(outcome)}** {_mark(reason, reasons)}"


def _mark(reason: str, reasons: dict[str, str]) -> str:
    return f"[{reasons.setdefault(reason, _MARKS[len(reasons)])}]"


def _gnutls(recorded: Mapping[str, Any] | None) -> str:
    """``rows`` of ``build, kernel, gnutls, version, cipher, tx, rx, note``."""
    if recorded is None:
        return NO_GNUTLS
    lines = ["| build | kernel | GnuTLS | protocol | cipher | TX | RX | |", "|---|---|---|---|---|---|---|---|"]
    for row in recorded["rows"]:
        directions = ["kernel" if row[direction] else "userspace" for direction in MODES]
        told = [str(row[name]) for name in ("build", "kernel", "gnutls", "version", "cipher")]
        lines.append(f"| {' | '.join([*told, *directions, row.get('note', '')])} |")
    return "\n".join([*lines, ""])
