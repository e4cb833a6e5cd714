# SPDX-License-Identifier: Apache-2.0
"""ktls_release hands its arguments on unchanged and says when only the file is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import release
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError

if TYPE_CHECKING:
    from collections.abc import Callable

WISH = {"version": "1.2.3", "sha256": "0" * 64, "components": ["agent"], "agent_config": {"probe": {"port": 8443}}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[release.DesiredRelease, bool]]:
    """Record what the module asks for; nothing is installed."""
    calls: list[tuple[release.DesiredRelease, bool]] = []

    def ensure(desired: release.DesiredRelease, *, check: bool = False) -> release.Result:
        calls.append((desired, check))
        return release.Result(changed=True, version="1.2.3", steps=["one"], started=["ktls-agent.service"])

    monkeypatch.setattr(release, "ensure", ensure)
    return calls


@pytest.mark.parametrize("check", [True, False])
def test_arguments_and_result(
    run: Callable[..., dict[str, Any]], asked: list[tuple[release.DesiredRelease, bool]], check: bool
) -> None:
    result = run("ktls_release", _check=check, src="/tmp/x.pyz", artefact="/control/x.pyz", **WISH)
    assert asked == [
        (
            release.DesiredRelease(
                src="/tmp/x.pyz",
                version="1.2.3",
                sha256="0" * 64,
                components=("agent",),
                agent_config={"probe": {"port": 8443}},
            ),
            check,
        )
    ]
    assert (result["changed"], result["version"], result["previous_version"]) == (True, "1.2.3", None)
    assert (result["steps"], result["started"], result["restarted"]) == (["one"], ["ktls-agent.service"], [])


def test_defaults_are_those_of_the_library(
    run: Callable[..., dict[str, Any]], asked: list[tuple[release.DesiredRelease, bool]]
) -> None:
    run("ktls_release", state="absent")
    assert asked[0][0] == release.DesiredRelease(state="absent")


@pytest.mark.parametrize(
    ("src", "code", "need"),
    [(None, "not_found", True), ("/tmp/x.pyz", "not_found", False), (None, "no_systemd", False)],
)
def test_missing_file_is_told_apart(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, src: str | None, code: str, need: bool
) -> None:
    def ensure(desired: release.DesiredRelease, *, check: bool = False) -> release.Result:
        raise KtlsError(code, "it is not there")

    monkeypatch.setattr(release, "ensure", ensure)
    result = run("ktls_release", **WISH, **({"src": src} if src else {}))
    assert (result["failed"], result["error_code"], result["need_artefact"]) == (True, code, need)
