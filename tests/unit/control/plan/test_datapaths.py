# SPDX-License-Identifier: Apache-2.0
"""Plans over hosts that something else than the sidecar serves: who may, what it means, and what nobody counts."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ktls_control.errors import ControlError
from ktls_control.plan import datapaths, drills, file
from ktls_control.plan.build import Seen, build
from ktls_control.plan.drills import Drill
from ktls_control.plan.model import Gates, HostDatapath, Plan, Soak
from ktls_control.plan.policy import parse
from ktls_control.plan.screen import draw
from ktls_control.rollout import implicit
from ktls_host import datapath_status
from ktls_host.drift import facts

from .fleet import ASK, NOW, fleet, seen

NGINX: dict[str, Any] = {
    "kind": "nginx", "unit": "nginx.service", "program": "nginx", "version": "1.26.3", "experiments": False,
    "modes": ["userspace", "tx+rx", "rx"], "consent": {"tx_rx": True, "restart": False}, "switch": "reload",
    "draining": None, "problem": None,
}  # fmt: skip
SERVICE: dict[str, Any] = {
    **NGINX, "kind": "service", "unit": "lighttpd.service", "program": "lighttpd", "version": "1.4.79",
    "modes": ["userspace", "tx+rx"], "consent": {"tx_rx": True, "restart": True}, "switch": "restart",
}  # fmt: skip
OLD = {**NGINX, "modes": ["userspace", "tx"], "consent": {"tx_rx": False, "restart": False}}
EVIDENCE = {"known": True, "age_s": 1.0, "since_s": 1.0, "total": {}, "interval": None}
COUNTS = {"ktls_tx": 0, "userspace": 9}


def served(about: dict[str, Any], drill: Drill | None = None, **changes: Any) -> Seen:
    """A host with that datapath: nginx counts what its log shows, a service nothing."""
    sidecar: dict[str, Any] = {"pid": 7, "effective_mode": "userspace", "bytes": COUNTS}
    probe: dict[str, Any] = {"ok": True, "sha256_ok": None}
    if about["kind"] == "nginx":
        sidecar.update(errors={}, connections_total=COUNTS)
        probe = {"ok": True, "sha256_ok": True}
    else:
        changes.setdefault("series", {"samples": 0, "problem": "nothing to read"})
    name = f"{about['kind']} {about['unit']}"
    own = drill or Drill(NOW - 3600, True, "", "", "", name, f"{about['program']} {about['version']}")
    said = {"sidecar": sidecar, "probe": probe, "evidence": EVIDENCE, "datapath": about, **changes}
    return seen({"ktls_rack": "r1"}, drill=own, **said)


def codes(host: Seen, phase: str = "tx", **policy: Any) -> list[str]:
    plan = build(replace(ASK, phase=phase), {"web1": host}, parse(policy, "policy"))
    return [why.code for why in plan.refused.get("web1", ())]


def without(about: dict[str, Any], consent: str) -> dict[str, Any]:
    return {**about, "consent": {**about["consent"], consent: False}}


COMMITTED: dict[str, Any] = {"order": "committed", "ordered_phase": "tx", "phase": "tx+rx"}


@pytest.mark.parametrize(
    ("host", "phase", "refusals"),
    [
        (served(NGINX), "tx", []),
        (served(OLD), "tx", []),
        (served(SERVICE), "tx", []),
        (served(without(NGINX, "tx_rx")), "tx", ["tx_means_rx"]),
        (served(without(SERVICE, "restart")), "tx", ["no_restart_consent"]),
        (served(without(without(SERVICE, "restart"), "tx_rx")), "tx", ["tx_means_rx", "no_restart_consent"]),
        (served({**NGINX, "problem": "nginx was not switched to tx"}), "tx", ["datapath_down"]),
        (served({**NGINX, "modes": []}), "tx", ["phase_not_for_datapath"]),
        (served(NGINX, sidecar=None, sidecar_error="nginx.service does not run"), "tx", ["datapath_down"]),
        # The agent calls what is in force by its full name.
        (served(NGINX, **COMMITTED), "tx", ["already_there"]),
        (served(NGINX, **COMMITTED), "rx", ["already_there"]),
        (served(OLD, order="committed", ordered_phase="tx", phase="tx"), "rx", ["phase_not_for_datapath"]),
        (served(without(NGINX, "tx_rx")), "userspace", []),
        # A drill of what served before says nothing of what serves now.
        (served(NGINX, Drill(NOW - 60, True)), "tx", ["drill_stale"]),
        (
            served(NGINX, Drill(NOW - 60, True, datapath="nginx nginx.service", program="nginx 1.22")),
            "tx",
            ["drill_stale"],
        ),
        (seen(drill=Drill(NOW - 60, True, datapath="nginx nginx.service")), "tx", ["drill_stale"]),
        # An agent that says of the sidecar what it is.
        (
            seen(datapath={"kind": "sidecar", "unit": "ktls-sidecar.service", "experiments": True, "modes": []}),
            "tx",
            [],
        ),
    ],
)
def test_who_is_left_out_for_its_datapath(host: Seen, phase: str, refusals: list[str]) -> None:
    assert codes(host, phase) == refusals


def test_a_refusal_names_who_and_says_what_to_do() -> None:
    plan = build(ASK, {"web1": served(without(NGINX, "tx_rx"))}, parse(None, "x"))
    (why,) = plan.refused["web1"]
    assert why.message.startswith("nginx.service (nginx) hands both directions to the kernel or none")
    assert "ktls_tx_rx_consent: true" in why.cure


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["kind", "unit", "modes", "consent", "draining", "experiments", "switch", "tx_rx", "processes"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_an_agent_says_is_read_without_harm(said: Any) -> None:
    found = datapath_status.of({"datapath": said})
    assert isinstance(found.experiments, bool) and found.means("tx") in ("tx", "tx+rx")
    datapaths.refusals({"datapath": said}, "tx")
    datapaths.of_status({"datapath": said})
    facts({"datapath": said})


def mixed(**changes: Any) -> dict[str, Seen]:
    """Six sidecars, four of nginx, two services."""
    hosts = fleet(6)
    hosts |= {f"ngx{n}": served(NGINX, **changes) for n in range(1, 5)}
    return hosts | {f"svc{n}": served(SERVICE, **changes) for n in (1, 2)}


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    draw(console, plan)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_a_mixed_plan_shows_who_is_served_by_what_and_what_the_phase_is_there() -> None:
    plan = build(ASK, mixed(), parse({"waves": [4, "100%"], "caps": {"rack": 1, "kernel": 1, "nic_model": 1}}, "x"))
    text = shown(plan)
    assert "phase tx (tx+rx on 6 of 12 hosts)" in text.splitlines()[0]
    assert "served by" in text and "nginx, tx+rx" in text and "lighttpd.service, tx+rx, by restart" in text
    assert "lighttpd.service and nginx: difference in differences against later waves of their own kind" in text
    assert "earlier   a wave in which a later gate finds a host that is not well goes back as one" in text
    notes = "\n".join(plan.notes)
    assert "phase tx is tx+rx there, as was consented to" in notes
    assert "the service is restarted to take the phase" in notes
    assert "nobody counts failures, connections, the content of its own downloads, CPU per byte" in notes
    assert "cannot tell: it will pause" in notes
    assert "no host with nginx is left to compare with" in notes
    assert "different releases" not in notes
    kinds = {name: host.datapath.kind for name, host in plan.hosts.items()}
    assert kinds["web1"] == "sidecar" and kinds["ngx1"] == "nginx" and kinds["svc1"] == "service"
    assert plan.hosts["ngx1"].facts["datapath"] == "nginx nginx.service" and "sidecar" not in plan.hosts["ngx1"].facts


def test_a_fleet_of_sidecars_is_told_nothing_of_datapaths() -> None:
    text = shown(build(ASK, fleet(12), parse(None, "x")))
    assert "served by" not in text and "tx+rx" not in text


def test_a_plan_with_datapaths_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = build(ASK, mixed(), parse({"earlier": "hold", "gates": {"otherwise": "none"}}, "x"))
    saved = file.save(plan, tmp_path / "plan.yml")
    read = file.load(tmp_path / "plan.yml")
    assert read == saved
    assert read.hosts["svc1"].datapath.unfed == ("errors", "connections", "content", "series")
    assert (read.earlier, read.gates.otherwise) == ("hold", "none")
    assert read.hosts["web1"].datapath == HostDatapath()


def test_a_wave_sees_what_its_blindest_datapath_sees() -> None:
    asked: list[tuple[str, str, int, int, float]] = []

    def detect(gates: Gates, _soak: Soak, hosts: int, others: int, kind: str) -> Mapping[str, float | None]:
        asked.append((kind, gates.method, hosts, others, gates.alpha))
        return {"cpu": {"sidecar": 0.02, "nginx": 0.2}.get(kind, 0.01), "errors": 0.001}

    hosts = {name: host for name, host in mixed().items() if not name.startswith("svc")}
    plan = build(ASK, hosts, parse({"waves": ["100%"], "caps": {"rack": 1, "kernel": 1, "nic_model": 1}}, "x"), detect)
    assert asked == [("sidecar", "switchback", 6, 0, 0.025), ("nginx", "difference", 4, 0, 0.025)]
    assert plan.waves[0].detectable == {"cpu": 0.2, "errors": 0.001}
    asked.clear()
    plan = build(ASK, {"svc1": served(SERVICE)}, parse(None, "x"), detect)
    assert asked == [("lighttpd.service", "difference", 1, 0, 0.05)]
    assert plan.waves[0].detectable == {"cpu": None, "errors": None}, "nobody counts there"


@pytest.mark.parametrize(("otherwise", "told"), [("difference", True), ("none", False)])
def test_a_gate_that_compares_nothing_is_not_said_to_wait_for_a_person(otherwise: str, told: bool) -> None:
    def blind(*_: object) -> Mapping[str, float | None]:
        return dict.fromkeys(("cpu", "latency", "throughput"), None)

    hosts = {name: host for name, host in mixed().items() if name.startswith("ngx")}
    plan = build(ASK, hosts, parse({"gates": {"otherwise": otherwise}}, "x"), blind)
    assert bool([line for line in plan.notes if "can tell no effect" in line]) == told


def cost(ns: float, share: float) -> dict[str, Any]:
    part = {"ktls_sent_share": share, "cpu": {"x": {"cpu_s": 1.0, "bytes": 10**9, "ns_per_byte": ns}}}
    return {**EVIDENCE, "interval": part, "total": part}


def test_what_userspace_costs_is_not_taken_from_another_program() -> None:
    hosts = {
        "ngx1": served(NGINX, evidence=cost(9.0, 0.0)),
        "web1": seen(evidence=cost(1.0, 1.0)),
    }
    assert build(ASK, hosts, parse(None, "x")).headroom.ratio is None
    hosts["ngx2"] = served(NGINX, evidence=cost(6.0, 1.0))
    assert build(ASK, hosts, parse(None, "x")).headroom.ratio == 1.5


def test_a_drill_on_record_says_what_it_was_of(tmp_path: Path) -> None:
    named = {"datapath": "nginx nginx.service", "program": "nginx 1.26"}
    kept = {"a": {"at": 1, "passed": True, "host": named}, "b": {"at": 1, "passed": True, "host": {"kernel": "6.12"}}}
    (tmp_path / drills.FILE).write_text(json.dumps({"hosts": kept}))
    found = drills.load(tmp_path)
    assert (found["a"].datapath, found["a"].program) == ("nginx nginx.service", "nginx 1.26")
    assert found["b"].datapath == "sidecar"


def test_a_rollout_without_a_plan_has_nobody_to_ask() -> None:
    settings = implicit.Settings([1], 1, 2, 1, 0.99, 60)

    def make(host: Seen) -> Plan:
        return implicit.make("tx", "g", "i", ["a"], settings, {"a": host.status or {}}, NOW)

    with pytest.raises(ControlError) as raised:
        make(served(SERVICE))
    assert raised.value.code == "gate_unfed" and "a: nobody counts failures" in raised.value.message
    with pytest.raises(ControlError) as raised:
        make(served(without(NGINX, "tx_rx")))
    assert raised.value.code == "tx_means_rx"
    assert make(served(NGINX)).hosts["a"].datapath.tx == "tx+rx"
    assert make(seen()).hosts["a"].datapath == HostDatapath()
