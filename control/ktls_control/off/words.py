# SPDX-License-Identifier: Apache-2.0
"""What off says to people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .model import KERNEL, RESTART_NEEDED, Latencies, OffResult
from .outlook import clock
from .targets import Source

_ROWS = (
    ("flag up", "flag_s", None),
    ("last new kTLS connection", "last_new_s", "last_new_s"),
    ("90 % drained", "drained_90_s", "drained_90_s"),
    ("none left", "none_left_s", "none_left_s"),
)


def host(result: OffResult) -> str:
    """One host in one line, two if it has an outlook."""
    if not result.ok:
        line = f"{result.host}: NOT confirmed off: {result.error or 'kTLS is still in force'}"
        return line if result.outlook is None else f"{line}\n  {result.host} by itself: {result.outlook.text}"
    parts = [f"last new kTLS connection after {_seconds(result.last_new_s)}"]
    if result.left == 0:
        parts += [
            f"90 % drained after {_seconds(result.drained_90_s)}",
            f"none left after {_seconds(result.none_left_s)}",
        ]
    elif result.left is None:
        parts.append("how many connections are left is not known")
    else:
        parts.append(f"{result.left} still draining")
    if result.old_processes:
        parts.append(f"{_processes(result.old_processes)} of {result.datapath} still {_serve(result.old_processes)}")
    line = f"{result.host}: off; {', '.join(parts)}"
    return line if result.note is None else f"{line} ({result.note})"


def source(found: Source, shown: int = 5) -> Iterator[str]:
    """Where the list of hosts came from, if there is something to know about it."""
    if found.list == "last_good":
        when = clock(found.at or 0.0)
        yield f"INVENTORY NOT USED: {found.error}"
        yield f"INVENTORY NOT USED: hosts are those of the last good list, of {when}: newer ones are missing"
    elif found.list == "names":
        yield f"INVENTORY NOT USED: {found.error}; hosts are reached by their names alone"
    if found.late:
        yield f"the inventory answered late: {_some(found.late, shown)} added"
    if found.gone:
        yield f"not in the inventory any more, asked all the same: {_some(found.gone, shown)}"
    if found.unknown and found.list != "names":
        yield f"not in the inventory, reached by name: {_some(found.unknown, shown)}"


def summary(results: Sequence[OffResult], took: Latencies) -> Iterator[str]:
    """The fleet."""
    done = [result for result in results if result.ok]
    alone = sum(result.by == KERNEL for result in done)
    line = f"off: {len(done)} of {len(results)} hosts read back on userspace TLS"
    yield f"{line}, {alone} of them by the kernel's counters alone" if alone else line
    waiting = [result for result in results if result.code == RESTART_NEEDED]
    if waiting:
        count = sum(result.old_processes or 0 for result in waiting)
        yield (
            f"off: on {len(waiting)} of them the configuration is off, and {_processes(count)} keep kTLS until "
            "somebody restarts them: nobody consented to that (ktls_restart_ok)"
        )
    old = [result for result in done if result.old_processes]
    if old:
        yield f"off: {_processes(sum(one.old_processes or 0 for one in old))} of before drain on {len(old)} hosts"
    if took.left:
        yield f"off: {took.left} kTLS connections of before still draining; no new one is made"
    if not done:
        return
    yield f"{'seconds since the command':26} {'fleet':>7} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7}   by host"
    for title, name, fleet in _ROWS:
        over = took.spread[name]
        whole = over.max if fleet is None else getattr(took, fleet)
        cells = " ".join(f"{_cell(value):>7}" for value in (whole, over.p50, over.p90, over.p99, over.max))
        yield f"{title:26} {cells}   {over.hosts} hosts"


def _processes(count: int) -> str:
    return "1 old process" if count == 1 else f"{count} old processes"


def _serve(count: int) -> str:
    return "serves what it began" if count == 1 else "serve what they began"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.1f} s"


def _some(names: Sequence[str], shown: int) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
