# SPDX-License-Identifier: Apache-2.0
"""Continuous metrics of a wave: CPU time per byte, latency of the self-probe, throughput; one verdict each.

Effects are differences of logarithms turned back into shares, positive is worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..plan.model import Gates
from . import exact, looks
from .blocks import Pairs
from .columns import Array, Columns
from .groups import means
from .model import ArmTotals, HostSeries, MetricVerdict, Outcome

#: A single host that looks so bad by chance this rarely is no reason to stop, and none to promote.
_UNEASY = 0.02


@dataclass(frozen=True)
class Question:
    """What is asked of a metric at a look. ``look`` None: it is too early for any, the next is at ``next_s``.

    ``halved``: a metric fails by the mean of all hosts or by the worst of them, each with half of its error rate.
    """

    gates: Gates
    look: looks.Look | None
    next_s: float
    halved: bool = False

    def margin(self, metric: str) -> float:
        """Harm that the plan accepts."""
        return margin(self.gates, metric)

    @property
    def alphas(self) -> tuple[float, float]:
        """Error rates of this look: for "harm", for "no harm"."""
        if self.look is None:
            return 0.0, 0.0
        fail = looks.alpha_fail(self.gates.alpha, self.halved)
        return self.look.level(fail), self.look.level(looks.alpha_pass(self.gates.alpha))

    def unknown(self, metric: str, why: str, test: str = "none", n: int = 0) -> MetricVerdict:
        """Cannot be told, and why."""
        return MetricVerdict(metric, "inconclusive", None, None, None, self.margin(metric), test, None, n, why)


def margin(gates: Gates, metric: str) -> float:
    """Harm that a plan accepts of a metric."""
    return {"cpu": gates.cpu_margin, "latency": gates.latency_margin}.get(metric, gates.throughput_margin)


def log_ratio(above: Array, below: Array) -> Array:
    """log(above/below), NaN where that says nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(above / below)
    return np.where(np.isfinite(value), value, np.nan)


def harm_of(metric: str, seconds: Array, cpu: Array, sent: Array, latency: Array) -> Array:
    """The metric on a logarithmic scale, such that more is worse."""
    if metric == "cpu":
        return log_ratio(cpu, sent)
    if metric == "latency":
        return log_ratio(latency, np.ones(1))
    return log_ratio(seconds, sent)


def switchback(metric: str, pairs: Pairs, question: Question, hosts: int) -> MetricVerdict:
    """One metric by sign flips over pairs of blocks: each host's blocks are compared with its own."""
    test = "switchback, sign flips of pairs"
    if question.look is None:
        return question.unknown(metric, f"first look after {question.next_s:.0f} s of the soak", test)
    harm = harm_of(metric, pairs.seconds, pairs.cpu, pairs.sent, pairs.latency)
    rows = pairs.before(question.look.at_s)
    both = (harm[:, 1] - harm[:, 0])[rows]
    units = _units(both, pairs, rows)
    some = units[np.isfinite(units)]
    if len(some) == 0:
        what = "self-probe in them" if metric == "latency" else "traffic in them"
        why = "no complete pair of blocks yet" if not rows.any() else f"{len(both)} pairs of blocks, but no {what}"
        return question.unknown(metric, why, test)
    if np.isfinite(both).mean() < 0.8:
        why = f"{np.isfinite(both).sum()} of {len(both)} pairs of blocks have data, 80 % needed"
        return question.unknown(metric, why, test, len(some))
    tested = exact.sign_flip(some, *question.alphas)
    seen = len(set(pairs.host[rows].tolist()))
    return verdict(metric, tested, question, test, len(some), f"{len(some)} pairs of blocks, {_hosts(seen)} of {hosts}")


def worst_host(metric: str, pairs: Pairs, question: Question, names: Sequence[str]) -> MetricVerdict | None:
    """The host that looks worst: the mean of many hosts hides a single sick one. It can fail, and holds nothing up."""
    if question.look is None or len(names) < 2:
        return None
    rows = pairs.before(question.look.at_s)
    if not rows.any():
        return None
    harm = harm_of(metric, pairs.seconds, pairs.cpu, pairs.sent, pairs.latency)
    host, number = pairs.host[rows], pairs.number[rows]
    table = np.full((len(names), int(number.max()) + 1), np.nan)
    table[host, number] = (harm[:, 1] - harm[:, 0])[rows]
    known = np.isfinite(table).sum(axis=1)
    if not known.any():
        return None
    # Worse than the margin, not worse than nothing: with harm below it everywhere, chance lifts some host above it.
    above = table - math.log1p(question.margin(metric))
    worst, p = exact.worst_of(above, one_schedule(host, number, pairs.order[rows]))
    effect = math.expm1(min(float(np.nanmean(table[worst])), 50.0)) if known[worst] else 0.0
    alpha, _ = question.alphas
    outcome: Outcome = "pass"
    if p <= alpha and effect > question.margin(metric):
        outcome = "fail"
    elif p <= _UNEASY and effect > question.margin(metric):
        outcome = "inconclusive"
    return MetricVerdict(
        f"{metric}_worst_host",
        outcome,
        effect,
        None,
        None,
        question.margin(metric),
        "switchback, sign flips, worst of all hosts",
        p,
        int(known[worst]),
        f"{names[worst]} is worst: {effect:+.1%} in {known[worst]} pairs; chance that any host within the margin "
        f"looks so: {p:.2%} (fails at {alpha:.2%})",
        gating=outcome == "inconclusive",
    )


def tail(pairs: Pairs, question: Question) -> MetricVerdict | None:
    """Slow self-probes, for people to look at: too few of them to gate by. The effect is a share of all probes."""
    if question.look is None:
        return None
    rows = pairs.before(question.look.at_s) & (pairs.probes > 0).all(axis=1)
    if pairs.probes[rows].sum() < 40:
        return None
    share = pairs.slow[rows] / pairs.probes[rows]
    units = _units(share[:, 1] - share[:, 0], pairs, rows)
    tested = exact.sign_flip(units[np.isfinite(units)], *question.alphas)
    off, on = pairs.slow[rows].sum(axis=0) / pairs.probes[rows].sum(axis=0)
    outcome: Outcome = "pass" if tested.p > 0.05 else "inconclusive"
    return MetricVerdict(
        "latency_tail",
        outcome,
        tested.effect,
        None,
        None,
        0.0,
        "switchback, sign flips of pairs",
        tested.p,
        len(units),
        f"slow probes (slowest tenth of the host): {on:.0%} with kTLS, {off:.0%} without; shown, not gated",
        gating=False,
    )


def _units(differences: Array, pairs: Pairs, rows: Array) -> Array:
    """What chance dealt independently: pairs, or, when all hosts switch by one schedule, times of pairs."""
    host, number, order = pairs.host[rows], pairs.number[rows], pairs.order[rows]
    if not one_schedule(host, number, order):
        return differences
    good = np.isfinite(differences)
    count = np.bincount(number[good])
    total = np.bincount(number[good], weights=differences[good])
    return total[count > 0] / count[count > 0]


def one_schedule(host: Array, number: Array, order: Array) -> bool:
    """Whether several hosts have every pair in the same order, and chance does not explain it."""
    if len(number) == 0 or len(np.unique(host)) < 2:
        return False
    count = np.bincount(number)
    ones = np.bincount(number, weights=order)
    alike = bool(((ones == 0) | (ones == count)).all())
    return alike and int((count[count > 0] - 1).sum()) >= 4


def difference(metric: str, ours: Columns, theirs: Columns, question: Question) -> MetricVerdict:
    """One metric by difference in differences: how hosts changed with the order, against hosts of later waves."""
    test = "difference in differences, permutation of hosts"
    if question.look is None:
        return question.unknown(metric, f"first look after {question.next_s:.0f} s of the soak", test)
    changed, unchanged = (change(metric, columns, question.look.at_s) for columns in (ours, theirs))
    k, m = len(changed), len(unchanged)
    if np.isfinite(changed).sum() < k or k == 0:
        what = "self-probes" if metric == "latency" else "traffic"
        return question.unknown(
            metric, f"{k - int(np.isfinite(changed).sum())} of {k} hosts lack {what} before or after the order", test, k
        )
    unchanged = unchanged[np.isfinite(unchanged)]
    m = len(unchanged)
    need, _ = question.alphas
    if m == 0 or 1 / math.comb(k + m, k) > need:
        return question.unknown(
            metric,
            f"{_hosts(k)} against {m} of later waves: too few for a permutation to tell anything "
            f"({hosts_needed(k, need)} in all needed); a switchback can judge a single host",
            test,
            k + m,
        )
    tested = exact.permutation(changed, unchanged, *question.alphas)
    return verdict(metric, tested, question, test, k + m, f"{_hosts(k)} against {m} of later waves")


def hosts_needed(k: int, alpha: float) -> int:
    """Fewest hosts in all, ``k`` of them changed, for which a permutation test can have a p-value of ``alpha``."""
    n = k + 1
    while math.comb(n, k) * alpha < 1 and n < 100_000:
        n += 1
    return n


def change(metric: str, columns: Columns, until_s: float, since_s: float = -math.inf) -> Array:
    """After less before, for each host, on the logarithmic scale.

    :param until_s: how much of the soak counts; ``since_s``: where the baseline begins (below 0).
    """
    values = []
    spans = ((since_s, 0.0), (0.0, until_s + 1e-6))
    for low, high in spans:
        rows = (columns.since > low) & (columns.since <= high)
        known = rows & np.isfinite(columns.sent) & (np.isfinite(columns.cpu) | (metric != "cpu"))
        seconds, cpu, sent = (
            np.bincount(columns.host[known], weights=column[known], minlength=columns.hosts)
            for column in (columns.seconds, columns.cpu, columns.sent)
        )
        latency = _host_latency(columns, low, high) if metric == "latency" else np.ones(columns.hosts)
        values.append(harm_of(metric, seconds, cpu, sent, latency))
    changed: Array = values[1] - values[0]
    return changed


def _host_latency(columns: Columns, low: float, high: float) -> Array:
    """Geometric mean of the self-probes of each host in a span of time."""
    if len(columns.probe_row) == 0:
        return np.full(columns.hosts, np.nan)
    since = columns.since[columns.probe_row]
    rows = (since > low) & (since <= high) & (columns.probe > 0)
    return np.exp(means(columns.host[columns.probe_row][rows], np.log(columns.probe[rows]), columns.hosts)[0])


def connections(metric: str, series: Mapping[str, Mapping[str, ArmTotals]], question: Question) -> MetricVerdict:
    """One metric by connections that drew their arm by chance, host by host, then pooled."""
    test = "connections drawn by chance, stratified by host"
    if metric == "cpu":
        return question.unknown(
            metric, "CPU time cannot be told apart by connection; a switchback or later waves can judge it", test
        )
    if question.look is None:
        return question.unknown(metric, f"first look after {question.next_s:.0f} s of the soak", test)
    effects, weights, count = [], [], 0
    for arms in series.values():
        on, off = arms.get("on"), arms.get("off")
        if on is None or off is None or len(on.seconds) < 30 or len(off.seconds) < 30:
            continue
        a, b = (np.log(np.maximum(np.asarray(arm.seconds, float), 1e-9)) for arm in (on, off))
        if metric == "throughput":
            # Bytes that a connection got in a second of its life; without their sizes, the mean size of its arm.
            a, b = (
                a - math.log(max(on.sent / on.connections, 1e-9)),
                b - math.log(max(off.sent / off.connections, 1e-9)),
            )
        effects.append(float(a.mean() - b.mean()))
        weights.append(1 / max(float(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)), 1e-18))
        count += len(a) + len(b)
    if len(effects) < len(series) or not effects:
        why = f"{len(effects)} of {len(series)} hosts have 30 timed connections of each arm"
        return question.unknown(metric, why, test, count)
    tested = _pooled(np.array(effects), np.array(weights), *question.alphas)
    return verdict(metric, tested, question, test, count, f"{count} connections, {_hosts(len(effects))}")


def _pooled(effects: Array, weights: Array, alpha_low: float, alpha_high: float) -> exact.Tested:
    """Mean over hosts weighed by precision; thousands of connections make it normal."""
    from scipy.special import ndtr, ndtri

    effect = float((effects * weights).sum() / weights.sum())
    error = math.sqrt(1 / weights.sum())
    low = effect + float(ndtri(alpha_low)) * error
    return exact.Tested(effect, low, effect - float(ndtri(alpha_high)) * error, float(ndtr(-effect / error)), 0.0)


def verdict(metric: str, tested: exact.Tested, question: Question, test: str, n: int, counted: str) -> MetricVerdict:
    """Pass, fail or neither, of a test on the logarithmic scale."""
    alpha_low, alpha_high = question.alphas
    margin = question.margin(metric)
    effect, low, high = (math.expm1(min(value, 50.0)) for value in (tested.effect, tested.low, tested.high))
    main = question.look is not None and question.look.number >= 0
    outcome: Outcome = "inconclusive"
    if low > 0 and effect > margin:
        outcome, why = "fail", f"worse by {effect:+.1%}, margin {margin:.0%}"
    elif not main:
        why = "early look: it can only fail"
    elif high < margin:
        outcome, why = "pass", f"not worse by {margin:.0%}"
    elif tested.smallest > alpha_high:
        why = "too few to tell anything"
    elif low > 0:
        why = f"worse, but perhaps by less than {margin:.0%}"
    else:
        why = f"could be worse by up to {high:.1%}, margin {margin:.0%}"
    detail = f"{why}; {counted}; at {question.look.at_s:.0f} s" if question.look else why
    return MetricVerdict(
        metric,
        outcome,
        effect,
        low if math.isfinite(tested.low) else None,
        high if math.isfinite(tested.high) else None,
        margin,
        test,
        tested.p,
        n,
        f"{detail} (bounds at {alpha_low:.2%} and {alpha_high:.2%})",
    )


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"


def arms_of(series: list[HostSeries]) -> dict[str, Mapping[str, ArmTotals]]:
    """Totals by arm of each host."""
    return {one.host: one.arms for one in series}
