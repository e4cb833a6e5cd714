# SPDX-License-Identifier: Apache-2.0
"""The section guards of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_agent.guards.config import parse
from ktls_agent.guards.rules import RULES
from ktls_host.errors import KtlsError


def test_defaults_are_those_of_the_rules() -> None:
    config = parse({}, "test")
    assert config.rules == {rule.name: rule.default for rule in RULES}
    assert (config.interval_s, config.probe_interval_s, config.dry_run) == (5.0, 30.0, False)


def test_one_value_changes_one_value() -> None:
    config = parse({"dry_run": True, "rules": {"decrypt_error": {"events": 5, "enabled": False}}}, "test")
    setting = config.rules["decrypt_error"]
    assert (setting.events, setting.enabled, setting.ratio, config.dry_run) == (5.0, False, 0.1, True)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "guards is not an object"),
        ({"x": 1}, "unknown key guards.x"),
        ({"interval_s": 0}, "guards.interval_s"),
        ({"probe_interval_s": True}, "guards.probe_interval_s"),
        ({"dry_run": 1}, "guards.dry_run"),
        ({"keep": 0}, "guards.keep"),
        ({"rules": {"nonsense": {}}}, "unknown key guards.rules.nonsense; there are probe_damaged"),
        ({"rules": {"too_big": 1}}, "guards.rules.too_big is not an object"),
        ({"rules": {"too_big": {"threshold": 1}}}, "unknown key guards.rules.too_big.threshold"),
        ({"rules": {"too_big": {"events": 0}}}, "guards.rules.too_big.events"),
        ({"rules": {"too_big": {"events": float("nan")}}}, "guards.rules.too_big.events"),
        ({"rules": {"too_big": {"ratio": 1.5}}}, "from 0 to 1"),
        ({"rules": {"too_big": {"windows": 1.5}}}, "whole number"),
        ({"rules": {"too_big": {"enabled": "no"}}}, "true or false"),
    ],
)
def test_nonsense_is_named(raw: Any, said: str) -> None:
    with pytest.raises(KtlsError, match="test: ") as caught:
        parse(raw, "test")
    assert said in caught.value.message
