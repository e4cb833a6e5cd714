# SPDX-License-Identifier: Apache-2.0
"""Drills as an operator sees them: a line as each host ends, a table at the end. Pure but for the table's library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_TIMES = (("ON", "enable_s"), ("CARD", "card_s"), ("OFF", "off_s"), ("DRAINED", "drained_s"), ("ALL", "total_s"))
_SHORT = {"ok": "ok", "breaks": "BREAKS", "differs by cipher": "differs"}


def line(host: str, found: Mapping[str, Any]) -> str:
    """One host's drill in one line."""
    if not found["passed"]:
        word = "refused" if found.get("refused") else "FAILED"
        left = f"; left in {found['left']}" if found.get("left") else ""
        detail = str(found["detail"])
        return f"{host}: {word}: {detail.removeprefix(f'{host}: ')}{left}"
    times = found.get("durations") or {}
    words = served(found)
    words += ", ".join(f"{title.lower()} {times[key]:.1f} s" for title, key in _TIMES if times.get(key) is not None)
    encrypted = (found.get("card") or {}).get("encrypted")
    words += f"; {encrypted:,} bytes by the card's own count" if encrypted is not None else ""
    left = f"; left in {found['left']}" if found.get("left") else ""
    return f"{host}: passed: {words}; {found.get('compared')} things as they were{left}"


def served(found: Mapping[str, Any]) -> str:
    """What was drilled, where it is not the sidecar: ``nginx nginx.service, tx+rx: ``."""
    datapath = str((found.get("host") or {}).get("datapath") or "sidecar")
    if datapath == "sidecar":
        return ""
    means = str(found.get("means") or "")
    return f"{datapath}{f', {means}' if means else ''}: "


def keys(found: Mapping[str, Any], direction: str) -> str:
    """What a client's new keys, its request for ours, and our own do, in that order; empty when not tried."""
    tried = (found.get("keyupdate") or {}).get(direction)
    if not tried:
        return "-"
    return " ".join(_SHORT.get(str(tried.get(kind)), "?") for kind in ("peer", "peer_requested", "own"))


def _of_hw(drills: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(found.get("phase") == "hw" for found in drills.values())


def table(drills: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every host of this run, those that did not pass first."""
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    times = [(title, key) for title, key in _TIMES if key != "card_s" or _of_hw(drills)]
    for title in ("HOST", "DRILL", *(title for title, _ in times), "NEW KEYS UNDER TX", "UNDER RX", "KERNEL", "NOTE"):
        timed = title in {title for title, _ in times}
        made.add_column(title, justify="right" if timed else "left", no_wrap=title != "NOTE")
    for host, found in sorted(drills.items(), key=lambda item: (item[1]["passed"], item[0])):
        took = found.get("durations") or {}
        word = "[green]passed[/green]" if found["passed"] else "[red]FAILED[/red]"
        if found.get("refused"):
            word = "[yellow]refused[/yellow]"
        made.add_row(
            escape(host),
            word,
            *("-" if took.get(key) is None else f"{took[key]:.1f} s" for _, key in times),
            keys(found, "tx"),
            keys(found, "rx"),
            escape(str(found.get("kernel") or "-")),
            escape("; ".join(str(one) for one in (found["detail"], found.get("left")) if one)),
        )
    return made
