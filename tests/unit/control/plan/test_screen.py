# SPDX-License-Identifier: Apache-2.0
"""What an operator reads: nobody is lost, and what is not known is not shown as if it were."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ktls_control.plan.build import build
from ktls_control.plan.model import Plan
from ktls_control.plan.policy import parse
from ktls_control.plan.screen import _percent, _span, draw

from ..test_preflight import info, reason
from .fleet import ASK, fleet, seen
from .test_build import HALF

FREEZE = {"start": "2027-01-15T18:00:00+01:00", "end": "2027-01-18T06:00:00+01:00", "reason": "[red]sale"}


def shown(plan: Plan, width: int = 160, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    draw(console, plan, **options)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def plan(count: int = 40, detect: Any = None, **policy: Any) -> Plan:
    return build(ASK, fleet(count), parse(policy, "policy"), detect)


def test_a_tree() -> None:
    text = shown(
        plan(waves=[{"size": 1, "name": "canary", "approve": True}, "50%"], freezes=[FREEZE]), written=Path("p.yml")
    )
    lines = text.splitlines()
    assert lines[0] == "ktls plan tx-20270115-080000   phase tx   fleet ktls_hosts-1a2b3c4d"
    assert lines[1].startswith("├── wave 1 canary   1 host   10 min   web")
    assert lines[1].endswith("   a person promotes it")
    assert lines[-2].startswith("p.yml: 40 of 40 hosts in ")
    assert lines[-1] == "next: ktls apply p.yml"
    for line in (
        "hosts     all with kernel 6.12.48, NIC virtio_net",
        "soak      10 min to 30 min, with 1.0 MB from each host",
        "caps      at most 1/3 of a rack, 1/2 of a NIC model, 1/2 of a kernel in one wave",
        "budget    no host may fail: the first one ends the run",
        "lease     31 min: a host that is not confirmed by then takes itself back",
        "everything back in userspace takes 30 % of CPU on web1, the worst; limit 85 %",
        "freeze    2027-01-15 18:00 +0100 to 2027-01-18 06:00 +0100 ([red]sale); never stops off",
        "sees      what harm a wave can tell from noise is not known",
    ):
        assert line in text


def test_a_file_is_not_promised_where_none_was_written() -> None:
    assert "next:" not in shown(plan())
    text = shown(build(ASK, {"web1": seen(drill=None)}, parse({}, "x")))
    assert text.splitlines()[-1] == "0 of 1 hosts can take tx: no plan was written"
    assert "wave" not in text and "expected" not in text


def test_effects_that_can_be_detected() -> None:
    found = {"cpu": 0.0731, "latency": None, "throughput": 0.25, "errors": 0.00123}
    text = shown(plan(detect=lambda *_asked: found))
    told = "CPU worse by 7.3 %, throughput worse by 25 %, failures of 0.12 % of connections; cannot judge p99"
    assert f"sees      {told}" in text
    assert "cannot judge CPU, p99" in shown(plan(detect=lambda *_asked: {"cpu": None, "latency": None}))


def test_waves_that_soak_otherwise_say_so() -> None:
    text = shown(plan(waves=[{"size": 1, "soak": {"min_s": "2h", "max_s": "3h", "min_connections": 5000}}, "100%"]))
    assert "soak      2 h to 3 h, with 1.0 MB from each host and 5,000 connections" in text
    assert "soak      10 min to 30 min, with 1.0 MB from each host" in text


def test_refusals_by_code_with_every_wording_and_one_cure() -> None:
    hosts = fleet(3)
    for number in range(10, 20):
        hosts[f"web{number}"] = seen(drill=None)
    for number, busy in ((20, 0.91), (21, 0.95), (22, 0.95)):
        hosts[f"web{number}"] = seen(cpu={"online": 8, "busy": busy}, evidence=HALF)
    hosts["web30"] = seen(
        answer=info("refused", reason("module_blocked", "blocked by [/etc]", "remove it")), drill=None
    )
    text = shown(build(ASK, hosts, parse({"headroom_ratio": 1}, "x")))
    for line in (
        "refused   14 hosts",
        "drill_missing   11 hosts   web[10-19,30]",
        "because   no drill of this host is on record\n",
        "no_headroom   3 hosts   web[20-22]",
        "needs 95 % of its CPUs in its busiest hour, more than 85 %   [2 hosts]",
        "needs 91 % of its CPUs in its busiest hour, more than 85 %   [1 host]",
        "because   blocked by [/etc]",
        "cure      remove it",
    ):
        assert line in text
    assert text.count("ktls drill; policy") == text.count("take load off the host") == 1
    assert text.index("drill_missing") < text.index("no_headroom") < text.index("module_blocked")


def test_a_large_fleet_is_shortened_unless_asked() -> None:
    large = plan(400)
    assert " more\n" in shown(large) or " more" in shown(large)
    assert max(len(line) for line in shown(large).splitlines()) <= 160
    every = shown(large, width=2000, hosts=True)
    assert " more" not in "".join(line for line in every.splitlines() if line.startswith("├── wave"))


def test_a_narrow_terminal_loses_nothing() -> None:
    text = "".join(part.strip("│├└─ ") + " " for part in shown(plan(), width=60).splitlines())
    assert "a host that is not confirmed by then takes itself back" in " ".join(text.split())


def test_unknown_headroom() -> None:
    unknown = plan()
    room = replace(unknown.headroom, worst_host=None, worst=None, unknown=40)
    assert "CPU with everything back in userspace is not known (limit 85 %)" in shown(replace(unknown, headroom=room))
    room = replace(unknown.headroom, unknown=3)
    assert "limit 85 %; 3 hosts unknown" in shown(replace(unknown, headroom=room))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45, "45 s"), (119.6, "2 min"), (600, "10 min"), (5400, "90 min"), (7200, "2 h"), (9000, "2 h 30 min"),
     (7199, "2 h"), (187200, "2 d 4 h"), (172800, "2 d")],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert _span(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.99, "99 %"), (0.075, "7.5 %"), (0.0001, "0.01 %"), (0.12345, "12.3 %"),
     (1.0, "100 %"), (0.999, "99.9 %"), (2.5, "250 %"), (12.0, "1200 %")],
)  # fmt: skip
def test_percents(share: float, text: str) -> None:
    assert _percent(share) == text
