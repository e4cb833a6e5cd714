# SPDX-License-Identifier: Apache-2.0
"""docs/diagnostics.md explains every code that preflight and the levers can show, and no code that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from ktls_control import preflight
from ktls_host.known_bad import KNOWN_BAD
from ktls_host.reasons import PAGE, Reason

ROOT = Path(__file__).parents[2]
HOST = ROOT / "agent/ktls_host"
TEXT = (ROOT / PAGE).read_text()
#: Not reached by a lever: what the agent, releases and certificates say is told where they are told about.
OTHERS = (
    "release.py",
    "certificate.py",
    "configfile.py",
    "unixsock.py",
    "exchange.py",
    "httpserver.py",
    "jsonserver.py",
    "task.py",
    "jsonsock.py",
    "order.py",
    "sock_diag.py",
    "sock_diag_rows.py",
    "probe_object.py",
    "flag_document.py",
    "flag_signature.py",
    "flag_setup.py",
    "series.py",  # of the agent's answers
    "drift.py",  # of a rollout
    "host.py",  # of a drill: docs/drill.md
)
#: Told in docs/undeploy.md (tests/unit/undeploy/test_docs.py).
UNDEPLOY = HOST / "undeploy"


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def codes(kind: str) -> set[str]:
    """Codes that the sources give to ``kind``."""
    found: set[str] = set()
    for path in HOST.rglob("*.py"):
        if path.name not in OTHERS and UNDEPLOY not in path.parents:
            found |= set(re.findall(rf'\b{kind}\(\s*"([a-z0-9_]+)"', path.read_text()))
    return found


def reasons() -> set[str]:
    return codes("Reason") | {known.code for known in KNOWN_BAD} | set(preflight._CURES)


def test_every_reason_has_its_own_heading() -> None:
    headings = re.findall(r"^### (\w+)$", section("Hosts that cannot take a phase"), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) == reasons()


def test_a_heading_says_something() -> None:
    parts = re.split(r"^### \w+$", section("Hosts that cannot take a phase"), flags=re.MULTILINE)[1:]
    assert all(len(part.split()) > 8 for part in parts)


def test_every_error_of_a_lever_is_in_the_table() -> None:
    tables = section("Levers that refuse") + section("Orders that a host refuses")
    told = set(re.findall(r"`([a-z0-9_]+)`", tables)) | reasons()
    assert codes("KtlsError") - told == set()


def test_links_lead_to_headings() -> None:
    link = Reason("tls_module_missing", "", "").link
    page, _, anchor = link.partition("#")
    assert (ROOT / page).is_file() and f"\n### {anchor}\n" in TEXT


def test_the_sources_were_really_read() -> None:
    assert {"module_in_use", "edited_meanwhile"} <= codes("KtlsError")
    assert "key_update_breaks_rx" in codes("Reason")
