# SPDX-License-Identifier: Apache-2.0
"""Take a service under ktls-fleet, and let it go again as it was found.

Taking changes nothing of what it serves, except for lighttpd, which asks for kernel TLS by itself: its configuration
gets the line that makes userspace TLS of it from the next start on (:mod:`.lighttpd`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import originals, textfile
from ..commands import Runner
from ..datapath.model import USERSPACE
from ..errors import KtlsError
from ..files import FileSpec
from ..policy.units import full_name
from ..policy.work import reload_systemd, restart
from . import baseline, lighttpd, switch, ways
from .baseline import Baseline, Place
from .programs import AUTO, LIGHTTPD, directions
from .running import Runs
from .switch import Asked, Look

LEVER = "service"
RECORD = "/etc/ktls-fleet/service.json"
#: The flags decide before the unit starts; it starts all the same where there is no such service.
_ORDER = "# Written by ktls-fleet (ktls_service)\n[Unit]\nAfter=ktls-boot.service\n"


@dataclass(frozen=True)
class Wish:
    """What shall be. ``where`` is for the self-tests; ``url`` what they download, empty: they only shake hands.

    ``renew``: what the URL answers has changed, take its hash anew.
    """

    unit: str
    where: Place | None = None
    url: str = ""
    backend: str = AUTO
    restart_ok: bool = False
    renew: bool = False


@dataclass(frozen=True)
class Report:
    """What was done, or in check mode would be; ``notes`` are lines for the operator."""

    changed: bool
    look: Look | None
    found: Baseline | None = None
    restarted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the module's result, plain JSON types."""
        facts = self.look.as_dict() if self.look else {}
        means = directions(str(facts.get("backend")), facts.get("release") or (0, 0))
        return {
            "changed": self.changed,
            "unit": facts.get("unit"),
            "program": facts.get("program"),
            "backend": facts.get("backend"),
            "library": facts.get("library"),
            "ktls_built": facts.get("ktls_built"),
            "drop_in": facts.get("drop_in"),
            "modes": [USERSPACE, means] if facts else [],
            "probe": self.found.as_dict() if self.found else None,
            "restart_required": [str(facts["unit"])] if facts.get("stale") else [],
            "restarted": list(self.restarted),
            "notes": list(self.notes),
        }


def present(wish: Wish, *, check_only: bool = False, runner: Runner | None = None, root: str = "/") -> Report:
    """Take the service. Raises :class:`KtlsError`: those of :mod:`.programs`, :mod:`.lighttpd` and :mod:`.baseline`."""
    runner = runner or Runner()
    asked = Asked(wish.unit, wish.backend, wish.restart_ok)
    before = switch.look(asked, runner, root)
    changed, restarted, notes = False, [], []
    if before.way.backend == LIGHTTPD:
        with originals.lock(root):
            changed = lighttpd.adopt(before.unit.name, runner, root, check_only)
        # A service that is switched on stays so.
        if not before.there and (changed or before.stale) and before.runs.running and wish.restart_ok:
            restarted = [before.unit.name]
            if not check_only:
                _restart(before.unit.name, changed, runner, root)
                if wish.where:
                    baseline.wait(wish.where)
    after = _foretold(before, restarted) if check_only else switch.look(asked, runner, root)
    if after.stale and not after.there and before.way.backend == LIGHTTPD:
        notes.append(f"{after.unit.name} serves by kernel TLS of its own until it is restarted (no ktls_restart_ok)")
    found, said = (None, "") if check_only else _baseline(wish, after, root)
    notes += [said] if said else []
    with originals.lock(root):
        known = _recorded(root) if check_only else found
        specs = [FileSpec(RECORD, _text(after, known)), FileSpec(_order_file(after.unit.name), _ORDER.encode())]
        plan = originals.plan(LEVER, specs, root=root)
        if plan.changes and not check_only:
            originals.commit(plan)
            reload_systemd(runner)
    return Report(changed or bool(plan.changes) or bool(restarted), after, known, tuple(restarted), tuple(notes))


def absent(
    unit: str, restart_ok: bool = False, *, check_only: bool = False, runner: Runner | None = None, root: str = "/"
) -> Report:
    """Let the service go: switched off, our files away, and restarted by consent where it runs by them.

    Raises :class:`KtlsError`: ``edited_meanwhile``, ``off_failed``.
    """
    runner = runner or Runner()
    name = full_name(unit)
    restoration = originals.plan_restore(LEVER, root)
    restoration.refuse_edited()
    ours = restoration.record is not None
    there = bool(ways.on_disk(name, root)) or ways.owed(name, root)
    recorded = any(way.recorded(root) for way in ways.every(name))
    notes: list[str] = []
    restarted: list[str] = []
    stale = there
    if (there or recorded) and not check_only:
        answer = switch.off(Asked(unit, restart_ok=False), runner, root)
        notes += answer["notes"]
        stale = there or bool(answer["stale"])
    with originals.lock(root):
        line = lighttpd.release(name, root, check_only)
        if ours and not check_only:
            originals.restore_files(restoration)
            originals.forget(restoration)
            reload_systemd(runner)
    if stale or line:
        if restart_ok:
            restarted = [name]
            why = None if check_only else restart(name, runner)
            notes += [] if why is None else [f"{name} did not restart ({why}); see 'journalctl -u {name}'"]
        else:
            notes.append(f"{name} runs on by the configuration of ktls-fleet until it is restarted")
    return Report(ours or there or recorded or line, None, None, tuple(restarted), tuple(notes))


def _foretold(before: Look, restarted: Sequence[str]) -> Look:
    """Return the service as it will be found: one that is restarted runs by what is on the disk."""
    runs = before.runs
    return replace(before, runs=Runs(others=(*runs.ours, *runs.others, *runs.unknown))) if restarted else before


def _order_file(unit: str) -> str:
    return f"/etc/systemd/system/{unit}.d/zz-ktls-fleet-order.conf"


def _restart(unit: str, line: bool, runner: Runner, root: str) -> None:
    why = restart(unit, runner)
    if why is None:
        return
    message = f"{unit} did not restart ({why}); see 'journalctl -u {unit}'"
    if line:
        with originals.lock(root):
            lighttpd.release(unit, root)
        again = restart(unit, runner)
        message += "; the line was taken out of its configuration and it " + (
            "runs again" if again is None else f"does not start without it either ({again})"
        )
    raise KtlsError("restart_failed", message)


def _baseline(wish: Wish, now: Look, root: str) -> tuple[Baseline | None, str]:
    """Return the hash to compare with, the recorded one where there is one, or None and why there is none."""
    if wish.where is None:
        return None, ""
    known = _recorded(root)
    if known is not None and known.url == wish.url and not wish.renew:
        return known, ""
    if now.asks or now.there:
        return (
            None,
            f"{wish.url} was not hashed: {now.unit.name} does not run in userspace TLS; self-tests only shake hands",
        )
    found, in_kernel = baseline.fetch(wish.where, wish.url)
    if in_kernel:
        message = (
            f"{now.unit.name} serves {wish.url} by kernel TLS although nothing of ktls-fleet asks for it: its own "
            "configuration does; take that out there, then repeat"
        )
        raise KtlsError("ktls_by_itself", message)
    return found, ""


def _recorded(root: str) -> Baseline | None:
    try:
        raw = json.loads(textfile.read(root, RECORD) or "{}")["baseline"]
        return Baseline(str(raw["url"]), str(raw["sha256"]), int(raw["size"]))
    except (ValueError, KeyError, TypeError):
        return None


def _text(now: Look, found: Baseline | None) -> bytes:
    plain = {
        "by": "ktls-fleet (ktls_service); state: absent takes it away",
        "unit": now.unit.name,
        "backend": now.way.backend,
        "baseline": found.as_dict() if found else None,
    }
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()
