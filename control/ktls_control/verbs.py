# SPDX-License-Identifier: Apache-2.0
"""The verbs that drive a playbook, and what each shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .inventory import load
from .playbook import PlaybookRun
from .progress import RolloutProgress
from .request import check_phase
from .screen import RolloutScreen

Event = Mapping[str, Any]


def rollout(
    inventory: str,
    group: str,
    limit: str | None,
    phase: str,
    console: Console,
    log: Path,
    *,
    variables: Mapping[str, Any],
    check: bool = False,
    progress: RolloutProgress | None = None,
) -> int:
    """Roll ``phase`` out wave by wave; see ``playbooks/rollout.yml``.

    :returns: 0 when every host of every wave passed its gate and was confirmed, else 1.
    """
    check_phase(phase, need_support=True)
    load(inventory, group, limit)
    progress = progress if progress is not None else RolloutProgress(phase)
    run = PlaybookRun(
        "rollout",
        str(Path(inventory).resolve()),
        {**variables, "ktls_phase": phase, "ktls_group": group},
        log,
        limit,
        check,
    )
    with RolloutScreen(console, progress) as screen:
        for event in run.events():
            screen.say(progress.feed(event))
    return _end(run, console, f"every host is on {phase}" if not check else "nothing was changed")


def deploy(inventory: str, group: str, limit: str | None, console: Console, log: Path, *, check: bool = False) -> int:
    """Install agent and sidecar; see ``playbooks/deploy.yml``."""
    hosts = load(inventory, group, limit)
    run = PlaybookRun("deploy", str(Path(inventory).resolve()), {"ktls_group": group}, log, limit, check)

    def show(event: Event) -> str | None:
        done = event["event"] == "ok" and event.get("host") != "localhost"
        return f"{event['host']}: {_role_less(event['task'])}" if done and event.get("changed") else None

    _drive(run, console, f"deploying to {len(hosts)} hosts", show)
    return _end(run, console, "agent and sidecar answer on every host" if not check else "nothing was changed")


def preflight(inventory: str, group: str, limit: str | None, phase: str, console: Console, log: Path) -> int:
    """Probe every host and show who can take ``phase``; see ``playbooks/preflight.yml``.

    :returns: 0 when every host is ready, else 1.
    """
    check_phase(phase, need_support=False)
    hosts = load(inventory, group, limit)
    run = PlaybookRun(
        "preflight",
        str(Path(inventory).resolve()),
        {"ktls_group": group, "ktls_phase": phase},
        log,
        limit,
    )
    found: dict[str, Event] = {}

    def show(event: Event) -> str | None:
        if "info" in event:
            found[event["host"]] = event["info"]
        return None

    _drive(run, console, f"probing {len(hosts)} hosts", show)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("HOST", "KERNEL", "OPENSSL", f"PHASE {phase}", "WHY, AND THE CURE"):
        table.add_column(title, no_wrap=title == "HOST", overflow="fold")
    ready = 0
    for host in hosts:
        info = found.get(host.name)
        if info is None:
            why = next((line for line in run.explain() if line.startswith(host.name)), "no answer")
            table.add_row(host.name, "", "", "[red]unknown[/red]", why)
            continue
        verdict = info["phases"][phase]
        ready += verdict["verdict"] == "ready"
        colour = "green" if verdict["verdict"] == "ready" else "red"
        why = "; ".join(f"{reason['message']}; {reason['cure']}" for reason in verdict["reasons"])
        table.add_row(
            host.name,
            str(info["kernel"]),
            str(info["openssl"]["version"]),
            f"[{colour}]{verdict['verdict']}[/{colour}]",
            why,
        )
    console.print(table)
    console.print(f"{ready} of {len(hosts)} hosts ready for {phase}")
    return 0 if ready == len(hosts) else 1


def _drive(run: PlaybookRun, console: Console, title: str, show: Callable[[Event], str | None]) -> None:
    if not console.is_terminal:
        console.print(title, markup=False)
        for event in run.events():
            line = show(event)
            if line:
                console.print(line, markup=False)
        return
    with console.status(title) as status:
        for event in run.events():
            if event["event"] == "task":
                status.update(f"{title}: {_role_less(event['task'])}")
            line = show(event)
            if line:
                console.print(line, markup=False)


def _role_less(task: str) -> str:
    return task.rsplit(" : ", 1)[-1]


def _end(run: PlaybookRun, console: Console, well: str) -> int:
    if run.returncode == 0:
        console.print(f"{run.verb}: {well}", markup=False)
        return 0
    for line in run.explain():
        console.print(f"ktls: {run.verb}: {line}", markup=False, soft_wrap=True)
    console.print(f"{run.verb}: stopped; Ansible's own output is in {run.log}", markup=False, soft_wrap=True)
    return 1
