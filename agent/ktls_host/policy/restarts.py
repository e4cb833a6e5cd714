# SPDX-License-Identifier: Apache-2.0
"""Which services run by an older configuration, and the restart of those for whom there is consent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..commands import Runner
from ..errors import KtlsError
from . import services, units
from .services import Process
from .targets import Request, Target
from .work import Part, restart


def required(parts: Sequence[Part], runner: Runner, root: str = "/", *, planned: bool = False) -> tuple[str, ...]:
    """Return the running services that do not work by the configuration there is, sorted.

    With ``planned`` the changes of ``parts`` count as made.
    """
    found = services.scan(root)
    stale: set[str] = set()
    for part in parts:
        candidates = _concerned(part.target, found, root)
        when = math.inf if planned and part.changing else services.changed_at(part.target.lever, root)
        if when > -math.inf and candidates:
            stale |= services.older(found, candidates, when, _main_pids(candidates, runner))
    return tuple(sorted(stale))


def allowed(request: Request, targets: Sequence[Target], needy: Iterable[str], named: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``needy`` that may be restarted: with consent, and only services that were named. Pure."""
    if not request.restart_ok:
        return ()
    consented = set(named) if request.scope == "system" else {name for target in targets for name in target.members}
    for template in [name for name in consented if units.is_template(name)]:
        consented |= {name for name in needy if name.startswith(template.removesuffix(".service"))}
    return tuple(sorted(consented.intersection(needy)))


def unused(parts: Sequence[Part], root: str = "/") -> tuple[str, ...]:
    """Return the named services that run without having the library mapped, sorted."""
    found = services.scan(root)
    running = {process.unit for process in found}
    users = services.users(found, parts[0].target.backend) if parts else frozenset()
    named = {name for part in parts for name in part.target.members}
    return tuple(sorted(named & running - users))


def all_of(names: Sequence[str], runner: Runner) -> dict[str, str]:
    """Restart each, and return why those that do not run afterwards do not."""
    failed = {}
    for name in names:
        why = restart(name, runner)
        if why is not None:
            failed[name] = why
    return failed


def _concerned(target: Target, found: Sequence[Process], root: str) -> frozenset[str]:
    running = {process.unit for process in found}
    if target.unit is not None:
        return frozenset(running.intersection(target.members))
    return services.users(found, target.backend, services.own_line(root))


def _main_pids(names: Iterable[str], runner: Runner) -> dict[str, int]:
    """Main processes, of which there are none to be known without systemd."""
    try:
        return {unit.name: unit.main_pid for unit in units.probe(sorted(names), runner)}
    except KtlsError:
        return {}
