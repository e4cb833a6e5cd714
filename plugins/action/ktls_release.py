# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_release``: build the release on the control node, send it only to hosts that lack it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control import signed
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError

#: Where the module puts a release (``LIB`` of ``ktls_host.release``).
_INSTALLED = "/usr/local/lib/ktls/{version}/ktls.pyz"
_ROOT = Path(__file__).resolve().parents[2]
#: In a published collection; in a clone there is none.
_SHIPPED = _ROOT / "agent" / "ktls.pyz"
#: For a collection that was built with sources: where it is installed may be another user's.
_CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / "ktls"
    / hashlib.sha256(str(_ROOT).encode()).hexdigest()[:12]
)


class ActionModule(ActionBase):
    """Wraps the module of the same name; adds ``src``, ``version`` and ``sha256``."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: the module's result."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("state", "present") == "absent":
            return self._module(arguments, task_vars)
        given, signers = arguments.pop("artefact", None), arguments.pop("signers", None)
        try:
            _check_signature(given, signers)
        except ControlError as error:
            return {"failed": True, "changed": False, "msg": error.message, "error_code": error.code}
        release = _artefact(given)
        arguments.update(version=release["version"], sha256=release["sha256"])
        if self._installed(release):
            return self._module(arguments, task_vars)
        # In check mode too, to a temporary place: what a release would change is in it.
        remote = self._connection._shell.join_path(self._make_tmp_path(), "ktls.pyz")
        self._transfer_file(release["path"], remote)
        # The module reads it as root; a fixup keeps it readable when the login user is another.
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        arguments["src"] = remote
        answer = self._module(arguments, task_vars)
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer

    def _installed(self, release: dict[str, str]) -> bool:
        """Whether the host holds this very release; a shell answers sooner than a module."""
        done = self._low_level_execute_command(f"sha256sum {_INSTALLED.format(version=release['version'])}")
        return bool(done["rc"] == 0 and done["stdout"].split()[:1] == [release["sha256"]])

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="ktls.fleet.ktls_release", module_args=arguments, task_vars=task_vars
        )
        return answer


def _check_signature(given: str | None, signers: str | None) -> None:
    """Nothing of a release is run before it is known whose it is. :raises ControlError: it is not the signers'."""
    if not signers:
        return
    if not given:
        raise ControlError(
            "release_not_signed",
            "signers are set, so only a signed release is installed: name its file (artefact), as it was fetched, with "
            f"{signed.SUMS} and {signed.SIGNATURE} beside it",
        )
    signed.verify(Path(given), Path(signers).expanduser())


def _artefact(given: str | None) -> dict[str, str]:
    """Path, version and digest of the release to install: a given file, the collection's own, or one built here."""
    path = Path(given) if given else _SHIPPED
    if given and not path.is_file():
        raise AnsibleActionFail(f"{path}: no such release file; leave `artefact` out to install that of this tree")
    if not path.is_file():
        path = _built()
    described = json.loads(_output([sys.executable, "-I", str(path), "version"]))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"version": described["version"], "sha256": digest, "path": str(path)}


def _built() -> Path:
    """The release, built from the sources of this tree."""
    path = (_CACHE if (_ROOT / "MANIFEST.json").exists() else _ROOT / "build") / "ktls.pyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Forks of one play come here at the same time: one builds, the others take what it built.
    with open(path.parent / ".ktls.pyz.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _output([sys.executable, str(_ROOT / "agent" / "build.py"), "--output", str(path)])
    return path


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise AnsibleActionFail(f"the release could not be made on the control node: {lines[-1]}")
    return done.stdout
