# SPDX-License-Identifier: Apache-2.0
"""What of ours is on a host, and what of it somebody else has touched. Only reads."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import re
import stat
from dataclasses import dataclass, field
from typing import Any

from .. import originals, textfile
from ..errors import KtlsError
from ..originals import FileRecord, Record
from ..probe_object import EXPECTED_SHA256
from ..release import PROBE_NAME, System
from . import theirs
from .footprint import Footprint

UNIT_DIRECTORY = "/etc/systemd/system"
#: Where unit files and what enables them may be, ours to look through.
_UNIT_PLACES = (UNIT_DIRECTORY, "/run/systemd/system")
_WANTED = re.compile(r".+\.(?:wants|requires|upholds)\Z")
#: What a write of ours that was killed leaves beside its file (:func:`ktls_host.files.atomic_write`).
_LITTER = re.compile(r"\..+\.[0-9a-f]{12}\.tmp\Z")
_LARGEST_CONFIG = 1024 * 1024


@dataclass(frozen=True)
class UnitState:
    """A unit as systemd knows it, or the instances of a template together."""

    name: str
    running: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Account:
    """A user of ours by name: there, and made by us or not."""

    name: str
    ours: bool


@dataclass(frozen=True)
class Found:
    """``record`` is what the deploy noted of before; without it nobody knows, and what is at our places is ours.

    ``remove`` are files and links that go, ``restore`` those that become again what they were. ``others`` are paths
    that somebody else wrote or edited. ``state`` are trees that exist, ``directories`` those that may go when empty,
    innermost first; ``held`` is what of the operator's is in those trees. ``wants`` are the links that enable our
    units. ``kept_records``: there is a place for records.
    """

    record: Record | None = None
    units: tuple[UnitState, ...] = ()
    remove: tuple[str, ...] = ()
    restore: tuple[FileRecord, ...] = ()
    others: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    users: tuple[Account, ...] = ()
    groups: tuple[Account, ...] = ()
    levers: tuple[str, ...] = ()
    kept_records: bool = False
    off_command: str | None = None

    @property
    def anything(self) -> bool:
        """Whether there is anything of ours, or anything that says that there was."""
        accounts = [account for account in (*self.users, *self.groups) if account.ours]
        running = [unit for unit in self.units if unit.running or unit.failed]
        return bool(
            self.record
            or self.remove
            or self.restore
            or self.wants
            or self.state
            or accounts
            or running
            or self.levers
            or self.kept_records
        )


@dataclass
class _Sorting:
    remove: list[str] = field(default_factory=list)
    restore: list[FileRecord] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def look(footprint: Footprint, root: str = "/", system: System | None = None) -> Found:
    """Read the host. Raises :class:`KtlsError`: ``record_unreadable``, ``no_systemd``."""
    system = system or System()
    record = originals.load(originals.RELEASE, root)
    levers = originals.levers(root)
    known = _of_levers(levers, root)
    sorting = _Sorting()
    for found in record.files if record else ():
        _sort_recorded(found, sorting, root)
    recorded = {found.original.path for found in record.files} if record else set()
    named = [*footprint.files, *([] if record else _probe_files(root))]
    for path in named:
        if path not in recorded and os.path.lexists(textfile.under(root, path)):
            _sort_named(path, sorting, root)
    sorting.others += [
        path for path in footprint.guests if path not in recorded and os.path.lexists(textfile.under(root, path))
    ]
    for path, target in footprint.links:
        _sort_link(path, target, sorting, root)
    ours = {*recorded, *footprint.files, *footprint.guests, *footprint.directories, *known}
    for directory in footprint.directories:
        _sort_strangers(directory, ours, sorting, root)
    for unit in footprint.units:
        for place in _UNIT_PLACES:
            _sort_strangers(f"{place}/{unit}.d", known, sorting, root)
    trees = [path for pattern in footprint.state for path in _matching(pattern, root)]
    return Found(
        record=record,
        units=_units(footprint.units, system, root),
        remove=tuple(dict.fromkeys(sorting.remove)),
        restore=tuple(sorting.restore),
        others=tuple(sorted(set(sorting.others))),
        wants=_wants(footprint.units, root),
        state=tuple(trees),
        held=tuple(sorted(theirs.look(trees, root))),
        directories=_directories(footprint, record, root),
        users=tuple(_accounts(footprint.users, "users", record, system)),
        groups=tuple(_accounts(footprint.groups, "groups", record, system)),
        levers=levers,
        kept_records=os.path.lexists(textfile.under(root, originals.DIRECTORY)),
        off_command=_off_command(root),
    )


def _sort_recorded(found: FileRecord, sorting: _Sorting, root: str) -> None:
    path = found.original.path
    if not os.path.lexists(textfile.under(root, path)) and found.original.content is None:
        return
    try:
        if originals.as_it_was(found.original, root):
            return
        ours = originals.as_left(found, root)
    except KtlsError:
        ours = False  # a link, or no file at all, where we had put one
    if not ours:
        sorting.others.append(path)
    elif found.original.content is None:
        sorting.remove.append(path)
    else:
        sorting.restore.append(found)


def _sort_named(path: str, sorting: _Sorting, root: str) -> None:
    regular = stat.S_ISREG(os.lstat(textfile.under(root, path)).st_mode)
    (sorting.remove if regular else sorting.others).append(path)


def _sort_link(path: str, target: str, sorting: _Sorting, root: str) -> None:
    where = textfile.under(root, path)
    if not os.path.lexists(where):
        return
    ours = os.path.islink(where) and os.readlink(where) == target
    (sorting.remove if ours else sorting.others).append(path)


def _sort_strangers(directory: str, known: set[str], sorting: _Sorting, root: str) -> None:
    """Sort what is in a directory of ours and is none of ours."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(textfile.under(root, directory))):
            path = f"{directory}/{name}"
            if path not in known and not any(other.startswith(f"{path}/") for other in known):
                (sorting.remove if _LITTER.match(name) else sorting.others).append(path)


def _probe_files(root: str) -> list[str]:
    """Return the file for self-tests in the served directory, where no record names it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        with open(textfile.under(root, "/etc/ktls/sidecar.json"), encoding="utf-8") as stream:
            served = str(json.loads(stream.read(_LARGEST_CONFIG)).get("root", ""))
        path = os.path.join(served, PROBE_NAME)
        if served.startswith("/") and originals.digest_of(originals.read(path, root).content) == EXPECTED_SHA256:
            return [path]
    return []


def _of_levers(levers: tuple[str, ...], root: str) -> set[str]:
    """Return the paths that records of levers name: these are put back by the levers."""
    paths: set[str] = set()
    for lever in levers:
        with contextlib.suppress(KtlsError):
            record = originals.load(lever, root)
            for found in record.files if record else ():
                paths.update((found.original.path, *found.made))
    return paths


def _units(names: tuple[str, ...], system: System, root: str) -> tuple[UnitState, ...]:
    """Ask systemd in one question; of a template, what was started from it."""
    asked = [name.replace("@.", "@*.") for name in names]
    done = system.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager", *asked)
    if done.rc != 0:
        raise KtlsError("no_systemd", f"systemd does not answer on this host ({done.reason}); it is needed")
    states: dict[str, UnitState] = {}
    for line in done.stdout.splitlines():
        fields = line.replace("●", " ").split()
        if len(fields) >= 3:
            running = fields[2] not in ("inactive", "failed")
            states[fields[0]] = UnitState(fields[0], running, fields[2] == "failed")
    return tuple(states[name] for name in sorted(states))


def _wants(units: tuple[str, ...], root: str) -> tuple[str, ...]:
    """Return the links that enable units of ours, wherever they are wanted (systemd.unit(5), [Install])."""
    found = []
    for place in _UNIT_PLACES:
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(textfile.under(root, place))):
                if _WANTED.match(name):
                    paths = [f"{place}/{name}/{unit}" for unit in units]
                    found += [path for path in paths if os.path.islink(textfile.under(root, path))]
    return tuple(found)


def _matching(pattern: str, root: str) -> list[str]:
    if "*" not in pattern:
        return [pattern] if os.path.lexists(textfile.under(root, pattern)) else []
    base = textfile.under(root, "/")
    return sorted(f"/{os.path.relpath(path, base)}" for path in glob.glob(glob.escape(base) + pattern.lstrip("/")))


def _directories(footprint: Footprint, record: Record | None, root: str) -> tuple[str, ...]:
    """Return those that exist and are ours: by name, or because a deploy had to make them."""
    made = [directory for found in (record.files if record else ()) for directory in found.made]
    made += [str(path) for path in (record.facts.get("made", ()) if record else ())]
    drop_ins = [f"{place}/{unit}.d" for place in _UNIT_PLACES for unit in footprint.units]
    wanted = {*footprint.directories, *made, *drop_ins}
    found = [path for path in wanted if os.path.isdir(textfile.under(root, path))]
    return tuple(sorted(found, key=lambda path: (-path.count("/"), path)))


def _accounts(names: tuple[str, ...], kind: str, record: Record | None, system: System) -> list[Account]:
    has = system.has_user if kind == "users" else system.has_group
    facts: dict[str, Any] = record.facts if record else {"late": True}
    return [Account(name, _made_by_us(name, kind, facts, system)) for name in names if has(name)]


def _made_by_us(name: str, kind: str, facts: dict[str, Any], system: System) -> bool:
    if not facts.get("late"):
        return name not in facts.get(kind, ())
    # Nobody noted it. Ours have no shell and no home of their own, and a description that says so.
    user = "ktls-agent" if name == "ktls" else name
    return system.has_user(user) and looks_ours(user)


def _off_command(root: str) -> str | None:
    path = "/usr/local/sbin/ktls-off"
    return path if os.access(textfile.under(root, path), os.X_OK) else None


def looks_ours(name: str) -> bool:
    """Return whether a user is as ``ktls.sysusers.conf`` makes it."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return False
    return entry.pw_gecos.startswith("kTLS ") and entry.pw_dir == "/" and entry.pw_shell.endswith("/nologin")
