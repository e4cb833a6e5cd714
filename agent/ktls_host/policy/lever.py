# SPDX-License-Identifier: Apache-2.0
"""The ``policy`` lever as a whole: probe and plan, then apply, all of it under the lock of the levers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from .. import originals
from ..commands import Runner
from ..errors import KtlsError
from ..steps import Step
from . import absent, breaking, check, present, restarts
from .targets import Request, Target, probe_units, resolve
from .work import Part, Report, note_end, restart_step


def run(request: Request, *, check_only: bool = False, runner: Runner | None = None, root: str = "/") -> Report:
    """Bring the host to what is asked for, or with ``check_only`` say what that would take.

    Raises :class:`KtlsError`; the host is then as it was before, or the message says what is not.
    """
    runner = runner or Runner()
    with originals.lock(root), _open_to_readers():
        check.clean(root)
        targets = resolve(request, runner)
        breaking.refuse(request, targets, root)
        # In scope system these are for restarts alone.
        named = _named(request, runner)
        if request.present:
            return _present(request, targets, named, check_only, runner, root)
        return _absent(request, targets, named, check_only, runner, root)


def _present(
    request: Request, targets: Sequence[Target], named: Sequence[str], check_only: bool, runner: Runner, root: str
) -> Report:
    parts = present.plan(request, targets, runner, root)
    needy = restarts.required(parts, runner, root, planned=True)
    consented = restarts.allowed(request, targets, needy, named)
    steps = [*_ordered(parts), *map(restart_step, consented)]
    effective = tuple(part.effective for part in parts)
    if not check_only:
        seen = present.apply(parts, runner, root)
        failed = restarts.all_of(consented, runner)
        if failed:
            raise _not_started(failed, parts, runner, root)
        effective = tuple({**part.effective, **seen.get(part.target.lever, {})} for part in parts)
    left = _left(parts, needy, consented, check_only, runner, root)
    return _report(request, parts, steps, left, consented, effective, root)


def _absent(
    request: Request, targets: Sequence[Target], named: Sequence[str], check_only: bool, runner: Runner, root: str
) -> Report:
    parts = absent.plan(request, targets, root)
    needy = restarts.required(parts, runner, root, planned=True)
    consented = restarts.allowed(request, targets, needy, named)
    late = [step for part in parts for step in absent.late_steps(part)]
    steps = [*_ordered(parts), *map(restart_step, consented), *late]
    failed: dict[str, str] = {}
    if not check_only:
        absent.apply(parts, runner, lambda: failed.update(restarts.all_of(consented, runner)), root)
        if failed:
            message = f"everything is put back, but {_listed(failed)}; see 'journalctl -u' of the unit"
            raise KtlsError("restart_failed", message)
    effective = tuple(absent.effective(request, targets, runner, root))
    left = _left(parts, needy, consented, check_only, runner, root)
    return _report(request, parts, steps, left, consented, effective, root)


def _report(
    request: Request,
    parts: Sequence[Part],
    steps: Sequence[Step],
    left: Sequence[str],
    restarted: Sequence[str],
    effective: Sequence[dict[str, object]],
    root: str,
) -> Report:
    warnings = []
    if request.present:
        inert = {str(found["library"]) for found in effective if found.get("built") is not True}
        warnings = [f"{library} was built without kernel TLS: the setting does nothing" for library in sorted(inert)]
        unused = restarts.unused(parts, root) if request.scope == "service" else ()
        warnings += [f"{name} runs without {request.backend} in it: the setting may do nothing" for name in unused]
    return Report(
        steps=tuple(steps),
        diff=tuple(diff for part in parts for diff in part.diffs),
        files=tuple(path for part in parts for path in part.files),
        restart_required=tuple(left),
        restarted=tuple(restarted),
        effective=tuple(effective),
        left_alone=tuple(path for part in parts for path in part.left_alone),
        warnings=tuple(warnings),
    )


def _ordered(parts: Sequence[Part]) -> list[Step]:
    """Files first, then one reload for all of them."""
    steps = [step for part in parts for step in part.steps]
    reloads = [step for step in steps if step.code == "daemon_reload"]
    return [step for step in steps if step.code != "daemon_reload"] + reloads[:1]


def _left(
    parts: Sequence[Part],
    needy: Sequence[str],
    consented: Sequence[str],
    check_only: bool,
    runner: Runner,
    root: str,
) -> tuple[str, ...]:
    if check_only:
        return tuple(name for name in needy if name not in consented)
    return restarts.required(parts, runner, root)


def _named(request: Request, runner: Runner) -> tuple[str, ...]:
    if request.scope == "service" or not request.services:
        return ()
    return tuple(unit.name for unit in probe_units(request.services, runner, must_exist=request.present))


def _not_started(failed: dict[str, str], parts: Sequence[Part], runner: Runner, root: str) -> KtlsError:
    """A service that does not start with the configuration gets its old one back, and another chance."""
    blamed = [part for part in parts if part.target.unit is None or set(failed) & set(part.target.members)]
    again: dict[str, str] = {}
    undone = "its configuration was taken back"
    try:
        present.take_back(blamed, runner, root)
        note_end(blamed, root)
        again = restarts.all_of(sorted(failed), runner)
    except KtlsError as error:
        undone = f"taking its configuration back failed ({error.message})"
    after = f"without it {_listed(again)}, too" if again else "it runs again"
    message = f"{_listed(failed)}; {undone} and {after}; see 'journalctl -u' of the unit"
    return KtlsError("restart_failed", message)


def _listed(failed: dict[str, str]) -> str:
    return ", ".join(f"{name} did not restart ({why})" for name, why in sorted(failed.items()))


@contextlib.contextmanager
def _open_to_readers() -> Iterator[None]:
    """Services run as users of their own: what is made here must not be closed to them by a narrow umask."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
