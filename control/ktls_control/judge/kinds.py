# SPDX-License-Identifier: Apache-2.0
"""A wave whose hosts are served by different datapaths: each kind is judged by itself, and all of them have to pass.

Programs differ in what they cost and in what happens to them, so hosts are compared with hosts of their own kind alone.
Where connections cannot be dealt by chance, a change over time is compared with that of hosts which were left as they
are. The error rate of the gate is shared by the kinds, so that it stays what the plan says for the wave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..plan.model import Gates, HostDatapath, Soak
from .gate import Verdict
from .model import HostSeries, Outcome, WaveVerdict

#: Metrics that a host without something cannot have; keys as in :mod:`ktls_control.plan.datapaths`.
_METRICS: Mapping[str, tuple[str, ...]] = {
    "errors": ("errors",),
    "bytes": ("cpu", "throughput"),
    "probe": ("latency",),
    "series": ("errors", "cpu", "latency", "throughput"),
}
_RANK: Mapping[Outcome, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


def kinds(datapaths: Mapping[str, HostDatapath]) -> dict[str, HostDatapath]:
    """A datapath of each kind that there is (each service is one by itself), the sidecar's first."""
    found: dict[str, HostDatapath] = {}
    for each in sorted(datapaths.values(), key=lambda one: (one.kind != "sidecar", one.kind, one.unit)):
        found.setdefault(each.name, each)
    return found


def gates_of(gates: Gates, experiments: bool, count: int) -> Gates:
    """The gates of one kind of a wave that has ``count`` of them."""
    method = gates.method if experiments or gates.method not in ("switchback", "connections") else gates.otherwise
    if method != gates.method:
        gates = replace(gates, method=method)
    return replace(gates, alpha=gates.alpha / count) if count > 1 else gates


def unfed_metrics(unfed: Iterable[str]) -> tuple[str, ...]:
    """Metrics that cannot be told of a host."""
    return tuple(name for what in unfed for name in _METRICS.get(what, ()))


def judge(
    phase: str,
    gates: Gates,
    series: Sequence[HostSeries],
    others: Sequence[HostSeries],
    checks: Mapping[str, Verdict],
    soak: Soak,
    datapaths: Mapping[str, HostDatapath],
) -> WaveVerdict:
    """As :func:`.wave.judge_wave`, kind by kind.

    :param datapaths: of every host in ``series``, ``others`` and ``checks``; one that is not there has the sidecar.
    """
    # Here: numpy and scipy are for judging alone.
    from .wave import judge_wave

    def kind_of(host: str) -> str:
        return datapaths.get(host, HostDatapath()).name

    members = {*(one.host for one in series), *checks}
    found = kinds({name: datapaths.get(name, HostDatapath()) for name in members}) or {"sidecar": HostDatapath()}
    # Of all kinds together there have to be so many, and of a single one need not.
    own_soak = soak if len(found) == 1 else replace(soak, min_connections=0)
    verdicts = {}
    for kind, datapath in found.items():
        verdicts[kind] = judge_wave(
            phase,
            gates_of(gates, datapath.experiments, len(found)),
            [one for one in series if kind_of(one.host) == kind],
            [one for one in others if kind_of(one.host) == kind],
            {name: check for name, check in checks.items() if kind_of(name) == kind},
            own_soak,
            {name: datapaths[name].unfed for name in members if name in datapaths and kind_of(name) == kind},
            own_server=kind == "sidecar",
        )
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    return _together(verdicts, _few(series, soak))


def _few(series: Sequence[HostSeries], soak: Soak) -> list[str]:
    """Whether all hosts together have had the connections that the plan asks for."""
    accepted = sum(
        sample.connections or 0
        for one in series
        if one.ordered_at_s is not None
        for sample in one.samples
        if sample.at_s > one.ordered_at_s
    )
    if accepted >= soak.min_connections:
        return []
    return [f"{accepted:,} connections since the order, {soak.min_connections:,} needed"]


def _together(verdicts: Mapping[str, WaveVerdict], few: Sequence[str]) -> WaveVerdict:
    """The worst of all kinds; metrics and reasons say of which kind they are."""
    outcome = max((one.outcome for one in verdicts.values()), key=lambda each: _RANK[each])
    if few and outcome == "pass":
        outcome = "inconclusive"
    reasons = [
        f"{kind}: {why}"
        for rank in ("fail", "inconclusive", "pass")
        for kind, one in verdicts.items()
        if one.outcome == rank and (rank != "pass" or outcome == "pass")
        for why in one.reasons
    ]
    metrics = tuple(
        metric if kind == "sidecar" else replace(metric, name=f"{metric.name}@{kind}")
        for kind, one in verdicts.items()
        for metric in one.metrics
    )
    known = [one for one in verdicts.values() if one.e_value is not None]
    # Each has its own limit, which is the same for all: the highest is the one to look at.
    worst = max(known, key=lambda one: one.e_value or 0.0, default=WaveVerdict("pass", ()))
    hosts = {name: why for one in verdicts.values() for name, why in one.hosts.items()}
    return WaveVerdict(
        outcome, (*reasons, *few), metrics, worst.e_value, worst.e_path, worst.e_limit, dict(sorted(hosts.items()))
    )
