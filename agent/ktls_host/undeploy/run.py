# SPDX-License-Identifier: Apache-2.0
"""The whole of it, in two stages, so that the audit trail can be copied between them.

``prepare``: refuse what must be refused while nothing has changed, take the host to userspace, wait for its kTLS
connections, end the agent, and say what the trail is. ``remove``: everything else. A host that stops between them, or
anywhere inside one, is in userspace, and the next run goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import originals
from ..commands import Runner
from ..errors import KtlsError
from ..release import System
from . import apply, datapaths, levers, off, plan, trail, transient
from .footprint import Footprint, merged
from .footprints import ALL
from .found import Found, look

STAGES = ("all", "prepare", "remove")
AUDIT = ("verified", "copied", "none")


@dataclass(frozen=True)
class Desired:
    """``edited``: what stops it (refuse) or stays (keep). Times in seconds.

    ``copied`` is the digest of the trail that was copied; whether its chain has to be whole (``audit: verified``) is
    for who copies it.
    """

    stage: str = "all"
    edited: str = "refuse"
    drain_s: float = 60.0
    cut: bool = False
    restart_ok: bool = False
    audit: str = "verified"
    copied: str | None = None

    @property
    def keep(self) -> bool:
        """What somebody else edited stays."""
        return self.edited == "keep"


@dataclass
class Result:
    """What was done, or in check mode what would be. ``left`` is what stays, and why. ``audit``: the trail to copy."""

    changed: bool = False
    steps: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    drained: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the module's result."""
        return {name: getattr(self, name) for name in ("changed", "steps", "left", "diff", "drained", "audit")}


def ensure(
    desired: Desired,
    *,
    root: str = "/",
    check: bool = False,
    system: System | None = None,
    runner: Runner | None = None,
    parts: Sequence[Footprint] = ALL,
) -> Result:
    """Take it all away; with ``check``, only say what that takes.

    Raises :class:`KtlsError`: ``bad_request``, ``theirs_inside``, ``edited_meanwhile``, ``record_unreadable``,
    ``off_failed``, ``not_userspace``, ``not_drained``, ``audit_unreadable``, ``audit_not_copied``, ``no_systemd``,
    ``command_failed``, ``user_busy``, ``write_failed``, and those of each lever.
    """
    _check(desired)
    work = _Work(desired, root, system or System(), runner or Runner(), merged(tuple(parts)))
    found = work.look()
    if not found.anything:
        return Result(left=plan.left(found))
    wish = levers.Wish(desired.keep, desired.restart_ok)
    tools = levers.Tools(work.runner, root, work.system.sleep)
    # All refusals first: a host that is refused is as it was.
    plan.refuse_held(found)
    plan.refuse_others(found, desired.keep)
    levers.refuse_unreadable(found.levers)
    back = datapaths.take_away(wish, tools, check=True)
    back.add(levers.put_back(found.levers, wish, tools, check=True))
    audit = trail.read(root) if desired.audit != "none" else None
    if check:
        return work.predicted(found, back)
    result = Result()
    if desired.stage != "prepare":
        trail.refuse_lost(audit, desired.copied)
    if desired.stage != "remove":
        work.prepare(found, result)
    if desired.stage != "prepare":
        work.remove(result, wish, tools)
    return result


def _check(desired: Desired) -> None:
    for name, value, choices in (
        ("stage", desired.stage, STAGES),
        ("edited", desired.edited, ("refuse", "keep")),
        ("audit", desired.audit, AUDIT),
    ):
        if value not in choices:
            raise KtlsError("bad_request", f"{name} {value!r}: use {' or '.join(choices)}")
    if not 0 <= desired.drain_s <= 86400:
        raise KtlsError("bad_request", "drain_s: use a number of seconds from 0 to 86400")


@dataclass
class _Work:
    desired: Desired
    root: str
    system: System
    runner: Runner
    footprint: Footprint

    def look(self) -> Found:
        return look(self.footprint, self.root, self.system)

    def predicted(self, found: Found, back: levers.Report) -> Result:
        stops = [*plan.quiet(found, self.footprint), *plan.stop_rest(found, self.footprint.quiet)]
        by_systemd = transient.paths(found.units, self.root)
        later = replace(found, state=tuple(path for path in found.state if path not in by_systemd))
        removal = plan.removal(later, self.footprint)
        words = [*_off_words(found), *(step.words for step in stops), *back.steps, *(step.words for step in removal)]
        return Result(True, words, [*back.left, *plan.left(found)], [*back.diff, *plan.diff(words)])

    def prepare(self, found: Found, result: Result) -> None:
        """Userspace, no kTLS connection, and nobody who writes to the trail."""
        if found.off_command is not None or any(unit.running for unit in found.units):
            off.to_userspace(found.off_command, self.root, self.system)
            seen = off.drain(self.root, self.system, self.desired.drain_s, self.desired.cut)
            result.drained = {"by": seen.by, "ktls": seen.ktls}
            result.steps += _off_words(found)
        steps = plan.quiet(found, self.footprint)
        result.left += apply.apply(steps, self.root, self.system)
        result.steps += [step.words for step in steps]
        result.changed = bool(result.steps)
        copied = trail.read(self.root) if self.desired.audit != "none" else None
        result.audit = copied.as_dict() if copied else None

    def remove(self, result: Result, wish: levers.Wish, tools: levers.Tools) -> None:
        """Stop the rest, levers back, then files, users and the record."""
        found = self.look()
        stops = plan.stop_rest(found)
        apply.apply(stops, self.root, self.system)
        back = datapaths.take_away(wish, tools)
        back.add(levers.put_back(originals.levers(self.root), wish, tools))
        # A lever took away drop-ins of our own units; and what was stopped may have failed.
        found = self.look()
        steps = plan.removal(found, self.footprint)
        stays = apply.apply(steps, self.root, self.system)
        stays += apply.sweep_levers(self.root)
        result.steps += [*(step.words for step in stops), *back.steps, *(step.words for step in steps)]
        result.left += [*back.left, *plan.left(found), *stays]
        result.diff += [*back.diff, *plan.diff(result.steps)]
        result.changed = True


def _off_words(found: Found) -> list[str]:
    running = any(unit.running for unit in found.units)
    return ["datapath: userspace TLS, and wait for kTLS connections to end"] if found.off_command or running else []
