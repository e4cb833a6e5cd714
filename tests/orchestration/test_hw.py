# SPDX-License-Identifier: Apache-2.0
"""Phase ``hw`` through real playbooks: consents, proof by the card's count, plaintext that takes a whole fleet off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_control.plan.model import Hardware, Soak

from .conftest import Fleet
from .fakefleet import EYE

WATCHED, ALONE = Hardware((EYE,)), Hardware((), True)


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_a_plan_of_hw_is_applied_and_its_cards_are_in_the_report(fleet: Fleet) -> None:
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1, 2, phase='hw', hardware=WATCHED)}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fleet.states().values()) == {"hw"}
    verdicts = [event for event in fleet.events() if event["event"] == "verdict"]
    assert [event["sentinel"]["sight"] for event in verdicts] == ["clean", "clean"], verdicts
    report = (fleet.runs()[-1].directory / "report.html").read_text()
    assert "Network cards" in report
    shown = fleet.ktls("explain", "web3", "-i", str(fleet.inventory))
    assert "card: card " in shown.stdout, shown.stdout


@pytest.mark.parametrize("fleet", [2], indirect=True)
@pytest.mark.parametrize(
    ("fault", "words"), [("frozen", "card: stale"), ("full", "card: nothing is offloaded"), ("leak", "share: ")]
)
def test_what_is_not_the_cards_work_goes_back(fleet: Fleet, fault: str, words: str) -> None:
    fleet.fault("web1", fault)
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1, 1, phase='hw', hardware=ALONE)}")
    assert done.returncode != 0
    assert words in done.stdout, done.stdout
    assert set(fleet.states().values()) == {"userspace"}
    assert fleet.requests("web2", "order") == []
    assert fleet.requests("web2", "off") == [], "a card that does nothing is no leak"


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_plaintext_in_the_middle_of_a_soak_switches_the_whole_fleet_off(fleet: Fleet) -> None:
    plan = fleet.plan(1, 1, phase="hw", hardware=WATCHED, soak=Soak(2.0, 60.0, 0, 100_000))
    with fleet.started("apply", str(plan)) as run:
        fleet.wait_for("wave_promoted", wave=1)
        fleet.wait_for("soak_started", wave=2)
        fleet.fault(EYE, "plaintext")
        said = run.communicate(timeout=120)[0]
    assert run.returncode == 1, said
    assert "plaintext on the wire" in said and "all 3 hosts of the fleet are off" in said, said
    assert set(fleet.states().values()) == {"userspace"}
    assert {name: fleet.peek(name)["off"]["flag"] for name in fleet.names} == dict.fromkeys(fleet.names, True)
    events = fleet.events()
    assert events[-1]["outcome"] == "off"
    done = next(event for event in events if event["event"] == "fleet_off")
    assert (done["by"], done["ok"], set(done["hosts"])) == ("sentinel", True, set(fleet.names)), "no plan had web3"
    kept = json.loads((fleet.runs()[-1].directory / "off-sentinel.json").read_text())
    assert kept["hosts"]["web3"]["off"]
    assert "plaintext on the wire" in (fleet.runs()[-1].directory / "report.html").read_text()


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_a_sentinel_that_dies_in_the_middle_of_a_soak_leaves_the_gate_inconclusive(fleet: Fleet) -> None:
    plan = fleet.plan(1, phase="hw", hardware=WATCHED, soak=Soak(2.0, 5.0, 0, 100_000))
    with fleet.started("apply", str(plan)) as run:
        fleet.wait_for("soak_started")
        (fleet.directory / EYE / "sentinel.sock").rename(fleet.directory / EYE / "gone.sock")
        said = run.communicate(timeout=120)[0]
    assert run.returncode == 1, said
    verdict = next(event for event in fleet.events() if event["event"] == "verdict")
    assert (verdict["outcome"], verdict["sentinel"]["sight"]) == ("inconclusive", "blind"), verdict
    assert (fleet.states()["web1"], fleet.peek("web1")["off"]["flag"]) == ("userspace", False)


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_an_order_without_a_plan_needs_the_same_consents(fleet: Fleet) -> None:
    waves = Path(__file__).with_name("waves.yml")
    quick: tuple[str, ...] = ("-e", "ktls_phase=hw", "-e", f"ktls_waves_file={waves}")
    fleet.fault("web2", "tls13")
    refused = fleet.playbook("rollout", *quick)
    assert "web2: TLS 1.3 is not offloaded by this kernel: 0 % of the bytes" in refused.stdout, refused.stdout
    assert fleet.requests("web1", "order") == []
    (fleet.directory / "web2" / "tls13").unlink()
    blind = json.loads(fleet.inventory.read_text())
    del blind["ktls_sentinels"]
    fleet.inventory.write_text(json.dumps(blind))
    assert "phase hw needs a sentinel" in fleet.playbook("rollout", *quick).stdout
    assert "phase hw needs a sentinel" in fleet.ktls("rollout", "-i", str(fleet.inventory), "--phase", "hw").stderr
    done = fleet.playbook("rollout", *quick, "-e", "ktls_without_sentinel=true")
    assert done.returncode == 0, done.stdout
    assert set(fleet.states().values()) == {"hw"}
    verdicts: list[Any] = [event for event in fleet.events() if event["event"] == "verdict"]
    assert {event["sentinel"]["sight"] for event in verdicts} == {"none"}, "it is on record"
