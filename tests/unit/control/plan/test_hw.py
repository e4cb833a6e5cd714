# SPDX-License-Identifier: Apache-2.0
"""Who may take phase ``hw``, who watches meanwhile, and how a plan says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ktls_control.errors import ControlError
from ktls_control.plan import drills, file
from ktls_control.plan.build import Seen, build
from ktls_control.plan.drills import Drill
from ktls_control.plan.model import Hardware, Plan
from ktls_control.plan.policy import Policy, parse
from ktls_control.plan.screen import draw
from ktls_control.rollout import implicit

from ..test_preflight import info, reason
from .fleet import ASK, NOW, seen, status

HW = replace(ASK, phase="hw", sentinels=("s1",))
TX: dict[str, Any] = {"phase": "tx", "order": "committed", "ordered_phase": "tx"}
NIC = {"name": "eth1", "driver": "mlx5_core", "tx_on": False, "rx_on": False, "up": True, "counters": {}}


def card(consent: bool = False, eligible: int = 0, total: int = 1000, **changes: Any) -> dict[str, Any]:
    return {
        "tls12_consent": consent, "interfaces": [NIC], "encrypted_bytes": 0, "installed": 0, "software": 0,
        "open": {"hw": 0, "stale": 0}, "sent": {"hw": 0, "tls12_gcm": eligible, "total": total},
        "anomalies": {"resync": 0, "drops": 0, "ooo": 0, "decrypt": 0}, **changes,
    }  # fmt: skip


def host(hw: Any = None, **changes: Any) -> Seen:
    return seen(**{**TX, "hw": card(consent=True) if hw is None else hw, **changes})


def plan(*hosts: Seen, ask: Any = HW, policy: Policy | None = None) -> Plan:
    return build(ask, {f"web{n}": one for n, one in enumerate(hosts, 1)}, policy or Policy())


def codes(one: Seen, policy: Policy | None = None) -> list[str]:
    return [why.code for why in plan(one, policy=policy).refused.get("web1", ())]


@pytest.mark.parametrize(
    ("one", "refusals"),
    [
        (host(), []),
        (host(card(eligible=995)), []),
        (host(card(eligible=980)), ["tls13_not_offloaded"]),
        (host(card(consent=True, eligible=0)), []),
        (host(card(total=0)), ["hw_traffic_unknown"]),
        (host(card(consent=True, total=0)), []),
        (host(card(sent={})), ["hw_traffic_unknown"]),
        (host(card(interfaces=[])), ["hw_unknown"]),
        (host(7), ["hw_unknown"]),
        (seen(**TX), ["hw_unknown"]),
        (host(phase="userspace", order="none"), ["rung_missing"]),
        # Many a host that can offload cannot take rx.
        (host(phase="rx", ordered_phase="rx"), []),
        (host(phase="hw", ordered_phase="hw"), ["already_there"]),
        # Without a card, what clients negotiate is of no interest.
        (host(card(eligible=0), answer=info("refused", reason("nic_no_tls_offload"))), ["nic_no_tls_offload"]),
        (host(drill=None), ["drill_missing"]),
        (host(drill=Drill(NOW - 3600, False, "card: nothing")), ["drill_failed"]),
    ],
)
def test_who_is_left_out(one: Seen, refusals: list[str]) -> None:
    assert codes(one) == refusals


def test_the_refusal_says_whose_fault_it_is_and_what_would_benefit() -> None:
    found = plan(host(card(eligible=123))).refused["web1"][0]
    assert found.message.startswith(
        "TLS 1.3 is not offloaded by this kernel: 12.3 % of the bytes that it sent are TLS 1.2 with AES-GCM and would "
        "benefit"
    )
    assert "ktls_agent_tls12_consent: true" in found.cure
    assert "TLS 1.3 is not offloaded by this kernel" in plan(host(card(total=0))).refused["web1"][0].message
    almost = plan(host(card(eligible=98_999, total=100_000))).refused["web1"][0].message
    assert "98.9 % of the bytes" in almost, "nothing is rounded up"
    none = plan(host(card(eligible=1, total=100_000))).refused["web1"][0].message
    assert "less than 0.1 % of the bytes" in none


def test_the_policy_says_how_much_has_to_be_eligible_without_a_consent() -> None:
    assert codes(host(card(eligible=500)), parse({"hw_min_eligible": 0.5}, "policy")) == []
    assert codes(host(phase="userspace", order="none"), parse({"skip_rungs": True}, "policy")) == []


def test_a_sentinel_is_needed_or_its_absence_is_said() -> None:
    with pytest.raises(ControlError, match="put a machine beside the hosts into group ktls_sentinels") as caught:
        plan(host(), ask=replace(HW, sentinels=()))
    assert caught.value.code == "no_sentinel"
    made = plan(host(), ask=replace(HW, sentinels=(), without_sentinel=True))
    assert made.hardware == Hardware((), True, 0.0)
    assert made.notes[0].startswith("nobody watches the wire, as was said")
    # A group that is there is not used when an operator says that nobody need watch.
    assert plan(host(), ask=replace(HW, without_sentinel=True)).hardware == Hardware((), True, 0.0)
    assert plan(host(), ask=replace(ASK, sentinels=("s1",))).hardware is None, "no other phase has one"


def test_the_file_keeps_it_and_plans_of_other_phases_are_as_before(tmp_path: Path) -> None:
    made = plan(host(), host(card(eligible=999)))
    assert made.hosts["web1"].cards == {"eth1": "mlx5_core"}
    assert [one.consent for one in made.hosts.values()] == [True, False]
    assert made.hardware == Hardware(("s1",), False, 0.0)
    kept = file.save(made, tmp_path / "plan.yml")
    assert file.load(tmp_path / "plan.yml") == kept
    text = (tmp_path / "plan.yml").read_text()
    (tmp_path / "plan.yml").write_text(text.replace("without_sentinel: false", "without_sentinel: true"))
    with pytest.raises(ControlError, match="not what `ktls plan` wrote"):
        file.load(tmp_path / "plan.yml")
    other = file.to_fields(build(ASK, {"web1": seen()}, Policy()))
    assert "hardware" not in other
    assert all("cards" not in kind for kind in other["classes"])


def shown(made: Plan) -> str:
    console = Console(width=220, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    draw(console, made)
    return console.export_text()


def test_the_tree_shows_sentinel_consent_and_cards() -> None:
    text = shown(plan(host(), host(card(eligible=999))))
    assert "sentinel  s1: plaintext on the wire switches the whole fleet off" in text
    assert "consent   TLS 1.2 for new connections of 1 of 2 hosts, while the phase lasts" in text
    assert "cards     eth1 (mlx5_core) ×2" in text
    assert "card      its counters show 80 % or more of what its connections sent; at most 10 % in software" in text
    assert "TLS 1.2 with AES-GCM is 99.9 % of bytes or more as it is" in shown(plan(host(card(eligible=999))))
    alone = shown(plan(host(), ask=replace(HW, sentinels=(), without_sentinel=True)))
    assert "sentinel  none, as was said: nobody watches the wire for plaintext" in alone
    assert "sentinel" not in shown(build(ASK, {"web1": seen()}, Policy()))


def test_what_is_known_of_the_sentinels_is_good_to_know() -> None:
    made = plan(host(), ask=replace(HW, sentinel_notes=("sentinel: s1: no answer",)))
    assert made.notes[0] == "sentinel: s1: no answer"
    assert "web1: new connections negotiate TLS 1.2 while the phase lasts" in made.notes[1]


def test_hw_has_drills_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "drills.json").write_text(
        '{"hosts": {"web1": {"at": 5, "passed": true}}, "hw": {"web2": {"at": 6, "passed": true}}}'
    )
    assert list(drills.load(tmp_path)) == list(drills.load(tmp_path, "rx")) == ["web1"]
    assert list(drills.load(tmp_path, "hw")) == ["web2"]
    (tmp_path / "drills.json").write_text('{"hosts": {}}')
    assert drills.load(tmp_path, "hw") == {}


# Without a plan


def settings(**changes: Any) -> implicit.Settings:
    return implicit.Settings([1, "100%"], 1, 2, 1, 0.99, 60, **{"sentinels": ("s1",), **changes})


def implied(statuses: dict[str, Any], **changes: Any) -> Plan:
    names = list(statuses)
    return implicit.make("hw", "ktls_hosts", "hosts.yml", names, settings(**changes), statuses, NOW)


def test_a_rollout_without_a_plan_needs_the_same() -> None:
    able = status(**TX, hw=card(consent=True))
    made = implied({"web1": able, "web2": status(**TX, hw=card(eligible=999))})
    assert (made.hardware, made.hosts["web1"].consent) == (Hardware(("s1",)), True)
    with pytest.raises(ControlError, match=r"web2: TLS 1\.3 is not offloaded by this kernel") as caught:
        implied({"web1": able, "web2": status(**TX, hw=card(eligible=1))})
    assert caught.value.code == "tls13_not_offloaded"
    with pytest.raises(ControlError, match="web1: its agent says nothing of network cards"):
        implied({"web1": status(**TX)})
    assert implied({"web1": able}, sentinels=(), without_sentinel=True).hardware == Hardware((), True)
    for call in (lambda: implied({"web1": able}, sentinels=()),
                 lambda: implicit.check("hw", "ktls_hosts", ["web1"], settings(sentinels=()))):  # fmt: skip
        with pytest.raises(ControlError) as missing:
            call()
        assert missing.value.code == "no_sentinel"
