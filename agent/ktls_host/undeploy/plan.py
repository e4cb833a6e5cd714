# SPDX-License-Identifier: Apache-2.0
"""What there is to do, in order, from what was found. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import KtlsError
from .footprint import Footprint
from .found import Found

#: Goes first within one stop: what would start the rest again.
_STARTERS = (".socket", ".timer", ".path")


@dataclass(frozen=True)
class Step:
    """One thing to do. ``args`` are for :mod:`.apply`, ``detail`` for people."""

    kind: str
    target: str
    detail: str
    args: tuple[Any, ...] = ()

    @property
    def words(self) -> str:
        """One line."""
        return f"{self.target}: {self.detail}"


def refuse_others(found: Found, keep: bool) -> None:
    """Raise :class:`KtlsError` ``edited_meanwhile`` for what somebody else wrote or edited, unless it shall stay."""
    if found.others and not keep:
        named = ", ".join(found.others)
        message = (
            f"{named} was written or edited by somebody else; nothing was changed: move it away, or say that it shall "
            f"stay as it is (edited: keep), then repeat"
        )
        raise KtlsError("edited_meanwhile", message)


def refuse_held(found: Found) -> None:
    """Raise :class:`KtlsError` ``theirs_inside``: what goes as a whole tree has the operator's files or a mount in it.

    No wish changes that: once the configuration that names them has gone, nobody would know any more.
    """
    if found.held:
        named = ", ".join(found.held)
        message = (
            f"{named} is in a directory that would be removed with all that is in it; nothing was changed: move it"
            " somewhere else, or unmount it, deploy with its new place, then repeat"
        )
        raise KtlsError("theirs_inside", message)


def quiet(found: Found, footprint: Footprint) -> list[Step]:
    """Return how to end what writes to the audit trail, before that is copied."""
    return _stop(found, footprint.quiet)


def removal(found: Found, footprint: Footprint) -> list[Step]:
    """Return everything after the levers: what runs, what is enabled, files, users, and the record last."""
    steps = [Step("unlink", path, "no longer enabled", (path,)) for path in found.wants]
    steps += [Step("unlink", path, "remove", (path,)) for path in found.remove]
    units_gone = bool(found.wants) or any("/systemd/system/" in path for path in found.remove)
    if found.restore:
        paths = [record.original.path for record in found.restore]
        steps.append(Step("restore", ", ".join(paths), "put back as it was", found.restore))
        units_gone = units_gone or any("/systemd/system/" in path for path in paths)
    # Also after a run that ended right before this: what systemd still knows is on no disk any more.
    units_gone = units_gone or bool(found.units)
    if units_gone:
        steps.append(Step("run", "systemd", "read the units anew", ("systemctl", "daemon-reload")))
    failed = [unit.name for unit in found.units if unit.failed]
    if failed:
        steps.append(Step("try", "systemd", f"forget {', '.join(failed)}", ("systemctl", "reset-failed", *failed)))
    # A group that is nobody's first one goes by itself; those of users go with their users.
    shared = [group.name for group in found.groups if group.ours and group.name not in footprint.users]
    steps += [Step("run", name, "remove group", ("groupdel", name)) for name in shared]
    steps += [Step("run", user.name, "remove user", ("userdel", user.name)) for user in found.users if user.ours]
    steps += [
        Step("group", group.name, "remove group", (group.name,))
        for group in found.groups
        if group.ours and group.name in footprint.users
    ]
    steps += [Step("tree", path, "remove", (path,)) for path in found.state]
    steps += [Step("rmdir", path, "remove if it is empty", (path,)) for path in found.directories]
    if found.record is not None:
        steps.append(Step("record", "the record of the deploy", "remove"))
    return steps


def stop_rest(found: Found, ended: Iterable[str] = ()) -> list[Step]:
    """Return how to end everything of ours that runs; ``ended`` are units that are foretold to have ended by then."""
    over = set(ended)
    return _stop(found, tuple(unit.name for unit in found.units if not _template(unit.name, over)))


def left(found: Found) -> list[str]:
    """Return what stays and why, when it may."""
    said = [f"{path}: written or edited by somebody else" for path in found.others]
    accounts = [("user", account) for account in found.users] + [("group", account) for account in found.groups]
    said += [f"{kind} {account.name}: was here before us" for kind, account in accounts if not account.ours]
    return said


def diff(lines: Iterable[str]) -> list[dict[str, str]]:
    """Return what goes, in Ansible's form; contents are not shown, a key may be among them."""
    text = "".join(f"{line}\n" for line in lines)
    header = {"before_header": "of ktls-fleet on this host", "after_header": "nothing"}
    return [{**header, "before": text, "after": ""}] if text else []


def _stop(found: Found, names: Iterable[str]) -> list[Step]:
    wanted = set(names)
    running = [unit.name for unit in found.units if unit.running and _template(unit.name, wanted)]
    running.sort(key=lambda name: (not name.endswith(_STARTERS), name))
    if not running:
        return []
    return [Step("run", "systemd", f"stop {', '.join(running)}", ("systemctl", "stop", *running))]


def _template(name: str, wanted: set[str]) -> bool:
    before, at, rest = name.partition("@")
    return name in wanted or (bool(at) and f"{before}@.{rest.rpartition('.')[2]}" in wanted)
