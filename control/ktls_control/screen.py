# SPDX-License-Identifier: Apache-2.0
"""What the operator sees: a live tree on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from ktls_host import datapath_status

from .progress import HostProgress, RolloutProgress

ICONS: Mapping[str, str] = {
    "waiting": "[dim]…[/dim]",
    "ordering": "[cyan]→[/cyan]",
    "soaking": "[cyan]◔[/cyan]",
    "judged": "[green]◕[/green]",
    "confirmed": "[green]✔[/green]",
    "reverted": "[yellow]↩[/yellow]",
    "failed": "[red]✘[/red]",
    "unreachable": "[red]⚠[/red]",
}


def console(*, stderr: bool = False) -> Console:
    """The operator's screen, or the file that stands for it."""
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        # A file has no width; a table cut to 80 columns would lose the reasons.
        found.width = 160
    return found


class RolloutScreen:
    """Draws a :class:`RolloutProgress` while it changes. Use as a context manager."""

    def __init__(self, console: Console, progress: RolloutProgress) -> None:
        self._console = console
        self._progress = progress
        self._live = (
            Live(console=console, refresh_per_second=4, get_renderable=self._tree) if console.is_terminal else None
        )

    def __enter__(self) -> RolloutScreen:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, lines: Iterable[str]) -> None:
        """Without a terminal each change is a line; with one the tree shows it."""
        if not self._live:
            for line in lines:
                stamped = f"{time.strftime('%H:%M:%S')} {line}"
                self._console.print(stamped, markup=False, highlight=False, soft_wrap=True)

    def _tree(self) -> Tree:
        progress = self._progress
        epoch = f" epoch {progress.epoch}" if progress.epoch is not None else ""
        tree = Tree(f"[bold]ktls[/bold]{epoch}  phase {progress.phase}")
        for wave in progress.waves:
            done = sum(host.state == "confirmed" for host in wave.hosts.values())
            branch = tree.add(
                f"wave {wave.number}  {done}/{len(wave.hosts)}  {wave.outcome}  {escape(wave.note)}".rstrip()
            )
            for name, host in wave.hosts.items():
                branch.add(f"{ICONS[host.state]} {name:12} {host.state:11} {_age(host):>5}  {escape(host.info)}")
        if not progress.waves:
            tree.add("looking at every host")
        return tree


def _age(host: HostProgress) -> str:
    return "" if host.state in ("waiting", "confirmed", "reverted") else f"{max(0, time.time() - host.since):.0f}s"


def status_table(fleet: Mapping[str, Any]) -> Table:
    """The fleet's status, one host a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    paths = {name: datapath_status.of(host) for name, host in fleet["hosts"].items()}
    mixed = any(not path.is_sidecar for path in paths.values())
    for title in (
        "HOST",
        *(["SERVED BY"] if mixed else []),
        "PHASE",
        "ORDER",
        "EPOCH",
        "kTLS CONNS",
        "USERSPACE",
        "kTLS BYTES",
        "SHARE",
        "NOTE",
    ):
        numeric = title in ("EPOCH", "kTLS CONNS", "USERSPACE", "kTLS BYTES", "SHARE")
        table.add_column(title, justify="right" if numeric else "left", no_wrap=title != "NOTE")
    for name, host in fleet["hosts"].items():
        if "phase" not in host:
            state = "unreachable" if not host["reachable"] else "no answer"
            blank = [""] * (7 if mixed else 6)
            table.add_row(name, *blank[6:], f"[red]{state}[/red]", *blank[:6], str(host.get("error", "")))
            continue
        carried = {key: count for key, count in (host.get("bytes") or {}).items() if isinstance(count, int)}
        total = sum(carried.values())
        share = f"{int(carried.get('ktls_tx', 0) / total * 1000) / 10:.1f} %" if total else "-"
        connections = host.get("connections") or {}
        path = paths[name]
        phase = path.means(str(host["phase"]))
        table.add_row(
            name,
            *([escape(path.name)] if mixed else []),
            f"[green]{phase}[/green]" if phase != "userspace" else phase,
            str(host["order"]),
            str(host["epoch"]),
            str(connections.get("ktls_tx", "-")),
            str(connections.get("userspace", "-")),
            size(carried.get("ktls_tx", 0)),
            share,
            note(host),
        )
    return table


def note(host: Mapping[str, Any]) -> str:
    """What an operator should know about a host, in one line; empty when all is well."""
    if host.get("error"):
        return str(host["error"])
    path = datapath_status.of(host)
    if path.problem:
        return path.problem
    off = host.get("off") or {}
    if off.get("flag"):
        return f"off flag is up ({off.get('reason') or 'no reason given'})"
    if path.draining:
        return f"{path.draining_processes or 0} old processes with {path.draining_connections or 0} connections drain"
    if host.get("order") == "pending":
        return f"reverts in {host.get('lease_left_s') or 0:.0f} s unless confirmed"
    return str(host.get("revert_reason") or "") if host.get("order") == "reverted" else ""


def size(count: float) -> str:
    """Bytes for people: decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
