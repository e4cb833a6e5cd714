# SPDX-License-Identifier: Apache-2.0
"""From what was seen to a plan: who is left out and why, and what is said of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_control.judge.model import HostSeries, Sample
from ktls_control.plan import file
from ktls_control.plan.build import Seen, build
from ktls_control.plan.drills import Drill
from ktls_control.plan.model import Gates, Plan, Soak
from ktls_control.plan.policy import Policy, parse
from ktls_control.preflight import Unanswered

from ..test_preflight import info, reason
from .fleet import ASK, NOW, fleet, seen

DEFAULT = Policy()
KTLS: dict[str, Any] = {"phase": "tx", "order": "committed", "ordered_phase": "tx"}


HALF = {"known": True, "interval": {"ktls_sent_share": 0.5, "cpu": {}}, "total": {}}


def codes(host: Seen, phase: str = "tx", **policy: Any) -> list[str]:
    policy = {"headroom_ratio": 1, **policy} if host.status and host.status["evidence"] == HALF else policy
    plan = build(replace(ASK, phase=phase), {"web1": host}, parse(policy, "policy"))
    assert ("web1" in plan.hosts) == ("web1" not in plan.refused)
    return [why.code for why in plan.refused.get("web1", ())]


@pytest.mark.parametrize(
    ("host", "refusals"),
    [
        (seen(), []),
        (seen(answer=info("refused", reason("module_blocked"))), ["module_blocked"]),
        (seen(answer=info("unknown", reason("not_proved"))), ["not_proved"]),
        (seen(answer=info("refused")), ["no_answer"]),
        (seen(answer=Unanswered("cut_off", "no route")), ["cut_off"]),
        (seen(answer=Unanswered("cut_off", "no route"), error="no route"), ["cut_off"]),
        (seen(error="no such socket", drill=None), ["agent_silent", "drill_missing"]),
        (seen(answer=info("unknown", reason("not_proved")), error="gone"), ["not_proved", "agent_silent"]),
        (seen(drill=None), ["drill_missing"]),
        (seen(drill=Drill(NOW - 3600, False, "files differ")), ["drill_failed"]),
        (seen(drill=Drill(NOW - 8 * 86400, True)), ["drill_stale"]),
        (seen(drill=Drill(NOW, True, "", "6.12.48", "OpenSSL 3.5.1 1 Jul 2025")), []),
        (seen(drill=Drill(NOW, True, "", "6.12.47", "")), ["drill_stale"]),
        (seen(drill=Drill(NOW, True, "", "", "OpenSSL 3.0.1")), ["drill_stale"]),
        (seen(off={"flag": True, "reason": "incident"}), ["off_flag_up"]),
        (seen(stuck=True), ["host_stuck"]),
        (seen(sidecar=None, sidecar_error="no answer"), ["datapath_down"]),
        (seen(order="pending", order_id="x", phase="tx", ordered_phase="tx"), ["order_pending"]),
        (seen(**KTLS), ["already_there"]),
        (seen(**KTLS, drill=None, answer=info("refused", reason("x"))), ["already_there"]),
        # Confirmed, and yet not in force: off took it back, or somebody did.
        (seen(**{**KTLS, "phase": "userspace"}), []),
        # In userspace it bears today what off would bring.
        (seen(cpu={"online": 8, "busy": 1.0}), []),
        (seen(cpu={"online": 8, "busy": 0.9}, evidence=HALF), ["no_headroom"]),
        (seen(cpu={"online": 8, "busy": 0.85}, evidence=HALF), []),
        (seen(cpu={}), []),
        (seen(answer=info("refused", reason("a")), drill=None, stuck=True), ["a", "host_stuck", "drill_missing"]),
    ],
)
def test_who_is_left_out(host: Seen, refusals: list[str]) -> None:
    assert codes(host) == refusals


def test_consents_of_the_policy() -> None:
    assert codes(seen(drill=None), drill_required=False) == []
    assert codes(seen(drill=Drill(NOW - 8 * 86400, True)), drill_max_age_s="9d") == []
    assert codes(seen(**KTLS), include_done=True) == []
    assert codes(seen(cpu={"online": 8, "busy": 0.9}, evidence=HALF), headroom_limit=0.95, headroom_ratio=1) == []
    assert codes(seen(cpu={"online": 8, "busy": 0.5}), headroom_peak=2) == ["no_headroom"]


def test_userspace_is_where_off_leads() -> None:
    assert codes(seen(**KTLS, off={"flag": True}, cpu={"online": 8, "busy": 0.9}), "userspace") == []


def test_a_rung_is_not_skipped_unless_asked() -> None:
    assert codes(seen(), "rx") == ["rung_missing"]
    assert codes(seen(**KTLS), "rx") == []
    assert codes(seen(order="committed", phase="rx", ordered_phase="rx"), "rx") == ["already_there"]
    assert codes(seen(), "rx", skip_rungs=True) == []


@given(st.integers(1, 40), st.sets(st.integers(1, 40)))
@settings(max_examples=30)
def test_everybody_is_planned_or_refused(count: int, out: set[int]) -> None:
    hosts = {
        name: replace(host, drill=None) if number in out else host
        for number, (name, host) in enumerate(fleet(count).items(), start=1)
    }
    plan = build(ASK, hosts, DEFAULT)
    assert set(plan.hosts) | set(plan.refused) == set(hosts) and not set(plan.hosts) & set(plan.refused)
    assert sorted(name for wave in plan.waves for name in wave.hosts) == sorted(plan.hosts)
    assert [wave.number for wave in plan.waves] == list(range(1, len(plan.waves) + 1))
    assert len({wave.name for wave in plan.waves}) == len(plan.waves)
    assert file.digest(plan) == plan.sha256


def test_what_is_written_down() -> None:
    hosts = fleet(30, epoch=4)
    hosts["web30"] = seen({"ktls_rack": 3, "ktls_nic_model": "mlx5"}, epoch=7, drill=None)
    plan = build(ASK, hosts, parse({"failure_budget": "10%", "approve": [2]}, "policy"))
    assert (plan.id, plan.created) == ("tx-20270115-080000", "2027-01-15T08:00:00+00:00")
    assert (plan.phase, plan.inventory, plan.group, plan.fleet) == ("tx", ASK.inventory, ASK.group, ASK.fleet)
    assert plan.epoch_floor == 7
    assert plan.failure_budget == 2
    assert [wave.approve for wave in plan.waves][:3] == [False, True, False]
    assert plan.lease_s == 1840.0
    assert plan.caps == {"rack": "1/3", "nic_model": "1/2", "kernel": "1/2"}
    assert plan.expected_s == sum(wave.expected_s for wave in plan.waves)
    host = plan.hosts["web1"]
    assert host.facts == {
        "kernel": "6.12.48+deb13-amd64", "openssl": "OpenSSL 3.5.1 1 Jul 2025", "agent": "0.1.0", "sidecar": "0.1.0"
    }  # fmt: skip
    assert host.labels == {"rack": "r0", "nic_model": "virtio_net", "kernel": "6.12.48"}
    assert (host.cpus, host.busy) == (8, 0.3)
    assert plan.headroom.worst == 0.3 and plan.headroom.unknown == 0


def test_the_same_fleet_gives_the_same_plan() -> None:
    hosts = fleet(30)
    assert build(ASK, hosts, DEFAULT) == build(ASK, dict(reversed(hosts.items())), DEFAULT)


def test_nobody_is_a_plan_without_waves() -> None:
    plan = build(ASK, {"web1": seen(drill=None)}, DEFAULT)
    assert plan.waves == () and plan.notes == () and plan.expected_s == 0


def test_the_judge_is_asked_for_each_wave() -> None:
    asked = []

    def detect(gates: Gates, soak: Soak, hosts: int, others: int, _kind: str) -> Mapping[str, float | None]:
        asked.append((gates, soak, hosts, others))
        return {"cpu": 0.1 / hosts, "latency": None}

    plan = build(ASK, fleet(40), DEFAULT, detect)
    assert [one[2:] for one in asked] == [(1, 39), (2, 37), *(one[2:] for one in asked[2:])]
    assert asked[-1][3] == 0
    assert plan.waves[1].detectable == {"cpu": 0.05, "latency": None}
    assert build(ASK, fleet(2), DEFAULT).waves[0].detectable == {}


def recorded(name: str, bytes_s: float) -> HostSeries:
    return HostSeries(name, tuple(Sample(60.0 * n, 60.0, cpu_s=6.0, sent=int(60 * bytes_s)) for n in range(1, 30)))


def noted(hosts: Mapping[str, Seen], **policy: Any) -> str:
    return "\n".join(plan_of(hosts, **policy).notes)


def plan_of(hosts: Mapping[str, Seen], **policy: Any) -> Plan:
    return build(ASK, hosts, parse(policy, "policy"))


def test_all_is_well_and_nothing_is_said() -> None:
    assert noted(fleet(40)) == ""


def test_notes() -> None:
    assert "the policy asks for no drill" in noted(fleet(3), drill_required=False)
    assert noted({"web1": seen()}) == (
        "rack of web1 is not known, so no cap holds there: set ktls_rack in the inventory"
    )
    assert noted({"web1": seen()}, caps={"rack": 1}) == ""
    assert "headroom is not known" in noted(fleet(3, cpu={}))
    other = {**fleet(3), "web9": seen({"ktls_rack": "r9"}, version="0.2.0")}
    assert "different releases of the agent: 0.1.0, 0.2.0" in noted(other)
    remark = {**reason("key_update_breaks_tx", "new keys end {{ it }}")}
    told = noted(fleet(3, answer={**info(notes=(remark,)), "cpu": {"online": 8, "busy": 0.1}}))
    assert "key_update_breaks_tx (every host): new keys end { { it }}" in told


def test_a_gate_that_can_tell_nothing_is_told() -> None:
    def blind_alone(_gates: Gates, _soak: Soak, hosts: int, _others: int, _kind: str) -> Mapping[str, float | None]:
        return dict.fromkeys(("cpu", "latency", "throughput", "errors"), 0.123456 if hosts > 1 else None)

    plan = build(ASK, fleet(60), parse({"gates": {"on_inconclusive": "fail"}}, "x"), blind_alone)
    assert "the gate of wave 1 can tell no effect" in plan.notes[0] and plan.notes[0].endswith("it will fail")
    assert plan.waves[1].detectable["cpu"] == 0.123


def test_a_host_that_is_full_already_is_told_and_stops_nothing() -> None:
    plan = plan_of(fleet(3, cpu={"online": 1, "busy": 1.0}))
    assert len(plan.hosts) == 3 and plan.headroom.worst == plan.headroom.limit
    assert "every host: more than 85 % of CPU is in use now, at a short look" in plan.notes


def test_a_kind_that_comes_late_is_told() -> None:
    hosts = {f"web{n}": seen({"ktls_rack": f"r{n}", "ktls_nic_model": f"card{n}"}) for n in range(9)}
    assert "is first seen in wave 3" in noted(hosts, waves=[1, 1, "100%"])


def test_freezes() -> None:
    def freeze(start: str, end: str) -> dict[str, Any]:
        return {"start": f"2027-01-{start}:00+00:00", "end": f"2027-01-{end}:00+00:00", "reason": "sale"}

    past, now, later = freeze("01T00:00", "15T08:00"), freeze("15T08:10", "15T12:00"), freeze("16T00:00", "17T00:00")
    plan = plan_of(fleet(3), freezes=[past, now, later])
    assert [one.start[8:10] for one in plan.freezes] == ["15", "16"]
    assert [note for note in plan.notes if "freeze" in note] == [
        "freeze sale is in its way: no wave is started until 2027-01-15T12:00:00+00:00"
    ]


def test_too_little_traffic_is_told_and_waited_for() -> None:
    idle = {name: replace(host, series=recorded(name, 100.0)) for name, host in fleet(3).items()}
    assert "at 100 bytes a second, as now, a host does not send soak.min_bytes" in noted(idle)
    slow = {name: replace(host, series=recorded(name, 1000.0)) for name, host in fleet(3).items()}
    assert noted(slow) == ""
    assert plan_of(slow).waves[0].expected_s == 1004.5


def test_headroom_of_hosts_with_ktls_needs_the_ratio() -> None:
    hosts = fleet(3, **KTLS, cpu={"online": 8, "busy": 0.5})
    ask = replace(ASK, phase="rx")
    unknown = build(ask, hosts, DEFAULT)
    assert unknown.headroom.unknown == 3 and unknown.headroom.worst is None
    assert "headroom is not known: evidence of hosts in userspace and with kTLS is needed" in unknown.notes[0]
    evidence = {"known": True, "interval": {"ktls_sent_share": 1.0, "cpu": {}}, "total": {}}
    hosts = fleet(3, **KTLS, cpu={"online": 8, "busy": 0.5}, evidence=evidence)
    assert build(ask, hosts, parse({"headroom_ratio": 1.5}, "x")).headroom.worst == 0.75
    refused = build(ask, hosts, parse({"headroom_ratio": 1.8}, "x")).refused
    assert {why.code for reasons in refused.values() for why in reasons} == {"no_headroom"}


def test_texts_of_hosts_are_one_printable_line() -> None:
    bad = seen(off={"flag": True, "reason": "a\x1b[2Jb\nc\u202e{{{{" + "x" * 9999})
    (why,) = build(ASK, {"web1": bad}, DEFAULT).refused["web1"]
    assert why.message.startswith("the off flag is up: a [2Jb c { { { {xxx") and len(why.message) < 700
    odd = seen({"ktls_rack": "r\n1"}, host={"kernel": "6\x1b[0m"}, answer={**info(), "kernel": None})
    assert build(ASK, {"web1": odd}, DEFAULT).hosts["web1"].labels == {
        "rack": "r 1", "nic_model": "virtio_net", "kernel": "6 [0m"
    }  # fmt: skip


def test_texts_of_hosts_are_never_templates() -> None:
    bad = reason("module_blocked", "{{ lookup('pipe', 'id') }}", "{% x %}")
    plan = build(ASK, {"web1": seen(answer=info("refused", bad)), "web2": seen(error="{# x")}, DEFAULT)
    assert not any(opener in json.dumps(file.to_fields(plan)) for opener in ("{{", "{%", "{#"))
