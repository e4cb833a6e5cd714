# SPDX-License-Identifier: Apache-2.0
"""With signers set, nothing of a release is run or sent before it is known to be theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.action import ktls_release

from .test_signed import keys, release

__all__ = ["keys", "release"]
ROOT = Path(__file__).resolve().parents[3]


class Action(ktls_release.ActionModule):  # type: ignore[misc]
    """The action on a control node; what it would run or send is noted."""

    def __init__(self, **arguments: Any) -> None:
        self._task = SimpleNamespace(args={"components": ["agent"], **arguments}, check_mode=True)
        self.sent: list[dict[str, Any]] = []

    def _installed(self, release: dict[str, str]) -> bool:
        return True

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        self.sent.append(arguments)
        return {"changed": True}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the action ran on the control node."""
    commands: list[list[str]] = []

    def output(command: list[str]) -> str:
        commands.append(command)
        return '{"version": "1.0"}'

    monkeypatch.setattr(ktls_release, "_output", output)
    monkeypatch.setattr(ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
    return commands


def test_signed_artefact_is_installed(release: Path, keys: Path, ran: list[list[str]]) -> None:
    action = Action(artefact=str(release / "ktls-1.0+gabc.pyz"), signers=str(keys / "signers"))
    assert action.run(None, {}) == {"changed": True}
    assert action.sent[0]["version"] == "1.0"
    assert "signers" not in action.sent[0]


@pytest.mark.parametrize("why", ["tampered", "stranger", "no artefact"])
def test_anything_else_is_neither_run_nor_sent(release: Path, keys: Path, ran: list[list[str]], why: str) -> None:
    if why == "tampered":
        (release / "ktls-1.0+gabc.pyz").write_bytes(b"changed")
    artefact = {} if why == "no artefact" else {"artefact": str(release / "ktls-1.0+gabc.pyz")}
    action = Action(signers=str(keys / ("of-another" if why == "stranger" else "signers")), **artefact)
    result = action.run(None, {})
    codes = {"tampered": "not_in_release", "stranger": "bad_signature", "no artefact": "release_not_signed"}
    assert (result["failed"], result["error_code"]) == (True, codes[why])
    assert (ran, action.sent) == ([], [])


def test_without_signers_nothing_is_asked(release: Path, ran: list[list[str]]) -> None:
    (release / "SHA256SUMS").unlink()
    assert Action(artefact=str(release / "ktls-1.0+gabc.pyz")).run(None, {}) == {"changed": True}


def test_every_role_that_installs_passes_them_on() -> None:
    for path in (ROOT / "roles").glob("*/tasks/main.yml"):
        for task in yaml.safe_load(path.read_text()):
            given = task.get("ktls.fleet.ktls_release")
            if given is not None:
                role = path.parts[-3]
                assert given["signers"] == f"{{{{ {role}_signers | default(omit, true) }}}}", role
                defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())
                assert defaults[f"{role}_signers"] == "{{ ktls_release_signers | default('') }}"
