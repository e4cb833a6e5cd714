# SPDX-License-Identifier: Apache-2.0
"""What there is to do for one target, as data: check mode shows it, the real run carries it out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..commands import Runner
from ..errors import KtlsError
from ..files import FileChange
from ..originals import Adoption, Restoration
from ..steps import Step
from . import crypto_policies, services
from .places import Place
from .targets import Target

RELOAD = ("systemctl", "daemon-reload")


@dataclass(frozen=True)
class Part:
    """``changing``: what programs read will be another after it, so whoever runs now is out of date.

    ``visible`` are paths that go first when taking back, because they make the others count.
    """

    target: Target
    steps: tuple[Step, ...] = ()
    diffs: tuple[dict[str, str], ...] = ()
    files: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    changing: bool = False
    reload: bool = False
    regenerate: bool = False
    effective: dict[str, Any] = field(default_factory=dict)
    place: Place | None = None
    adoption: Adoption | None = None
    restoration: Restoration | None = None
    orphans: tuple[FileChange, ...] = ()
    visible: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Report:
    """What a run did, or in check mode would do; plain JSON types but for ``steps``."""

    steps: tuple[Step, ...]
    diff: tuple[dict[str, str], ...]
    files: tuple[str, ...]
    restart_required: tuple[str, ...]
    restarted: tuple[str, ...]
    effective: tuple[dict[str, Any], ...]
    left_alone: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the module's result."""
        return {
            "changed": bool(self.steps),
            "steps": [step.as_dict() for step in self.steps],
            "diff": list(self.diff),
            "files": list(self.files),
            "restart_required": list(self.restart_required),
            "restarted": list(self.restarted),
            "effective": list(self.effective),
            "left_alone": list(self.left_alone),
        }


def reload_step() -> Step:
    """Let systemd read its unit files again; running services go on."""
    return Step("daemon_reload", "let systemd read the unit files again", RELOAD)


def regenerate_step() -> Step:
    """Let crypto-policies generate what the libraries read."""
    return Step("regenerate", "generate the files of crypto-policies anew", crypto_policies.REGENERATE)


def restart_step(unit: str) -> Step:
    """Restart a service, by consent."""
    return Step("restart", f"restart {unit}", ("systemctl", "restart", "--", unit))


def reload_systemd(runner: Runner) -> None:
    """Raises :class:`KtlsError` ``reload_failed``."""
    result = runner.run(RELOAD)
    if result.rc:
        message = f"{' '.join(RELOAD)} failed ({result.reason}); mend what it complains of, then repeat"
        raise KtlsError("reload_failed", message)


def restart(unit: str, runner: Runner) -> str | None:
    """Restart and return why it does not run then, ``None`` when it does."""
    try:
        result = runner.run(restart_step(unit).argv)
    except KtlsError as error:
        return error.message
    return result.reason if result.rc else None


def note_end(parts: Iterable[Part], root: str) -> None:
    """Note when the change was complete, also for one that an earlier run did not bring to its end."""
    for part in parts:
        if part.changing or services.interrupted(part.target.lever, root):
            services.note_after(part.target.lever, root)
