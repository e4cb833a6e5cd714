# SPDX-License-Identifier: Apache-2.0
"""The verbs that drive a playbook, and what each shows of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from .errors import ControlError
from .inventory import Host, load
from .playbook import PlaybookRun
from .preflight import Preflight
from .preflight_events import Survey
from .progress import RolloutProgress
from .request import check_phase
from .rollout import control
from .rollout.follow import Follower
from .rollout.sentinels import members
from .rollout.store import Run
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
    check_phase(phase)
    load(inventory, group, limit)
    members(phase, inventory, bool(variables.get("ktls_without_sentinel")))
    run = PlaybookRun(
        "rollout",
        str(Path(inventory).resolve()),
        {**variables, "ktls_phase": phase, "ktls_group": group},
        log,
        limit,
        check,
    )
    progress = progress if progress is not None else RolloutProgress(phase)
    show_run(run, console, progress)
    return end(run, console, f"every host is on {progress.phase}" if not check else "nothing was changed")


def show_run(run: PlaybookRun, console: Console, progress: RolloutProgress) -> str | None:
    """Run the rollout playbook to its end, and show what its journal says meanwhile.

    The first interrupt asks the run to abort, so that its open wave goes back; the second leaves it to its leases.

    :returns: the run's directory; None when it never began.
    """
    begun: list[Run] = []
    journal: Follower | None = None
    started = time.time()

    def say(screen: RolloutScreen) -> None:
        for entry in journal.new() if journal else ():
            lines = progress.feed(entry)
            if entry["at"] >= started - 1:
                screen.say(lines)

    with RolloutScreen(console, progress) as screen, _interrupts(begun, console):
        for event in run.events(idle=True):
            if journal is None and event["event"] == "ok" and event.get("run"):
                begun.append(Run(Path(event["run"])))
                journal = Follower(begun[0].journal)
            say(screen)
        say(screen)
    run.ended_itself = progress.outcome is not None or not begun
    return str(begun[0].directory) if begun else None


@contextmanager
def _interrupts(begun: Sequence[Run], console: Console) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal asked
        if asked or not begun:
            raise KeyboardInterrupt
        asked = True
        control.ask(begun[0].control, "abort", by=control.operator(), why="interrupted")
        console.print("interrupted: the open wave goes back; once more leaves its hosts to their leases", markup=False)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def deploy(inventory: str, group: str, limit: str | None, console: Console, log: Path, *, check: bool = False) -> int:
    """Install agent and sidecar; see ``playbooks/deploy.yml``."""
    hosts = load(inventory, group, limit)
    run = PlaybookRun("deploy", str(Path(inventory).resolve()), {"ktls_group": group}, log, limit, check)

    def show(event: Event) -> str | None:
        done = event["event"] == "ok" and event.get("host") != "localhost"
        return f"{event['host']}: {_role_less(event['task'])}" if done and event.get("changed") else None

    _drive(run, console, f"deploying to {len(hosts)} hosts", show)
    return end(run, console, "the agent and what serves answer on every host" if not check else "nothing was changed")


def preflight(
    inventory: str,
    group: str,
    limit: str | None,
    phase: str,
    console: Console,
    log: Path,
    *,
    load_module: bool = True,
    quiet: bool = False,
    hosts: Sequence[Host] | None = None,
) -> Preflight:
    """Ask every host whether it can take a phase; see ``playbooks/preflight.yml``.

    :param load_module: let hosts load the ``tls`` module for the time of their test.
    :param quiet: show progress on a terminal only.
    :param hosts: those of the inventory, where they have been read already.
    :raises ControlError: ``run_failed`` when the playbook asked no host, or failed though every host is ready.
    """
    check_phase(phase)
    hosts = load(inventory, group, limit) if hosts is None else hosts
    variables = {"ktls_group": group, "ktls_phase": phase, "ktls_preflight_load_module": load_module}
    run = PlaybookRun("preflight", str(Path(inventory).resolve()), variables, log, limit)
    survey = Survey(phase, {host.name: host.address for host in hosts})
    title = f"probing {len(hosts):,} hosts"
    if console.is_terminal:
        with console.status(title) as status:
            for event in run.events():
                if survey.feed(event):
                    status.update(f"{title}: {survey.answered:,} answered")
    else:
        if not quiet:
            console.print(title, markup=False)
        for event in run.events():
            survey.feed(event)
    found = survey.result()
    if not survey.answered or (found.all_ready and run.returncode != 0):
        why = "; ".join(run.explain()) or f"ansible-playbook ended with status {run.returncode} before it asked a host"
        raise ControlError("run_failed", f"preflight: {why}; Ansible's own output is in {log}")
    return found


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


def end(run: PlaybookRun, console: Console, well: str) -> int:
    """The last lines of a run that drove a playbook; 0 when it went well, else 1."""
    if run.returncode == 0:
        console.print(f"{run.verb}: {well}", markup=False)
        return 0
    for line in run.explain():
        console.print(f"ktls: {run.verb}: {line}", markup=False, soft_wrap=True)
    console.print(f"{run.verb}: stopped; Ansible's own output is in {run.log}", markup=False, soft_wrap=True)
    return 1
