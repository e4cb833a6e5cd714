# SPDX-License-Identifier: Apache-2.0
"""ktls_crypto_policy on a played host: arguments reach the lever, and its report and refusals reach Ansible."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import gnutls
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.policy import check, lever

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parents[1] / "host" / "policy"))
    import policyhost

NAME = "ktls_crypto_policy"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> policyhost.Host:
    played = policyhost.Host(tmp_path)
    played.debian("debian13")
    played.unit("web.service", "[Service]\nExecStart=/bin/web\n", libraries=("libssl.so.3",))
    monkeypatch.setattr(lever, "run", functools.partial(lever.run, runner=played, root=str(tmp_path)))
    monkeypatch.setattr(check, "openssl_directory", lambda: "/usr/lib/ssl")
    without = gnutls.GnutlsState("libgnutls.so.30", "3.8.9", False, "/etc/gnutls/config", None)
    monkeypatch.setattr(gnutls, "probe", lambda root="/": without)
    return played


@pytest.mark.parametrize(
    "wish",
    [
        {"backend": "openssl", "service": ["web"]},
        {"backend": "openssl", "service": ["web"], "restart_ok": True},
        {"backend": "openssl", "scope": "system"},
        {"backend": "gnutls", "scope": "system", "allow_inert": True},
    ],
    ids=["service", "restart", "system", "inert"],
)
def test_check_mode_then_there_and_back(
    host: policyhost.Host, run: Callable[..., dict[str, Any]], wish: dict[str, Any]
) -> None:
    before = host.snapshot()
    for state in ("present", "absent"):
        start = host.snapshot()
        predicted = run(NAME, _check=True, state=state, **wish)
        assert host.snapshot() == start, "check mode wrote something"
        real = run(NAME, state=state, **wish)
        assert real["changed"] is True
        for key in ("changed", "steps", "diff", "files", "restart_required", "restarted", "left_alone"):
            assert predicted[key] == real[key], key
        again = run(NAME, state=state, **wish)
        assert (again["changed"], again["steps"], again["diff"]) == (False, [], [])
        assert bool(real["files"]) == (state == "present")
        assert ("restart" in [step["code"] for step in real["steps"]]) == wish.get("restart_ok", False)
    assert host.snapshot() == before


def test_what_does_nothing_is_refused_and_else_warned_about(
    host: policyhost.Host, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    # Where Ansible goes with a warning depends on what else of it this process has loaded.
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: said.append(text))
    refused = run(NAME, backend="gnutls", scope="system")
    assert refused["error_code"] == "gnutls_without_ktls"
    done = run(NAME, backend="gnutls", scope="system", allow_inert=True)
    assert done["effective"][0]["built"] is False
    assert len(said) == 1 and "does nothing" in said[0]


def test_the_default_is_one_service(host: policyhost.Host, run: Callable[..., dict[str, Any]]) -> None:
    before = host.snapshot()
    assert run(NAME, backend="openssl")["error_code"] == "service_required"
    assert host.snapshot() == before


def test_edited_files(host: policyhost.Host, run: Callable[..., dict[str, Any]]) -> None:
    run(NAME, backend="openssl", scope="system")
    host.write("/etc/ssl/openssl.cnf", host.read("/etc/ssl/openssl.cnf") + "# by hand\n")
    wish = {"backend": "openssl", "scope": "system", "state": "absent"}
    assert run(NAME, **wish)["error_code"] == "edited_meanwhile"
    assert run(NAME, **wish, edited="keep")["left_alone"] == ["/etc/ssl/openssl.cnf"]


def test_each_service_is_named_once_for_all(host: policyhost.Host, run: Callable[..., dict[str, Any]]) -> None:
    done = run(NAME, backend="openssl", service=["web", "web.service"])
    assert [found["unit"] for found in done["effective"]] == ["web.service"]
    assert run(NAME, backend="openssl", service=["nosuch"])["error_code"] == "unknown_service"
