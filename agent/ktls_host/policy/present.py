# SPDX-License-Identifier: Apache-2.0
"""``state: present``: plan it, make it so, and take it back when the library or systemd does not take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .. import gnutls, originals, textfile
from ..commands import Runner
from ..errors import KtlsError
from ..steps import Step
from . import adopt, check, crypto_policies, places, services, units
from .ask import OpensslAnswer
from .marks import HEADER
from .places import VARIABLES, Place
from .targets import Request, Target
from .work import Part, note_end, regenerate_step, reload_step, reload_systemd


def plan(request: Request, targets: Sequence[Target], runner: Runner, root: str = "/") -> tuple[Part, ...]:
    """Decide, and prove every candidate; changes nothing that anybody but the library's child reads.

    Raises :class:`KtlsError`; see the module's documentation for the codes.
    """
    if request.backend == "openssl":
        openssl = check.capable_openssl(request.allow_inert)
        directory = check.openssl_directory()
        default = places.openssl_default(directory, root)
        about: dict[str, object] = {"library": openssl.version, "built": openssl.ktls_built}
    else:
        state = gnutls.probe(root)
        check.capable_gnutls(state, request.allow_inert)
        directory, default = "", state.config_file or gnutls.DEFAULT_CONFIG
        about = {"library": f"GnuTLS {state.version}", "built": state.ktls_built}
    manager = units.manager_environment(runner) if request.scope == "service" else {}
    parts = []
    for target in targets:
        place = _place(target, directory, default, manager, root)
        part = _part(target, place, runner, root)
        parts.append(replace(part, effective={**part.effective, **about, "unit": target.name}))
    return tuple(parts)


def apply(parts: Sequence[Part], runner: Runner, root: str = "/") -> dict[str, dict[str, Any]]:
    """Carry it out, and return what the libraries then made of what was changed, by lever.

    With any :class:`KtlsError` the host is as it was before, or the message says what is not.
    """
    begun: list[Part] = []
    seen: dict[str, dict[str, Any]] = {}
    notes: dict[str, str | None] = {}
    try:
        for part in parts:
            adopt.sweep(part.target, [spec.path for spec in part.place.specs] if part.place else [], root)
            if not part.changing:
                continue
            notes[part.target.lever] = services.note_before(part.target.lever, root)
            begun.append(part)
            if part.adoption is not None and part.adoption.changes:
                originals.commit(part.adoption)
            if part.regenerate:
                crypto_policies.regenerate(runner)
        if any(part.reload for part in parts):
            reload_systemd(runner)
        for part in begun:
            seen[part.target.lever] = verify(part, runner, root)
        note_end(parts, root)
    except KtlsError as error:
        raise _after_taking_back(error, begun, notes, runner, root) from error
    return seen


def verify(part: Part, runner: Runner, root: str = "/") -> dict[str, Any]:
    """Read back what came of it, and return it. Raises :class:`KtlsError` ``validation_failed``."""
    target, place = part.target, part.place
    if place is None:
        return {}
    found = check.effective(target.backend, place.config, runner, root)
    if found["problem"] or not found["ktls"]:
        why = found["problem"] or "the library does not ask for kernel TLS with it"
        raise _failed(f"{place.config} does not do what it should ({why})")
    if place.local is not None and crypto_policies.stale(target.backend, place.local, root):
        generated, ours = crypto_policies.backend_file(target.backend), crypto_policies.local_file(target.backend)
        raise _failed(f"{' '.join(crypto_policies.REGENERATE)} did not put {ours} into {generated}")
    if target.unit is not None:
        for unit in units.probe([target.unit.name, *target.members], runner):
            if not _is_set(unit, target.backend, place.config):
                variable = VARIABLES[target.backend]
                raise _failed(f"{unit.name} would not get {variable}={place.config}; a drop-in after ours sets another")
    return found


def take_back(parts: Sequence[Part], runner: Runner, root: str = "/") -> None:
    """Undo what :func:`apply` did for ``parts``. Raises :class:`KtlsError` of the first step that fails."""
    for part in reversed(parts):
        if part.adoption is not None and part.adoption.changes:
            adopt.undo(part.adoption)
        if part.regenerate:
            crypto_policies.regenerate(runner)
    if any(part.reload for part in parts):
        reload_systemd(runner)


def _place(target: Target, directory: str, default: str, manager: dict[str, str], root: str) -> Place:
    openssl = target.backend == "openssl"
    if target.unit is None:
        return places.openssl_system(directory, root) if openssl else places.gnutls_system(default, root)
    name = target.unit.name
    _, drop_in = places.service_files(name, target.backend)
    variable = VARIABLES[target.backend]
    found = units.assignment(target.unit, variable, drop_in, manager, root)
    if found.obstacle is not None:
        raise KtlsError("service_unreachable", f"{name} cannot be given a configuration of its own: {found.obstacle}")
    source = default if found.value is None else found.value
    if source and not source.startswith("/"):
        message = f"{name} has {variable}={source}, relative to a directory that is not known here; write the path out"
        raise KtlsError("service_unreachable", message)
    make = places.openssl_service if openssl else places.gnutls_service
    return make(name, source, root)


def _part(target: Target, place: Place, runner: Runner, root: str) -> Part:
    before = check.existing(target.backend, place.source, runner, root)
    if isinstance(before, OpensslAnswer) and target.unit is None:
        mine = [places.is_ours(originals.read(spec.path, root).content) for spec in place.specs]
        satisfied = before.ktls and not any(mine) and not _has_our_part(place, root)
        place = replace(place, satisfied=satisfied)
    if place.satisfied:
        found = check.effective(target.backend, place.config, runner, root)
        return Part(target, place=place, effective=found)
    adoption = adopt.plan(target.lever, target.backend, place.specs, root)
    changes = adoption.changes
    regenerate = place.local is not None and (bool(changes) or crypto_policies.stale(target.backend, place.local, root))
    written = {change.spec.path for change in changes}
    reload = False
    if target.unit is not None:
        _, drop_in = places.service_files(target.unit.name, target.backend)
        reload = drop_in in written or not _is_set(target.unit, target.backend, place.config)
    steps = [_step(path, target) for path in (spec.path for spec in place.specs) if path in written]
    changing = bool(changes) or regenerate or reload
    if changing:
        found = check.candidate(target.backend, place, before, runner, root)
    else:
        found = check.effective(target.backend, place.config, runner, root)
        if found["problem"] or not found["ktls"]:
            message = (
                f"{place.config} asks for kernel TLS, and yet the library does not ({found['problem'] or 'taken back'}"
                f"); look for a setting after ours in that file, or take ours out with state: absent"
            )
            raise KtlsError("not_effective", message)
    return Part(
        target=target,
        steps=(*steps, *([regenerate_step()] if regenerate else []), *([reload_step()] if reload else [])),
        diffs=tuple(change.diff() for change in changes),
        files=tuple(spec.path for spec in place.specs),
        changing=changing,
        reload=reload,
        regenerate=regenerate,
        effective=found,
        place=place,
        adoption=adoption,
    )


def _has_our_part(place: Place, root: str) -> bool:
    """True when the file that the library reads holds lines of ours, put there by us or by crypto-policies."""
    text = textfile.read(root, place.config) or ""
    if place.local is not None:
        text += textfile.read(root, crypto_policies.backend_file("openssl")) or ""
        return HEADER in text
    return places.has_our_part("openssl", text.encode())


def _step(path: str, target: Target) -> Step:
    if target.unit is not None and path.endswith(".conf"):
        return Step("drop_in", f"point {target.unit.name} to its own configuration: {path}")
    return Step("configure", f"ask for kernel TLS in {path}")


def _is_set(unit: units.Unit, backend: str, config: str) -> bool:
    return f"{VARIABLES[backend]}={config}" in unit.environment


def _failed(what: str) -> KtlsError:
    return KtlsError("validation_failed", f"{what}; look into it by hand, then repeat")


def _after_taking_back(
    error: KtlsError, begun: Sequence[Part], notes: dict[str, str | None], runner: Runner, root: str
) -> KtlsError:
    try:
        take_back(begun, runner, root)
        for lever, note in notes.items():
            services.note_again(lever, note, root)
    except KtlsError as second:
        message = f"{error.message}; putting it back failed, too ({second.message}): repeat with state: absent"
        return KtlsError(error.code, message)
    return KtlsError(error.code, f"{error.message} (everything is as it was before)")
