# SPDX-License-Identifier: Apache-2.0
"""Looks at a fleet for a plan: preflight, agents, drills on record. Changes nothing on any host."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ktls_host import datapath_status

from ..errors import ControlError
from ..inventory import Host, load
from ..judge.model import HostSeries
from ..judge.wire import host_series
from ..preflight import Unanswered, host_row
from ..reach import Reach, Reply
from ..request import check_phase
from ..rollout.sentinels import Sentinels, members
from ..rollout.store import fleet_name, state_dir
from ..verbs import preflight
from . import drills
from .build import Ask, Seen
from .policy import KEY, Policy, parse
from .policy import load as load_policy
from .waves import score


def _watching(hosts: Sequence[Host], names: Sequence[str]) -> tuple[str, ...]:
    """What to know of them before a plan is applied; nothing where all is well."""
    if not hosts:
        return ()
    seen = Sentinels({host.name: host.vars for host in hosts}).standing(names)
    return () if seen.sight == "clean" else (f"sentinel: {seen.why}: no wave is opened while that is so",)


def policy_of(file: Path | None, hosts: Sequence[Host], inventory: str) -> Policy:
    """From the file, else from variable ``ktls_policy`` of the inventory, else as it is by itself.

    :raises ControlError: ``no_policy`` or ``bad_policy``.
    """
    if file is not None:
        return load_policy(file)
    given = {host.name: host.vars.get(KEY) for host in hosts}
    first = hosts[0].name
    for name, one in given.items():
        if one != given[first]:
            raise ControlError(
                "bad_policy", f"{inventory}: {KEY} of {name} is not that of {first}: there is one policy for a group"
            )
    return parse(given[first], f"{inventory}: {KEY}")


def look(
    phase: str,
    inventory: str,
    group: str,
    limit: str | None,
    policy_file: Path | None,
    console: Console,
    log: Path,
    *,
    load_module: bool = True,
    quiet: bool = False,
    without_sentinel: bool = False,
) -> tuple[Ask, dict[str, Seen], Policy]:
    """Everything that :func:`ktls_control.plan.build.build` needs.

    :param load_module: let hosts load module ``tls`` for the time of their test.
    :param quiet: show progress on a terminal only.
    :param without_sentinel: phase ``hw`` needs nobody who watches the wire.
    """
    check_phase(phase)
    hosts = load(inventory, group, limit)
    watching = members(phase, inventory, without_sentinel)
    policy = policy_of(policy_file, hosts, inventory)
    fleet = fleet_name(inventory, group)
    recorded = drills.load(state_dir() / fleet, phase)
    # Agents first: the trial of preflight is load too, and an agent says what hosts do without it.
    with _said(console, f"asking {len(hosts):,} agents", quiet):
        replies, series = _ask(hosts, policy)
    found = preflight(inventory, group, limit, phase, console, log, load_module=load_module, quiet=quiet, hosts=hosts)
    silent = host_row(Unanswered("no_answer", "preflight did not ask it"))
    seen = {
        host.name: Seen(
            host.vars,
            found.hosts.get(host.name, silent),
            replies[host.name].data,
            _without_name(replies[host.name].error, host),
            recorded.get(host.name),
            series.get(host.name),
        )
        for host in hosts
    }
    names = tuple(host.name for host in watching)
    told = _watching(watching, [host.name for host in hosts])
    ask = Ask(phase, _place(inventory), group, limit, fleet, time.time(), names, without_sentinel, told)
    return ask, seen, policy


def _without_name(error: str | None, host: Host) -> str | None:
    """Hosts with the same trouble say the same."""
    if error is None:
        return None
    said = error.removeprefix(f"{host.name}: ")
    for word in (host.address, host.name):
        said = re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", "HOST", said)
    return said


def _place(inventory: str) -> str:
    """Where the inventory is, for whoever applies the plan from another directory."""
    return inventory if "," in inventory else str(Path(inventory).resolve())


def _said(console: Console, title: str, quiet: bool) -> contextlib.AbstractContextManager[object]:
    if console.is_terminal:
        return console.status(title)
    if not quiet:
        console.print(title, markup=False)
    return contextlib.nullcontext()


def _ask(hosts: Sequence[Host], policy: Policy) -> tuple[dict[str, Reply], dict[str, HostSeries]]:
    """Each agent's status, and the series of some."""
    with Reach(hosts) as reach:
        replies = {reply.host: reply for reply in reach.ask([host.name for host in hosts], "status")}
        lost = Reply("", None, "the agent was not asked", None, False, 0.0)
        replies = {host.name: replies.get(host.name, lost) for host in hosts}
        well = sorted((name for name in replies if replies[name].data), key=lambda name: score(name, policy.salt))
        return replies, _series(reach, _some_of_each(well, replies, policy.noise_hosts))


def _some_of_each(well: Sequence[str], replies: Mapping[str, Reply], most: int) -> list[str]:
    """At most so many, and as many of each datapath: one says little of the noise of another."""
    kinds: dict[str, list[str]] = {}
    for name in well:
        kinds.setdefault(datapath_status.of(replies[name].data).name, []).append(name)
    return [name for names in kinds.values() for name in names[: most // len(kinds)]]


def _series(reach: Reach, names: Sequence[str]) -> dict[str, HostSeries]:
    """Series of the hosts that have one: without, a plan says less and is no worse."""
    found: dict[str, HostSeries] = {}
    for reply in reach.ask(names, "series") if names else ():
        if reply.data is not None:
            with contextlib.suppress(ControlError):
                found[reply.host] = host_series(reply.host, reply.data, reply.at)
    return found
