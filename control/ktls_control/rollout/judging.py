# SPDX-License-Identifier: Apache-2.0
"""From what hosts answered to the verdict on their wave. Pure but for the time of reading, which is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..errors import ControlError
from ..judge import kinds
from ..judge.gate import GatePolicy, Verdict, judge_host
from ..judge.hardware import Margins
from ..judge.model import HostSeries, WaveVerdict
from ..plan.model import Plan, Wave


def check_host(
    plan: Plan,
    wave: Wave,
    order: Mapping[str, Any] | None,
    evidence: Mapping[str, Any] | None,
    settled: Mapping[str, Any] | None = None,
) -> Verdict:
    """Tier 0 and 1 for one host, from its answers to the order and for evidence.

    :param settled: what it answered when nothing of before the order was left; see the engine.
    """
    before = (order or {}).get("status")
    after = (evidence or {}).get("status")
    gates, least = plan.gates, max(1, wave.soak.min_bytes)
    card = Margins(gates.card_share, gates.fallback_margin, gates.anomaly_margin, least)
    policy = GatePolicy(gates.min_share, least, card)
    return judge_host(plan.phase, before, after, policy, (evidence or {}).get("outside"), (settled or {}).get("status"))


def host_series(host: str, answer: Mapping[str, Any] | None) -> HostSeries | None:
    """The series in an answer for evidence; None when there is none that can be used."""
    series = (answer or {}).get("series")
    if not isinstance(series, Mapping):
        return None
    from ..judge import wire

    try:
        return wire.host_series(host, series, float((answer or {}).get("read_at") or 0.0))
    except ControlError:
        return None


def judge(
    plan: Plan,
    planned: Wave,
    series: Sequence[HostSeries],
    others: Sequence[HostSeries],
    checks: Mapping[str, Verdict],
) -> WaveVerdict:
    """The gate's answer for the hosts in ``checks``."""
    # Asked to compare nothing, what each host shows of itself is all there is.
    if plan.gates.method == "none":
        return by_hosts(checks)
    datapaths = {name: host.datapath for name, host in plan.hosts.items()}
    return kinds.judge(plan.phase, plan.gates, series, others, checks, planned.soak, datapaths)


def by_hosts(checks: Mapping[str, Verdict]) -> WaveVerdict:
    """The worst that is said of any host."""
    said = {
        name: (f"gate {check.outcome}: {check.reason}",) for name, check in checks.items() if check.outcome != "pass"
    }
    outcomes = {check.outcome for check in checks.values()}
    reasons = tuple(f"{name}: {why}" for name, whys in said.items() for why in whys)
    if "fail" in outcomes:
        return WaveVerdict("fail", reasons, hosts=said)
    if "inconclusive" in outcomes or not checks:
        return WaveVerdict("inconclusive", reasons or ("no host was judged",), hosts=said)
    return WaveVerdict("pass", (), hosts={})


def as_fields(verdict: WaveVerdict) -> dict[str, Any]:
    """As the journal has it."""
    return asdict(verdict)


def numbers(check: Verdict, seen_at: float) -> dict[str, Any]:
    """What the gate counted on one host, as an entry of the event ``observed``."""
    found: dict[str, Any] = {"reachable": check.outcome != "fail" or check.checks[0].outcome == "pass"}
    if check.bytes_total:
        found.update(sent=check.bytes_total, ktls=check.bytes_on_path, share=check.share)
    if check.evidence.get("presumed"):
        found["presumed"] = check.evidence["presumed"]
    if check.evidence.get("hw"):
        found["hw"] = dict(check.evidence["hw"])
    if check.outcome != "pass":
        found["error"] = f"gate {check.outcome}: {check.reason}"
    return found
