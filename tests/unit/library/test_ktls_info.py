# SPDX-License-Identifier: Apache-2.0
"""ktls_info returns what ktls_host.info collects, documents all of it, and writes one file if that is asked for."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import files, info, release_record, textfile
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError

Run = Callable[..., dict[str, Any]]
SYSTEMS = Path(__file__).parents[2] / "fixtures" / "host" / "systems"
FACTS = "etc/ansible/facts.d/ktls.fact"


def recorded(system: str = "debian13") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SYSTEMS / system / "info.json").read_text())
    return found


def untried() -> dict[str, Any]:
    """The same host when the module was not loaded for a trial."""
    found = recorded()
    found["trial"] = {"loaded_module": False, "left_loaded": False, "why": None}
    found["openssl"]["proof"] = {"done": False, "why": "module tls is not loaded", "library": None, "cells": []}
    found["ulp"] = {"asked": False, "why": "module tls is not loaded", "ciphers": {}, "rekey": {}}
    for phase in ("tx", "rx", "hw"):
        found["phases"][phase] = {"verdict": "unknown", "reasons": [], "notes": []}
    return found


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Play a recorded host; returns what was asked of it."""
    asked: list[bool] = []

    def collect(*, load_module: bool = False) -> dict[str, Any]:
        asked.append(load_module)
        return recorded() if load_module else untried()

    monkeypatch.setattr(info, "collect", collect)
    return asked


@pytest.fixture
def place(tmp_path: Path, reroot: Callable[[Any, str], None]) -> Path:
    """Files go below this directory."""
    reroot(files, str(tmp_path))
    reroot(textfile, str(tmp_path))
    reroot(release_record, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("check", [True, False])
def test_collects_and_changes_nothing(run: Run, check: bool) -> None:
    result = run("ktls_info", _check=check)
    assert (result["changed"], result["diff"]) == (False, [])
    assert set(result["info"]["phases"]) == set(info.PHASES)


DOCUMENTED = yaml.safe_load(importlib.import_module("ansible_collections.ktls.fleet.plugins.modules.ktls_info").RETURN)
KEYS = DOCUMENTED["info"]["contains"]


def test_every_key_is_documented(run: Run) -> None:
    # The recordings are older than the look at the CPUs.
    assert set(KEYS) == set(run("ktls_info")["info"]) == set(recorded()) | {"cpu"}


@pytest.mark.parametrize("system", ["debian12", "debian13", "debian13-backports"])
@pytest.mark.parametrize(
    "key", ["kernel_config", "distribution", "tls_module", "ulp", "trial", "openssl", "gnutls", "policy"]
)
def test_samples_look_like_the_real_thing(system: str, key: str) -> None:
    assert set(KEYS[key]["sample"]) == set(recorded(system)[key])


def test_samples_of_lists_and_what_is_deeper() -> None:
    found = recorded()
    proof = KEYS["openssl"]["sample"]["proof"]
    assert set(proof) == set(found["openssl"]["proof"])
    assert set(proof["cells"][0]) == set(found["openssl"]["proof"]["cells"][0])
    assert set(proof["cells"][0]["key_update"]["tx"]) == set(found["openssl"]["proof"]["cells"][0]["key_update"]["tx"])
    assert set(KEYS["kernel_config"]["sample"]["options"]) == set(found["kernel_config"]["options"])
    assert set(KEYS["nics"]["sample"][0]) <= set(found["nics"][0])
    assert set(KEYS["phases"]["sample"]["tx"]) == set(found["phases"]["tx"])
    (reason,) = KEYS["phases"]["sample"]["tx"]["reasons"]
    assert set(reason) == set(found["phases"]["hw"]["reasons"][0])


@pytest.mark.parametrize(
    ("arguments", "check", "load"),
    [
        ({}, False, False),
        ({"load_module": True}, False, True),
        ({"load_module": False}, False, False),
        ({"load_module": True}, True, False),
        ({"load_module": True, "cache_facts": True}, True, False),
    ],
)
def test_the_module_is_loaded_only_when_asked_and_never_in_check_mode(
    run: Run, collected: list[bool], place: Path, arguments: dict[str, bool], check: bool, load: bool
) -> None:
    result = run("ktls_info", _check=check, **arguments)
    assert collected == [load]
    assert result["info"]["openssl"]["proof"]["done"] is load


@pytest.mark.usefixtures("collected")
def test_facts_are_written_once(run: Run, place: Path) -> None:
    arguments = {"load_module": True, "cache_facts": True}
    first = run("ktls_info", **arguments)
    assert first["changed"] is True
    content = (place / FACTS).read_text()
    assert json.loads(content) == info.cached_facts(recorded())
    assert ((place / FACTS).stat().st_mode & 0o7777, content[-1]) == (0o644, "\n")
    again = run("ktls_info", **arguments)
    assert (again["changed"], again["diff"]) == (False, [])
    assert (place / FACTS).read_text() == content


@pytest.mark.usefixtures("collected")
def test_without_being_asked_no_file_is_written(run: Run, place: Path) -> None:
    assert run("ktls_info", load_module=True)["changed"] is False
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("collected")
def test_check_mode_says_what_would_be_written(run: Run, place: Path) -> None:
    """Where nothing has to be loaded, it is exactly what is written then."""
    predicted = run("ktls_info", _check=True, cache_facts=True)
    assert predicted["changed"] is True and list(place.iterdir()) == []
    (diff,) = predicted["diff"]
    assert (diff["before"], diff["after_header"]) == ("", "/etc/ansible/facts.d/ktls.fact 0644 root:root")
    done = run("ktls_info", cache_facts=True)
    assert (done["changed"], done["diff"]) == (True, predicted["diff"])
    assert (place / FACTS).read_text() == diff["after"]
    assert run("ktls_info", _check=True, cache_facts=True)["changed"] is False


@pytest.mark.usefixtures("collected")
def test_check_mode_does_not_take_facts_of_a_trial_for_outdated(run: Run, place: Path) -> None:
    """It may not load the module, so it cannot know better than the trial that wrote them."""
    arguments = {"load_module": True, "cache_facts": True}
    run("ktls_info", **arguments)
    assert run("ktls_info", **arguments)["changed"] is False
    predicted = run("ktls_info", _check=True, **arguments)
    assert (predicted["changed"], predicted["diff"]) == (False, [])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kernel",), "6.12.999"),
        (("kernel_config", "options"), {"CONFIG_TLS": "y"}),
        (("tls_module", "blocked_by"), ["/etc/modprobe.d/x.conf"]),
        (("openssl", "version"), "OpenSSL 9.9.9"),
    ],
)
def test_facts_of_a_trial_do_not_outlive_the_host_that_they_are_about(
    run: Run, monkeypatch: pytest.MonkeyPatch, place: Path, path: tuple[str, ...], value: Any
) -> None:
    found = recorded()
    monkeypatch.setattr(info, "collect", lambda *, load_module: found)
    run("ktls_info", cache_facts=True)
    changed = untried()
    member = changed
    for name in path[:-1]:
        member = member[name]
    member[path[-1]] = value
    monkeypatch.setattr(info, "collect", lambda *, load_module: changed)
    assert run("ktls_info", cache_facts=True)["changed"] is True
    facts = json.loads((place / FACTS).read_text())
    assert facts["openssl"]["done"] is False and facts["phases"]["tx"]["verdict"] == "unknown"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"openssl": {"done": true}}', '{"openssl": 1}'])
@pytest.mark.usefixtures("collected")
def test_a_broken_file_of_facts_is_replaced(run: Run, place: Path, text: str) -> None:
    (place / FACTS).parent.mkdir(parents=True)
    (place / FACTS).write_text(text)
    assert run("ktls_info", cache_facts=True)["changed"] is True
    assert json.loads((place / FACTS).read_text()) == info.cached_facts(untried())


@pytest.mark.usefixtures("collected")
def test_a_difference_is_shown(run: Run, place: Path) -> None:
    (place / FACTS).parent.mkdir(parents=True)
    (place / FACTS).write_text('{"kernel": "6.1"}\n')
    (diff,) = run("ktls_info", load_module=True, cache_facts=True)["diff"]
    assert diff["before"] == '{"kernel": "6.1"}\n'
    assert json.loads(diff["after"])["kernel"] == recorded()["kernel"]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.usefixtures("collected")
def test_a_place_that_is_not_safe_is_refused(run: Run, place: Path, check: bool) -> None:
    (place / FACTS).parent.mkdir(parents=True)
    (place / FACTS).symlink_to("/etc/passwd")
    result = run("ktls_info", _check=check, cache_facts=True)
    assert result["error_code"] == "symlink_in_the_way" and "ktls.fact" in result["msg"]
    assert (place / FACTS).is_symlink()


@pytest.mark.parametrize("left", [True, False])
def test_a_module_left_loaded_is_a_change(run: Run, monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    found = recorded()
    found["trial"] = {"loaded_module": True, "left_loaded": left, "why": None}
    monkeypatch.setattr(info, "collect", lambda *, load_module: found)
    assert run("ktls_info", load_module=True)["changed"] is left


def test_failure_has_a_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*, load_module: bool) -> None:
        raise KtlsError("unsafe_directory", "/etc is writable by everybody")

    monkeypatch.setattr(info, "collect", fail)
    result = run("ktls_info")
    assert (result["error_code"], result["msg"]) == ("unsafe_directory", "/etc is writable by everybody")
