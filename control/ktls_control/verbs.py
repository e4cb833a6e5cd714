# SPDX-License-Identifier: Apache-2.0
"""The verbs that drive a playbook, and what each shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    check_phase(phase, need_support=False)
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


def _end(run: PlaybookRun, console: Console, well: str) -> int:
    if run.returncode == 0:
        console.print(f"{run.verb}: {well}", markup=False)
        return 0
    for line in run.explain():
        console.print(f"ktls: {run.verb}: {line}", markup=False, soft_wrap=True)
    console.print(f"{run.verb}: stopped; Ansible's own output is in {run.log}", markup=False, soft_wrap=True)
    return 1
