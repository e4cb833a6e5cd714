# SPDX-License-Identifier: Apache-2.0
"""ktls_info returns what ktls_host.info collects, and documents all of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import info
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("check", [True, False])
def test_collects_and_changes_nothing(run: Callable[..., dict[str, Any]], check: bool) -> None:
    result = run("ktls_info", _check=check)
    assert result["changed"] is False
    assert set(result["info"]["phases"]) == set(info.PHASES)


def test_every_key_is_documented(run: Callable[..., dict[str, Any]]) -> None:
    module = importlib.import_module("ansible_collections.ktls.fleet.plugins.modules.ktls_info")
    documented = yaml.safe_load(module.RETURN)["info"]["contains"]
    found = run("ktls_info")["info"]
    assert set(documented) == set(found)
    for key in ("tls_module", "distribution"):
        assert set(documented[key]["sample"]) == set(found[key]), key
    assert set(documented["openssl"]["sample"]) == set(found["openssl"])


def test_failure_has_a_code(run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KtlsError("unsafe_directory", "/etc is writable by everybody")

    monkeypatch.setattr(info, "collect", fail)
    assert run("ktls_info")["error_code"] == "unsafe_directory"
