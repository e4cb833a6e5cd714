# SPDX-License-Identifier: Apache-2.0
"""Look at one unit, give it kernel TLS, or take it away. Needs root.

Towards kernel TLS nothing is done by halves: without consent to a restart that is needed, nothing is changed. Away
from it what can be done is done, and what runs on is named.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from .. import gnutls, openssl_lib, originals, textfile
from ..commands import Runner
from ..errors import KtlsError
from ..policy import services, units
from ..policy.targets import Request, probe_units
from ..policy.units import Unit
from ..policy.work import reload_systemd, restart
from . import lighttpd, programs, running, ways
from .programs import AUTO, GNUTLS, LIGHTTPD
from .refusals import RefusedError, no_consent
from .running import Process, Runs
from .ways import Way

START_WAIT_S = 10.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Asked:
    """Which unit, by which backend (``auto``: what its program uses), and whether it may be restarted.

    ``taken``: the backend was found to be right when the service was taken. A program that is just starting has not
    mapped its library yet, which says nothing then.
    """

    unit: str
    backend: str = AUTO
    restart_ok: bool = False
    taken: bool = False


@dataclass(frozen=True)
class Look:
    """A unit as it is. ``there``: the next start gets kernel TLS; ``runs``: by what the processes were started."""

    unit: Unit
    way: Way
    there: bool
    runs: Runs
    main: Process | None

    @property
    def asks(self) -> bool:
        """True when who takes new connections now was started with kernel TLS asked for."""
        return self.runs.all_ours(self.unit.main_pid)

    @property
    def stale(self) -> tuple[Process, ...]:
        """Processes that run by another configuration than the one on disk."""
        return self.runs.stale(self.there)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the answer of the helper."""
        library, release, built = _library(self.way.backend)
        return {
            "unit": self.unit.name,
            "active": self.unit.active_state == "active" and self.runs.running,
            "main_pid": self.unit.main_pid or (self.main.pid if self.main else 0),
            "program": self.main.program if self.main and not self.main.starting else None,
            "backend": self.way.backend,
            "library": library,
            "release": list(release),
            "ktls_built": built,
            "drop_in": self.way.drop_in,
            "configured": self.there,
            "asks": self.asks,
            "stale": len(self.stale),
            "problem": self.problem(),
        }

    def problem(self) -> str | None:
        """Return what an operator should know, in one line."""
        if self.there and not self.way.loaded(self.unit):
            return f"systemd would not start {self.unit.name} with {self.way.drop_in}; run 'systemctl daemon-reload'"
        if self.stale:
            how = "with kernel TLS" if not self.there else "without kernel TLS"
            return f"{self.unit.name} runs on {how} until it is restarted (systemctl restart {self.unit.name})"
        return None


def look(asked: Asked, runner: Runner | None = None, root: str = "/") -> Look:
    """Read the unit. Raises :class:`KtlsError`: those of units and of :func:`.programs.backend_of`."""
    runner = runner or Runner()
    (unit,) = probe_units([asked.unit], runner, must_exist=True)
    found = running.scan(unit.name, root)
    main = running.main_program(found, unit.main_pid)
    chosen = asked.backend
    if not asked.taken:
        program = None if main is None or main.starting else main.program
        chosen = programs.backend_of(
            unit.name, program, running.libraries(found), _asked(asked, unit.name, program, root)
        )
    way = ways.way(chosen, unit.name)
    there = way.there(root)
    runs = running.sort(found, way.variable, way.value, there, _since(way, there, root))
    if chosen == LIGHTTPD:
        runs = _by_itself(runs, unit.name, root)
    return Look(unit, way, there, runs, main)


def on(asked: Asked, runner: Runner | None = None, root: str = "/") -> dict[str, Any]:
    """Give the unit kernel TLS: configuration, then a restart if it runs by another one.

    Raises :class:`KtlsError`: ``no_restart_consent`` before anything is changed, ``restart_failed`` when
    everything is as it was again, and those of the levers.
    """
    runner = runner or Runner()
    before = look(asked, runner, root)
    if before.runs.running and not before.asks and not asked.restart_ok:
        raise RefusedError(no_consent(before.unit.name))
    restarted: list[str] = []
    asked = replace(asked, backend=before.way.backend, taken=True)
    if before.way.backend == LIGHTTPD:
        restarted += _lighttpd_on(before, asked, runner, root)
    else:
        from ..policy import lever as policy  # a look, which is asked more often, does without

        request = Request(before.way.backend, "service", (before.unit.name,), True, restart_ok=asked.restart_ok)
        restarted += policy.run(request, runner=runner, root=root).restarted
    return {**_settled(asked, runner, root).as_dict(), "restarted": restarted}


def off(asked: Asked, runner: Runner | None = None, root: str = "/") -> dict[str, Any]:
    """Take it away: the drop-in first, then a restart by consent. What runs on without consent is in ``problem``.

    Works whatever became of records and locks. Raises :class:`KtlsError` ``off_failed`` when a drop-in of ours is still
    there, or systemd did not take notice.
    """
    runner = runner or Runner()
    notes: list[str] = []
    restarted: list[str] = []
    name = units.full_name(asked.unit)
    for way in ways.every(name):
        if not way.there(root):
            if not way.recorded(root):
                continue
            # ktls-off took it away, which notes no time: what runs now counts as older.
            with contextlib.suppress(KtlsError):
                services.note_after(way.lever, root)
        try:
            if way.backend == LIGHTTPD:
                with originals.lock(root):
                    _lighttpd_off(way, runner, root)
            else:
                from ..policy import lever as policy

                request = Request(way.backend, "service", (name,), False, True, asked.restart_ok)
                restarted += policy.run(request, runner=runner, root=root).restarted
        except KtlsError as error:
            notes.append(error.message)
        if way.there(root):  # edited by somebody, no record, a lock that is held: off does not wait for that
            _unlink(way, runner, root)
    for way in ways.every(name):
        with contextlib.suppress(OSError):
            os.unlink(textfile.under(root, way.owed))
            os.rmdir(textfile.under(root, os.path.dirname(way.owed)))
    now = _after(asked, name, runner, root)
    if now["stale"] and asked.restart_ok and name not in restarted:
        why = restart(name, runner)
        notes += [] if why is None else [f"{name} did not restart ({why})"]
        restarted += [name] if why is None else []
        now = _after(asked, name, runner, root)
    return {**now, "restarted": restarted, "notes": notes}


def _settled(asked: Asked, runner: Runner, root: str) -> Look:
    """Look when the unit runs its program: systemd says that it started it before it has."""
    deadline = time.monotonic() + START_WAIT_S
    while True:
        found = look(asked, runner, root)
        if found.main is None or not found.main.starting or time.monotonic() >= deadline:
            return found
        time.sleep(_POLL_S)


def _after(asked: Asked, name: str, runner: Runner, root: str) -> dict[str, Any]:
    """What came of taking it away. That the unit cannot be looked at, having gone perhaps, is no failure of that."""
    try:
        return _settled(asked, runner, root).as_dict()
    except KtlsError as error:
        return {
            "unit": name,
            "active": False,
            "main_pid": 0,
            "drop_in": ways.way(programs.OPENSSL, name).drop_in,
            "configured": bool(ways.on_disk(name, root)),
            "asks": False,
            "stale": 0,
            "problem": error.message,
        }


def _since(way: Way, there: bool, root: str) -> float:
    """Return when the drop-in last changed; ``inf`` when ``ktls-off`` took it away, which notes no time."""
    if not there and way.recorded(root):
        return float("inf")
    return services.changed_at(way.lever, root)


def _asked(asked: Asked, name: str, program: str | None, root: str) -> str:
    """A unit that is stopped is switched by what it was switched by before, when nothing is named."""
    if asked.backend != AUTO or program is not None:
        return asked.backend
    there = ways.on_disk(name, root)
    if there:
        return there[0].backend
    return LIGHTTPD if lighttpd.adopted(root) and name == "lighttpd.service" else AUTO


def _by_itself(runs: Runs, unit: str, root: str) -> Runs:
    """A lighttpd from before our line is in its configuration asks for kernel TLS whatever its environment says."""
    since = services.changed_at(lighttpd.fragment_lever(unit), root) if lighttpd.adopted(root) else float("inf")
    others = tuple(process for process in runs.others if process.started >= since)
    early = tuple(process for process in runs.others if process.started < since)
    return Runs((*runs.ours, *early), others, runs.unknown)


def _lighttpd_on(before: Look, asked: Asked, runner: Runner, root: str) -> list[str]:
    unit, way = before.unit.name, before.way
    if not lighttpd.adopted(root):
        message = f"{lighttpd.FRAGMENT} is not there, so {unit} cannot be switched; deploy the role ktls_service"
        raise KtlsError("not_adopted", message)
    with originals.lock(root):
        plan = originals.plan(way.lever, [lighttpd.drop_in_spec(unit)], root=root)
        note = services.note_before(way.lever, root) if plan.changes else None

        def back() -> None:
            originals.restore_files(found := originals.plan_restore(way.lever, root))
            originals.forget(found)
            reload_systemd(runner)
            services.note_again(way.lever, note, root)

        try:
            originals.commit(plan)
            if plan.changes or not way.loaded(before.unit):
                reload_systemd(runner)
            (now,) = units.probe([unit], runner)
            if not way.loaded(now):
                message = f"{unit} would not get {way.variable}={way.value}; a drop-in after {way.drop_in} sets another"
                raise KtlsError("validation_failed", message)
            if plan.changes:
                services.note_after(way.lever, root)
        except KtlsError as error:
            try:
                back()
            except KtlsError as left:
                message = f"{error.message}; and it was not taken back: {left.message}"
                raise KtlsError(error.code, message) from error
            raise
        if not before.runs.running or (before.asks and not plan.changes) or not asked.restart_ok:
            return []
        why = restart(unit, runner)
        if why is None:
            return [unit]
        back()
        again = restart(unit, runner)
        after = "it runs again without" if again is None else f"without it neither ({again})"
        message = (
            f"{unit} did not restart ({why}); its configuration was taken back and {after}; see 'journalctl -u {unit}'"
        )
        raise KtlsError("restart_failed", message)


def _lighttpd_off(way: Way, runner: Runner, root: str) -> None:
    restoration = originals.plan_restore(way.lever, root, keep_edited=True)
    services.note_before(way.lever, root)
    originals.restore_files(restoration)
    if way.there(root):
        _remove(way, root)
    reload_systemd(runner)
    services.note_after(way.lever, root)
    originals.forget(restoration)


def _unlink(way: Way, runner: Runner, root: str) -> None:
    try:
        _remove(way, root)
        reload_systemd(runner)
    except KtlsError as error:
        raise KtlsError("off_failed", f"{way.unit} keeps its configuration with kernel TLS: {error.message}") from error
    with contextlib.suppress(KtlsError):
        services.note_after(way.lever, root)


def _remove(way: Way, root: str) -> None:
    try:
        os.unlink(textfile.under(root, way.drop_in))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise KtlsError("write_failed", f"cannot remove {way.drop_in} ({error.strerror})") from error


def _library(backend: str) -> tuple[str | None, tuple[int, ...], bool | None]:
    if backend == GNUTLS:
        state = gnutls.probe()
        return (f"GnuTLS {state.version}" if state.version else None), state.release, state.ktls_built
    openssl = openssl_lib.probe()
    return openssl.version, openssl.release, openssl.ktls_built
