# SPDX-License-Identifier: Apache-2.0
"""Run a module's ``main`` in this process, with arguments as Ansible gives them."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args

if TYPE_CHECKING:
    from collections.abc import Callable

COLLECTION = "ansible_collections.ktls.fleet.plugins"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function: module name and arguments to result; ``_check=True`` for check mode."""

    def call(name: str, *, _check: bool = False, **arguments: Any) -> dict[str, Any]:
        module = importlib.import_module(f"{COLLECTION}.modules.{name}")
        capsys.readouterr()
        given = {**arguments, "_ansible_check_mode": _check, "_ansible_diff": True}
        with patch_module_args(given), pytest.raises(SystemExit) as stopped:
            module.main()
        out = capsys.readouterr().out
        result: dict[str, Any] = json.loads(out)
        assert bool(result.get("failed")) == bool(stopped.value.code)
        if result.get("failed"):
            assert result["error_code"]
            assert "\n" not in result["msg"]
        return result

    return call
