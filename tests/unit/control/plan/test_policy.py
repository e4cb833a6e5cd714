# SPDX-License-Identifier: Apache-2.0
"""The policy: what is not said keeps its default, and what cannot be meant is refused with what could be."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control.errors import ControlError
from ktls_control.plan.model import Soak
from ktls_control.plan.policy import _KEYS, Policy, Size, load, parse

EXAMPLE = Path(__file__).parents[4] / "playbooks/vars/policy.yml"


def refused(data: Any) -> str:
    with pytest.raises(ControlError) as caught:
        parse(data, "policy.yml")
    assert caught.value.code == "bad_policy"
    assert caught.value.message.startswith("policy.yml: ") and "\n" not in caught.value.message
    return caught.value.message.removeprefix("policy.yml: ")


def test_the_file_that_shows_every_key_is_the_default() -> None:
    assert load(EXAMPLE) == Policy() == parse(None, "nothing") == parse({}, "nothing")
    assert set(yaml.safe_load(EXAMPLE.read_text())["ktls_policy"]) == set(_KEYS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"wave": [1]}, "wave: there is no such key; did you mean waves?"),
        ({"soak": {"min_seconds": 3}}, "soak.min_seconds: there is no such key; did you mean soak.min_s?"),
        ({"gates": {"cpu_margn": 0.1}}, "gates.cpu_margn: there is no such key; did you mean gates.cpu_margin?"),
        ({"zzz": 1}, "zzz: there is no such key; known are approve,"),
        ({True: 1}, "True: there is no such key; known are"),
        ([], "ktls_policy: use a mapping of keys and values"),
        ({"soak": 3}, "soak: use a mapping of keys and values"),
        ({"waves": []}, "waves: []: use a list that is not empty"),
        ({"waves": "1"}, "waves: '1': use a list"),
        ({"waves": [0]}, 'waves: 0: use a count of 1 or more, or a percentage such as "25%"'),
        ({"waves": [True]}, "waves: True: use a count"),
        ({"waves": ["0%"]}, "waves: '0%': use a count"),
        ({"waves": ["101%"]}, "waves: '101%': use a count"),
        ({"waves": [{"sise": 1}]}, "waves: sise: there is no such key; did you mean size?"),
        ({"waves": [{"name": "x"}]}, "waves: an entry without size"),
        (
            {"waves": [{"size": 1, "soak": {"mins": 1}}]},
            "waves: soak.mins: there is no such key; did you mean soak.min_s?",
        ),
        (
            {"waves": [{"size": 1, "soak": {"min_s": "3h"}}]},
            "waves[1].soak.max_s: 1800 is less than min_s, 10800: raise it",
        ),
        ({"caps": {"rack": 0}}, 'caps.rack: 0: use a share such as "1/3"'),
        ({"caps": {"rack": "1/0"}}, "caps.rack: '1/0': use a share"),
        ({"caps": {"row": "1/3"}}, "caps.row: there is no such key; known are kernel, nic_model, rack"),
        (
            {"soak": {"min_s": "10 minutes"}},
            "soak.min_s: '10 minutes': use seconds, or a text such as 90s, 10m, 2h or 7d",
        ),
        ({"soak": {"min_s": -1}}, "soak.min_s: -1: use seconds"),
        ({"soak": {"min_s": float("nan")}}, "soak.min_s: nan: use seconds"),
        ({"soak": {"max_s": 60}}, "soak.max_s: 60 is less than min_s, 600: raise it"),
        ({"soak": {"min_bytes": 1.5}}, "soak.min_bytes: 1.5: use a whole number of 0 or more"),
        ({"gates": {"min_share": 99}}, "gates.min_share: 99: use a share from 0 to 1"),
        ({"gates": {"method": "off"}}, "gates.method: 'off': use one of switchback, connections, difference, none"),
        ({"gates": {"washout_s": 30}}, "gates.washout_s: 30 leaves nothing of a block of 30 s: lower it"),
        ({"failure_budget": -1}, "failure_budget: -1: use a count of 0 or more"),
        ({"approve": [0]}, "approve: 0: use a whole number of 1 or more"),
        ({"drill_required": "no"}, "drill_required: 'no': use true or false"),
        ({"headroom_limit": 85}, "headroom_limit: 85: use a share from 0.01 to 1"),
        ({"freezes": [{"start": "x", "end": "y"}]}, "freezes: 'x': use a time such as 2026-12-24T18:00:00+01:00"),
        (
            {"freezes": [{"start": "2026-12-24T18:00:00", "end": "2026-12-27T18:00:00+01:00"}]},
            "freezes: '2026-12-24T18:00:00': which time zone? give an offset",
        ),
        (
            {"freezes": [{"start": "2026-12-24T18:00:00+01:00", "end": "2026-12-24T17:00:00+00:00"}]},
            "freezes: it ends at 2026-12-24T17:00:00+00:00, which is not after its start",
        ),
        ({"freezes": [{"from": 1}]}, "freezes: {'from': 1}: use start, end and reason"),
    ],
)
def test_what_cannot_be_meant(data: Any, message: str) -> None:
    assert refused(data).startswith(message)


def test_sizes() -> None:
    assert [Size(count=3).of(100), Size(share=Fraction(1, 4)).of(10), Size(share=Fraction(1, 20)).of(3)] == [3, 2, 1]
    assert Size(count=0).of(100) == 0


def test_a_wave_takes_over_what_it_does_not_say() -> None:
    policy = parse(
        {"soak": {"min_s": "20m"}, "waves": [{"size": 2, "approve": True, "soak": {"max_s": "1h"}}, "50%"]}, "x"
    )
    first, second = policy.waves
    assert (first.size, first.approve, first.soak) == (Size(count=2), True, Soak(1200.0, 3600.0))
    assert (second.size, second.approve, second.soak) == (Size(share=Fraction(1, 2)), None, None)


def test_caps_are_exact() -> None:
    policy = parse({"caps": {"rack": "1/3", "kernel": "25%", "nic_model": 1}}, "x")
    assert [policy.cap(label) for label in ("rack", "kernel", "nic_model")] == [Fraction(1, 3), Fraction(1, 4), 1]


def test_times_of_yaml_and_texts_are_alike() -> None:
    bare, quoted = (
        parse(
            yaml.safe_load(f"freezes: [{{start: {q}2026-12-24T18:00:00+01:00{q}, end: {q}2026-12-25T00:00:00Z{q}}}]"),
            "x",
        )
        for q in ("", '"')
    )
    assert bare.freezes == quoted.freezes
    assert bare.freezes[0].start == "2026-12-24T18:00:00+01:00"


def test_a_file_may_be_bare_and_has_no_other_key(tmp_path: Path) -> None:
    path = tmp_path / "policy.yml"
    path.write_text("salt: other\n")
    assert load(path).salt == "other"
    path.write_text("ktls_policy: {salt: other}\nktls_waves: [1]\n")
    with pytest.raises(ControlError, match="ktls_waves: beside ktls_policy there is no other key"):
        load(path)
    path.write_text("a: [")
    with pytest.raises(ControlError, match="not YAML"):
        load(path)
    with pytest.raises(ControlError) as caught:
        load(tmp_path / "none")
    assert caught.value.code == "no_policy"
