# SPDX-License-Identifier: Apache-2.0
"""What an operator does with phase ``hw``: a sentinel, a drill, a plan, a rollout, and a card that leaks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control.demo import PORT
from ktls_control.rollout import journal, store

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from ..fleet.fleet import ROOT
from ..hw.hosts import CARD, Pair

GROUP = "hw_served"
POLICY = {
    "waves": ["100%"], "soak": {"min_s": 20, "max_s": 120, "min_bytes": 20_000_000}, "noise_hosts": 0,
    "gates": {"method": "none", "on_inconclusive": "fail"}, "include_done": True, "headroom_limit": 1,
}  # fmt: skip


class Operator:
    """The control side over one host that serves, and its peer that watches."""

    def __init__(self, pair: Pair, place: Path) -> None:
        self.pair, self.place = pair, place
        self.inventory = place / "inventory"
        self.inventory.mkdir()
        (self.inventory / "lab").symlink_to(ROOT / "inventory/lab")
        served = {"hosts": {pair.server: {"ktls_sidecar_port": PORT}}}
        ca = pair.fleet.lab.inventory()["_meta"]["hostvars"][pair.server]["ktls_sidecar_ca_dir"]
        variables = {
            "ktls_group": GROUP, "ktls_sentinel_ca": f"{ca}/ca.pem", "ktls_sentinel_interface": CARD,
            "ktls_sentinel_interval_s": 3.0,
        }  # fmt: skip
        watching = {"hosts": {pair.peer: {}}, "vars": variables}
        (self.inventory / "groups.yml").write_text(yaml.safe_dump({GROUP: served, "ktls_sentinels": watching}))
        (place / "policy.yml").write_text(json.dumps({"ktls_policy": POLICY}))

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """A command of the virtual environment, in the background."""
        tool, *arguments = argv
        environment = {**self.pair.fleet.environment(), "KTLS_STATE_DIR": str(self.place / "state")}
        return subprocess.Popen(
            [str(Path(sys.executable).with_name(tool)), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=ROOT, env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )  # fmt: skip

    def run(self, *argv: str) -> tuple[int, str]:
        """The same, to its end."""
        with self.start(*argv) as child:
            said = child.communicate(timeout=400)[0]
        return child.returncode, said

    def ktls(self, verb: str, *arguments: str) -> tuple[int, str]:
        """``ktls`` over the group."""
        return self.run("ktls", verb, "-i", str(self.inventory), "--group", GROUP, *arguments)

    def events(self) -> list[dict[str, Any]]:
        """The journal of the newest run."""
        fleet = store.Fleet(self.place / "state" / store.fleet_name(str(self.inventory), GROUP))
        return journal.read(fleet.newest().journal) if fleet.runs() else []

    @contextmanager
    def load(self) -> Iterator[list[str]]:
        """Downloads from the peer, one after the other, over the wire between the two; what failed is in the list."""
        over, failures = threading.Event(), []
        script = _CURL.format(name=self.pair.name, address=self.pair.address, port=PORT)

        def download() -> None:
            while not over.is_set():
                done = self.pair.fleet.lab.ssh(self.pair.peer, script, timeout=150)
                if done.returncode:
                    failures.append(done.stdout + done.stderr)

        thread = threading.Thread(target=download)
        thread.start()
        try:
            yield failures
        finally:
            over.set()
            thread.join()


_CURL = (
    "for n in 1 2 3; do curl -sS --fail --max-time 60 --cacert /root/hw/ca.pem --resolve {name}:{port}:{address} "
    "-o /dev/null https://{name}:{port}/object || exit; done"
)


@pytest.fixture(scope="module")
def pair(start_lab: StartLab) -> Iterator[Pair]:
    """A host that serves with consent to TLS 1.2, and its peer, in userspace."""
    fleet = deployed_hosts.start(start_lab, "hw", ("debian13", "debian13"), rig=True)
    found = Pair(fleet)
    found.prepare()
    yield found
    fleet.lab.down()


@pytest.fixture(scope="module")
def operator(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    found = Operator(pair, tmp_path_factory.mktemp("operator"))
    began = time.monotonic()
    code, said = found.run("ansible-playbook", "-i", str(found.inventory), "playbooks/sentinel.yml")
    assert code == 0, said
    print(f"\nsentinel: {time.monotonic() - began:.0f} s")
    return found


def test_the_drill_is_proved_by_the_card_and_everything_is_as_before(operator: Operator) -> None:
    before = operator.pair.card()
    code, said = operator.ktls("drill", "--phase", "hw", "--json")
    found = json.loads(said[said.index("{") :])["hosts"][operator.pair.server]
    assert code == 0, found
    print(f"\ndrill: {found['durations']}, {found['card']}")
    assert found["card"]["encrypted"] >= 100_000
    assert operator.pair.card()["features"] == before["features"]
    assert operator.pair.download().told()["version"] == "TLSv1.3"


def test_a_plan_is_made_and_applied_under_the_sentinels_eye(operator: Operator) -> None:
    operator.pair.order("tx", "rung")
    plan = operator.place / "hw.yml"
    policy = ("--policy", str(operator.place / "policy.yml"))
    code, said = operator.ktls("plan", "--phase", "hw", "-o", str(plan), *policy)
    assert code == 0, said
    assert f"sentinel  {operator.pair.peer}:" in said and f"{CARD} (tlssim)" in said, said
    began = time.monotonic()
    with operator.load() as failures:
        code, said = operator.run("ktls", "apply", str(plan))
    assert code == 0, said
    assert failures == [], "no download ended early over the way to hw"
    print(f"\napply: {time.monotonic() - began:.0f} s")
    events = operator.events()
    verdict = next(event for event in events if event["event"] == "verdict")
    assert (verdict["outcome"], verdict["sentinel"]["sight"]) == ("pass", "clean")
    card = [event for event in events if event["event"] == "observed"][-1]["hosts"][operator.pair.server]["hw"]
    print(f"card: {card}")
    assert card["encrypted"] >= card["hw"] >= 20_000_000
    assert operator.pair.agent("status")["phase"] == "hw"


def test_plaintext_in_a_soak_switches_the_fleet_off(operator: Operator) -> None:
    pair = operator.pair
    plan = operator.place / "again.yml"
    long = {**POLICY, "soak": {"min_s": 100, "max_s": 300, "min_bytes": 20_000_000}}
    (operator.place / "long.yml").write_text(json.dumps({"ktls_policy": long}))
    code, said = operator.ktls("plan", "--phase", "hw", "-o", str(plan), "--policy", str(operator.place / "long.yml"))
    assert code == 0, said
    knob = f"/sys/kernel/debug/tlssim/{CARD}/leak_every"
    earlier = operator.events()[0]["sha256"]

    def soaks() -> bool:
        # Until the new run has a journal, the newest is that of the run before, which has soaked.
        events = operator.events()
        return events[0]["sha256"] != earlier and any(one["event"] == "soak_started" for one in events)

    with operator.start("ktls", "apply", str(plan)) as run:
        try:
            pair.fleet.wait("the soak", soaks, 120)
            began = time.monotonic()
            pair.shell(pair.server, f"echo 4 >{knob}")
            pair.fleet.wait("off", lambda: any(one["event"] == "fleet_off" for one in operator.events()), 120)
            print(f"\nfrom the first leak to the whole fleet off: {time.monotonic() - began:.0f} s")
            said = run.communicate(timeout=200)[0]
        finally:
            pair.shell(pair.server, f"echo 0 >{knob}")
    assert run.returncode == 1
    assert "plaintext on the wire" in said and "all 1 hosts of the fleet are off" in said, said
    done = next(event for event in operator.events() if event["event"] == "fleet_off")
    print(f"off: {done}")
    status = pair.agent("status")
    assert (status["phase"], status["off"]["flag"]) == ("userspace", True)
    assert pair.download().told()["version"] == "TLSv1.3"
    assert operator.events()[-1]["outcome"] == "off"
    pair.shell(pair.peer, "ktls-sentinel clear")
    pair.agent("clear")
