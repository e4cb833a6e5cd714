# SPDX-License-Identifier: Apache-2.0
"""Run a module's ``main`` in this process, with arguments as Ansible gives them."""

from __future__ import annotations

import importlib
import inspect
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


@pytest.fixture
def reroot(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Return a function that makes every function of a module which takes ``root`` use another directory for it."""

    def wrap(function: Any, root: str) -> Any:
        signature = inspect.signature(function)

        def there(*arguments: Any, **named: Any) -> Any:
            bound = signature.bind(*arguments, **named)
            bound.arguments["root"] = root
            return function(*bound.args, **bound.kwargs)

        return there

    def patch(module: Any, root: str) -> None:
        for name, function in vars(module).copy().items():
            if inspect.isfunction(function) and "root" in inspect.signature(function).parameters:
                monkeypatch.setattr(module, name, wrap(function, root))

    return patch
