# SPDX-License-Identifier: Apache-2.0
"""What the engine asks of hosts with another datapath, from when their bytes count, and how views name them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ktls_control.plan import datapaths
from ktls_control.plan.model import Gates, HostDatapath, Soak
from ktls_control.rollout import answers
from ktls_control.rollout.engine import Settling
from ktls_control.rollout.state import RunState, fold
from ktls_control.view import tree
from ktls_control.view.changes import Changes
from ktls_control.view.textfile import RolloutMetrics, file_name

from .driver import FACTS, FakeHost, World, events_of, plan_of, state_of, world_of

NGINX = HostDatapath("nginx", "nginx.service", "nginx 1.26.3", False, "tx+rx", "reload")


def planned(*names: str, sizes: tuple[int, ...] = (1, 2, 1), **changes: Any) -> Any:
    plan = plan_of(sizes, **changes)
    hosts = {name: replace(host, datapath=NGINX) if name in names else host for name, host in plan.hosts.items()}
    return plan_of(sizes, **{**changes, "hosts": hosts})


def status(age_s: float = 0.0, processes: int = 0, known: bool = True, kind: str = "nginx") -> dict[str, Any]:
    draining = {"processes": processes, "connections": None} if processes else None
    return {
        "datapath": {"kind": kind, "unit": "nginx.service", "modes": ["userspace", "tx"], "draining": draining},
        "evidence": {"known": known, "age_s": age_s},
    }


@pytest.fixture
def file(tmp_path: Path) -> answers.WaveFile:
    """A wave of one host that took its order at 1000 s, with nothing left of before."""
    made = answers.WaveFile(str(tmp_path), 1, 1, "w1", 1, "tx", 60.0, "0" * 64, {"h1": answers.Target(FACTS)})
    made.record("h1", "order", {"ok": True, "at": 1000.0, "status": status()})
    return made


def test_bytes_count_from_the_first_look_of_the_kernel_that_is_younger_than_the_order(file: answers.WaveFile) -> None:
    settling = Settling(file, ["h1"], 1000.0)
    assert settling.look("h1", status(age_s=6.0), 1005.0) is None, "it was taken before the order"
    found = settling.look("h1", status(age_s=3.0), 1010.0)
    assert found is not None and found["evidence"]["age_s"] == 3.0
    assert settling.look("h1", status(age_s=1.0), 1020.0) is found, "and it stays that one"
    kept = file.answer("h1", "settled")
    assert kept is not None and kept["status"] == found
    assert settling.settled("h1") and not settling.settled("h2")
    assert Settling(file, ["h1"], 2000.0).look("h1", status(), 2001.0) == found, "also in another process"


def test_bytes_of_before_that_are_judged_later_do_not_count(file: answers.WaveFile) -> None:
    """What ended before the old workers did may wait for its judgement: then it would be taken for the order's."""

    def waiting(judged_age_s: float | None) -> dict[str, Any]:
        found = status(age_s=1.0)
        found["evidence"]["judged_age_s"] = judged_age_s
        return found

    settling = Settling(file, ["h1"], 1000.0)
    assert settling.look("h1", waiting(25.0), 1020.0) is None, "the oldest that waits is of before the order"
    assert settling.look("h1", waiting(35.0), 1030.0) is None
    assert settling.look("h1", waiting(12.0), 1040.0) is not None
    file.record("h2", "order", {"ok": True, "at": 1000.0, "status": status()})
    old = Settling(file, ["h2"], 1000.0)
    assert old.look("h2", waiting(None), 1020.0) is not None, "an agent of before does not say"


def test_old_workers_have_to_be_gone_first(file: answers.WaveFile) -> None:
    file.record("h1", "order", {"ok": True, "at": 1000.0, "status": status(processes=2)})
    settling = Settling(file, ["h1"], 1000.0)
    assert settling.look("h1", status(processes=2), 1010.0) is None
    assert settling.look("h1", status(age_s=4.0), 1020.0) is None, "when they went nobody knows: since this look"
    assert settling.look("h1", status(age_s=4.0), 1023.0) is None
    assert settling.look("h1", status(age_s=4.0, processes=1), 1024.0) is None, "and it begins anew"
    assert settling.look("h1", status(age_s=1.0), 1025.0) is None
    assert settling.look("h1", status(age_s=1.0), 1027.0) is not None


def test_the_sidecar_tells_its_connections_apart_and_needs_none_of_it(file: answers.WaveFile) -> None:
    assert Settling(file, ["h1"], 0.0).look("h1", status(kind="sidecar"), 2000.0) is None
    assert file.answer("h1", "settled") is None


def test_an_experiment_is_not_asked_of_whom_cannot_do_it(state_dir: Path) -> None:
    plan = planned("h2", gates=Gates(method="switchback", block_s=40.0, washout_s=7.0))
    world = world_of(state_dir, plan)
    asked: dict[str, Any] = {}
    task = world.task

    def spy(step: str, file: answers.WaveFile, name: str) -> None:
        if step == "order":
            asked[name] = file.experiment_of(name)
        task(step, file, name)

    world.task = spy  # type: ignore[method-assign]
    world.on_event = lambda event: _promote(world) if event == "waiting" else None
    world.playbook(plan)
    assert asked["h1"] is not None and asked["h3"] is not None and asked["h2"] is None


@dataclass
class Served(FakeHost):
    """A host with nginx. Each look sees 1 MB more; the first ``blurred`` looks cannot say how they were sent."""

    blurred: int = 0
    looks: int = 0

    def status(self, now: float) -> dict[str, Any]:
        told = super().status(now)
        self.looks += self.phase == "tx"
        lost = 1_000_000 * min(self.looks, self.blurred)
        ktls = self.sent["ktls_tx"] - lost
        bytes_ = {"ktls_sent": ktls, "sent": ktls + self.sent["userspace"], "ktls_received": 0, "received": 0}
        total = {"by_process": {"nginx": bytes_}, "unattributed": {"sent": lost, "received": 0}}
        evidence = {"known": True, "age_s": 0.0, "judged_age_s": 0.0, "since_s": 1.0, "total": total}
        return {**told, **status(), "evidence": evidence}


@pytest.mark.parametrize(
    ("blurred", "faults", "least", "most", "ends"),
    [
        pytest.param(0, set(), 10, 12, "ok", id="all is known"),
        pytest.param(5, set(), 25, 120, "ok", id="what is not known is made up for by more that is"),
        pytest.param(10_000, set(), 200, 202, "nobody could attribute", id="it stays unknown"),
        pytest.param(0, {"leak"}, 10, 12, "0.00 %", id="userspace is known, and is not waited on"),
    ],
)
def test_a_soak_goes_on_while_the_share_hangs_on_what_nobody_could_attribute(
    state_dir: Path, blurred: int, faults: set[str], least: float, most: float, ends: str
) -> None:
    plan = planned("h1", sizes=(1,), soak=Soak(10.0, 200.0, 0, 1), lease_s=600.0,
                   gates=Gates(method="none", on_inconclusive="fail", min_share=0.9))  # fmt: skip
    world = world_of(state_dir, plan)
    world.hosts["h1"] = Served("h1", faults=faults, blurred=blurred)
    said = world.playbook(plan)
    assert ends in said
    events = events_of(world, plan)
    began = next(event["at"] for event in events if event["event"] == "soak_started")
    assert least <= next(event["at"] for event in events if event["event"] == "verdict") - began <= most
    if blurred == 5:
        seen = [event["hosts"]["h1"] for event in events if event["event"] == "observed" and event["hosts"]]
        assert any(one.get("unattributed") for one in seen), "it is in the journal, for those who watch"


def _promote(world: World) -> None:
    from .test_engine import ask

    ask(world, "promote", 0)


@pytest.mark.parametrize(
    ("method", "otherwise", "wanted"),
    [
        ("switchback", "difference", {1: ["h5"], 2: []}),
        ("switchback", "none", {1: [], 2: []}),
        ("difference", "difference", {1: ["h4", "h5", "h6"], 2: []}),
        ("none", "difference", {1: [], 2: []}),
    ],
)
def test_hosts_are_compared_with_later_ones_of_their_own_kind(
    state_dir: Path, method: Any, otherwise: Any, wanted: dict[int, list[str]]
) -> None:
    plan = planned("h2", "h5", sizes=(3, 3), gates=Gates(method=method, otherwise=otherwise), soak=Soak(1, 1, 0, 1))
    world = world_of(state_dir, plan)
    from ktls_control.rollout.begin import begin

    with world.engine(begin(world.wanted(plan))) as engine:
        found = {number: sorted(one.host for one in engine.others(number)) for number in (1, 2)}
    assert found == wanted


def test_views_name_the_datapath_and_never_call_both_directions_one(state_dir: Path, tmp_path: Path) -> None:
    plan = planned("h2", "h3", sizes=(1, 3))
    world = world_of(state_dir, plan)
    assert world.playbook(plan) == "ok"
    state = state_of(world, plan)
    assert (state.shown_phase, state.datapaths) == ("tx (tx+rx on 2 of 4 hosts)", {"sidecar": 2, "nginx, tx+rx": 2})
    shown = "\n".join(line.plain for line in tree.lines(tree.View(state, plan, world.now), 160))
    assert "phase tx (tx+rx on 2 of 4 hosts)" in shown and "nginx, tx+rx ×2" in shown
    first = Changes().feed(events_of(world, plan)[0])
    assert "phase tx (tx+rx on 2 of 4 hosts) on 4 hosts" in first[0]
    metrics = RolloutMetrics(tmp_path, plan)
    for event in events_of(world, plan):
        metrics.feed(event)
    told = (tmp_path / file_name("fleet")).read_text()
    assert 'ktls_rollout_datapath_hosts{fleet="fleet",datapath="nginx",means="tx+rx"} 2' in told
    assert 'ktls_rollout_datapath_hosts{fleet="fleet",datapath="sidecar",means="tx"} 2' in told


def test_a_run_of_sidecars_alone_says_nothing_of_it(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    assert world.playbook(plan) == "ok"
    first = events_of(world, plan)[0]
    assert "means" not in first and "datapaths" not in first
    assert fold([first]).shown_phase == "tx"
    assert RunState(phase="hw").shown_phase == "hw"
    assert datapaths.phase_words(None, "tx") == "tx"
