# SPDX-License-Identifier: Apache-2.0
"""Carry the steps out. Each can be repeated after any interruption."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable

from .. import files, originals, textfile
from ..errors import KtlsError
from ..release import System
from .plan import Step


def apply(steps: Iterable[Step], root: str, system: System) -> list[str]:
    """Return what stays after all. Raises :class:`KtlsError`: ``command_failed``, ``write_failed``, ``user_busy``."""
    stays: list[str] = []
    for step in steps:
        stays += _do(step, root, system)
    return stays


def _do(step: Step, root: str, system: System) -> list[str]:
    try:
        return _HANDLERS[step.kind](step, root, system)
    except OSError as error:
        message = f"{step.words}: {error.strerror}; what went before is gone: mend it, and repeat"
        raise KtlsError("write_failed", message) from error


def _unlink(step: Step, root: str, system: System) -> list[str]:
    path = textfile.under(root, step.args[0])
    files.sweep(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if os.path.dirname(path).endswith((".wants", ".requires", ".upholds")):
        # As systemctl disable does: what it made for its links goes with the last of them.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))
    return []


def _restore(step: Step, root: str, system: System) -> list[str]:
    record = originals.load(originals.RELEASE, root)
    originals.restore_files(originals.Restoration(record, back=step.args, root=root))
    return []


def _run(step: Step, root: str, system: System) -> list[str]:
    done = system.run(*step.args)
    if done.rc != 0:
        command = " ".join(step.args)
        code = "user_busy" if step.args[0] == "userdel" and done.rc == 8 else "command_failed"
        raise KtlsError(code, f"`{command}` failed: {done.reason}; run it by hand to see more, then repeat")
    return []


def _try(step: Step, root: str, system: System) -> list[str]:
    system.run(*step.args)
    return []


def _group(step: Step, root: str, system: System) -> list[str]:
    """Remove the group of a user who is gone, where userdel has left it (USERGROUPS_ENAB no, login.defs(5))."""
    return (
        _run(Step("run", step.target, step.detail, ("groupdel", *step.args)), root, system)
        if (system.has_group(step.args[0]))
        else []
    )


def _tree(step: Step, root: str, system: System) -> list[str]:
    path = textfile.under(root, step.args[0])
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    return []


def _rmdir(step: Step, root: str, system: System) -> list[str]:
    path = textfile.under(root, step.args[0])
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(path):
            return [f"{step.args[0]}: others have files in it"]
        os.rmdir(path)
    return []


def _record(step: Step, root: str, system: System) -> list[str]:
    """The last step: from here on nothing says that we were here."""
    originals.forget(originals.Restoration(originals.load(originals.RELEASE, root), root=root))
    return []


def sweep_levers(root: str) -> list[str]:
    """Remove the directory of the records, when none is left."""
    directory = textfile.under(root, originals.DIRECTORY)
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(directory):
            return [f"{originals.DIRECTORY}: records are left in it"]
        os.rmdir(directory)
    return []


_HANDLERS: dict[str, Callable[[Step, str, System], list[str]]] = {
    "unlink": _unlink,
    "restore": _restore,
    "run": _run,
    "try": _try,
    "group": _group,
    "tree": _tree,
    "rmdir": _rmdir,
    "record": _record,
}
