# SPDX-License-Identifier: Apache-2.0
"""Root's helper of datapath ``service``: what it takes from the agent's configuration, and the flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.helper import service
from ktls_host.errors import KtlsError
from ktls_host.service import settings, switch
from ktls_host.service.switch import Asked

UNIT = "web.service"
GIVEN = {"unit": UNIT, "backend": "gnutls", "restart_ok": True}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Asked]]:
    """What was done to the host."""
    found: list[tuple[str, Asked]] = []

    def act(verb: str) -> Any:
        def noted(asked: Asked, root: str) -> dict[str, Any]:
            found.append((verb, asked))
            return {}

        return noted

    monkeypatch.setattr(switch, "on", act("on"))
    monkeypatch.setattr(switch, "off", act("off"))
    return found


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "run/ktls").mkdir(parents=True)
    (tmp_path / "service.json").write_text(json.dumps(GIVEN))
    return str(tmp_path / "service.json")


ASKED = Asked(UNIT, "gnutls", True, taken=True)


def test_unit_and_consent_are_roots_word(done: list[tuple[str, Asked]], path: str, tmp_path: Path) -> None:
    service.on(path, str(tmp_path))
    service.off(path, str(tmp_path))
    assert done == [("on", ASKED), ("off", ASKED)]


@pytest.mark.parametrize("flag", ["run/ktls/off", "run/ktls/lapsed", "var/lib/ktls/off"])
def test_nothing_is_switched_on_under_a_flag(
    done: list[tuple[str, Asked]], path: str, tmp_path: Path, flag: str
) -> None:
    (tmp_path / flag).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / flag).touch()
    with pytest.raises(KtlsError) as caught:
        service.on(path, str(tmp_path))
    assert caught.value.code == "off_latched"
    assert done == []
    service.off(path, str(tmp_path))
    assert done == [("off", ASKED)]


def test_a_flag_that_comes_up_meanwhile_takes_it_back(
    done: list[tuple[str, Asked]], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(asked: Asked, root: str) -> dict[str, Any]:
        done.append(("on", asked))
        (tmp_path / "run/ktls/off").touch()
        return {}

    monkeypatch.setattr(switch, "on", slowly)
    with pytest.raises(KtlsError) as caught:
        service.on(path, str(tmp_path))
    assert caught.value.code == "off_latched"
    assert [verb for verb, _ in done] == ["on", "off"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "unit, backend and restart_ok"),
        ({}, "unit, backend and restart_ok"),
        ({**GIVEN, "root": "/"}, "nothing else"),
        ({**GIVEN, "unit": "web"}, "full name"),
        ({**GIVEN, "unit": "../x.service"}, "full name"),
        ({**GIVEN, "unit": "x\ny.service"}, "full name"),
        ({**GIVEN, "backend": "auto"}, "backend is not one of"),
        ({**GIVEN, "restart_ok": 1}, "restart_ok"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, raw: object, said: str) -> None:
    (tmp_path / "service.json").write_text(json.dumps(raw))
    with pytest.raises(KtlsError, match=said) as caught:
        service.off(str(tmp_path / "service.json"), str(tmp_path))
    assert caught.value.code == "bad_config"


def test_what_the_shell_is_told() -> None:
    assert settings.for_shell(GIVEN).decode().splitlines() == [
        "kind=service",
        f"unit={UNIT}",
        f"on=/etc/systemd/system/{UNIT}.d/zz-ktls-fleet-gnutls.conf",
        "restart=yes",
    ]
    assert b"restart=no\n" in settings.for_shell({**GIVEN, "restart_ok": False})
