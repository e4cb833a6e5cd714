# SPDX-License-Identifier: Apache-2.0
"""The gate of a wave: pass, fail or inconclusive, from what its hosts recorded before and since their order.

Four tiers, and the first that stops the wave is enough: invariants (no statistics), failures (a test that may be
watched all the time), continuous metrics (tests by what chance dealt), and promotion (no harm above the margin, which
is more than "no alarm"). See docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from ..plan.model import Gates, Soak
from . import blocks, columns, errors, gate, health, looks, metrics
from .columns import Columns
from .model import ArmTotals, HostSeries, MetricVerdict, Outcome, WaveVerdict

#: Failures that only broken kernel TLS makes: one is too many.
INVARIANTS = ("bad_record", "bad_record_mac", "key_expired", "decrypt_error", "TlsDecryptError", "plaintext")
_PATH = 240
#: Without any failure among so many connections fewer than 1 % of them fail, at 95 % (the rule of three).
_FEWEST_TRIES = 300


def judge_wave(
    phase: str,
    gates: Gates,
    series: Sequence[HostSeries],
    others: Sequence[HostSeries] = (),
    host_checks: Mapping[str, gate.Verdict] | None = None,
    soak: Soak | None = None,
    unfed: Mapping[str, Sequence[str]] | None = None,
    *,
    own_server: bool = True,
) -> WaveVerdict:
    """Judge a wave now. May be asked at any time and as often as one likes: :mod:`.looks` says why that is no peeking.

    :param phase: what was ordered.
    :param series: one for each host of the wave, with its baseline; ``others``: hosts of later waves, which took none.
    :param host_checks: of each host, tier 0; a host that is here and has no series cannot be told.
    :param soak: of the wave in the plan: sets the times of the looks. Pass the same one for the whole wave.
    :param unfed: what single hosts cannot tell, as in :mod:`ktls_control.plan.datapaths`: they are judged by the rest.
    :param own_server: the datapath is ours, which fails only where something is wrong. Of another server the failures
        are everything that its clients saw, and how many are too many is for the error test to say.
    """
    checks, silent = host_checks or {}, unfed or {}
    failed, unknown = _host_checks(checks, {one.host: one for one in series}, silent, own_server)
    if not series:
        return _verdict(failed, {**unknown, "": ["no series of any host: nothing to judge by"]})
    ours, usable = _usable(series, unknown, silent)
    for name in checks.keys() - {one.host for one in series}:
        _add(unknown, name, "no series")
    _invariants(series, failed)
    if ours is None:
        return _verdict(failed, unknown)
    theirs = _controls(usable, others)
    arms = metrics.arms_of(usable) if gates.method == "connections" else {}
    return judge_columns(gates, ours, theirs, soak, arms, failed, unknown, len(series), silent)


def judge_columns(
    gates: Gates,
    ours: Columns,
    theirs: Columns | None = None,
    soak: Soak | None = None,
    arms: Mapping[str, Mapping[str, ArmTotals]] | None = None,
    failed: dict[str, list[str]] | None = None,
    unknown: dict[str, list[str]] | None = None,
    planned: int | None = None,
    unfed: Mapping[str, Sequence[str]] | None = None,
) -> WaveVerdict:
    """The same for series that are tables already, all of them usable.

    :param arms: totals by host of a ``connections`` experiment; ``planned``: hosts of the wave, if more than there are.
    :param failed: what is known of single hosts already; ``unknown``: what they could not say.
    """
    failed, unknown = failed if failed is not None else {}, unknown if unknown is not None else {}
    for name, why in errors.floods(ours, theirs).items():
        _add(failed, name, why)
    newest = np.full(ours.hosts, -np.inf)
    np.maximum.at(newest, ours.host, ours.since)
    elapsed = float(newest.min())
    if soak is not None:
        _traffic(ours, soak, unknown, [name for name, what in (unfed or {}).items() if "bytes" in what])
    plan = looks.schedule(gates, soak, planned or ours.hosts)
    halved = gates.method == "switchback" and (planned or ours.hosts) > 1
    question = metrics.Question(gates, plan.due(elapsed), plan.following(elapsed), halved)
    pairs = blocks.find(ours, gates.block_s, gates.washout_s) if gates.method == "switchback" else None
    found = errors.test(pairs, arms or {}, ours, theirs)
    answers = [_errors_verdict(found, gates), *_metrics(gates, question, pairs, arms or {}, ours, theirs)]
    return _verdict(failed, unknown, answers, found, looks.e_limit(gates.alpha))


def _metrics(
    gates: Gates,
    question: metrics.Question,
    pairs: blocks.Pairs | None,
    arms: Mapping[str, Mapping[str, ArmTotals]],
    ours: Columns,
    theirs: Columns | None,
) -> Iterable[MetricVerdict]:
    if gates.method == "none":
        return
    for name in looks.GATING:
        if pairs is not None:
            yield metrics.switchback(name, pairs, question, ours.hosts)
        elif gates.method == "connections":
            yield metrics.connections(name, arms, question)
        elif theirs is not None:
            yield metrics.difference(name, ours, theirs, question)
        else:
            yield question.unknown(name, "no hosts of later waves to compare with; a switchback needs none")
    if pairs is not None:
        more = [metrics.worst_host(name, pairs, question, ours.names) for name in looks.GATING]
        yield from (answer for answer in (*more, metrics.tail(pairs, question)) if answer is not None)


def _host_checks(
    checks: Mapping[str, gate.Verdict],
    series: Mapping[str, HostSeries],
    unfed: Mapping[str, Sequence[str]],
    own_server: bool,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What hosts failed by alone, and what they could not say."""
    failed: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for host, verdict in checks.items():
        for check in verdict.checks:
            if check.outcome == "fail":
                tested = _counted(check) and not own_server and host in series and "errors" not in unfed.get(host, ())
                if not tested and not _usual_errors(check, series.get(host)):
                    _add(failed, host, f"{check.name}: {check.detail}")
            elif check.outcome == "inconclusive":
                _add(unknown, host, f"{check.name}: {check.detail}")
    return failed, unknown


def _counted(check: gate.Check) -> bool:
    """Failures were counted, in contrast to: the server is gone."""
    return check.name == "errors" and check.detail.startswith("new ")


def _usual_errors(check: gate.Check, series: HostSeries | None) -> bool:
    """Whether the host fails now and then without kTLS too: then the error test says whether it is more."""
    if not _counted(check) or series is None:
        return False
    return any(sample.arm == "off" and sum((sample.errors or {}).values()) > 0 for sample in series.samples)


def _usable(
    series: Sequence[HostSeries], unknown: dict[str, list[str]], unfed: Mapping[str, Sequence[str]]
) -> tuple[Columns | None, list[HostSeries]]:
    """Columns of the hosts that can be judged; of the others, why not."""
    seen: dict[str, set[str]] = {}
    for one in series:
        seen.setdefault(one.host, set()).add(one.boot_id)
    twice = {host for host in seen if len([one for one in series if one.host == host]) > 1}
    for host in sorted(twice):
        _add(unknown, host, "rebooted during the soak" if len(seen[host]) > 1 else "two series of one host")
    alone = [one for one in series if one.host not in twice]
    everything = columns.of(alone, [_ordered(one) for one in alone])
    good = []
    for one, found in zip(alone, health.problems(alone, everything, unfed), strict=True):
        for why in found:
            _add(unknown, one.host, why)
        if not found:
            good.append(one)
    if len(good) == len(alone):
        return (everything if good else None), good
    return (columns.of(good, [_ordered(one) for one in good]) if good else None), good


def _ordered(series: HostSeries) -> float:
    return series.ordered_at_s if series.ordered_at_s is not None else float("inf")


def _controls(ours: Sequence[HostSeries], others: Sequence[HostSeries]) -> Columns | None:
    """Hosts of later waves, their time counted from the wave's order (each clock is a host's own: by age)."""
    if not others:
        return None
    age = median(one.read_at_s - _ordered(one) for one in ours)
    placed = [(one, one.read_at_s - age) for one in others if one.ordered_at_s is None and one.samples]
    placed = [
        (one, at)
        for one, at in placed
        if one.samples[0].at_s <= at < one.samples[-1].at_s
        and abs(one.skew_s) <= health.MAX_SKEW_S
        and one.read_at_s - one.samples[-1].at_s <= max(health.STALE_S, 0.1 * age)
    ]
    return columns.of([one for one, _ in placed], [at for _, at in placed]) if placed else None


def _invariants(series: Sequence[HostSeries], failed: dict[str, list[str]]) -> None:
    """Failures that must never be, unless the host has them without kTLS too."""
    for one in series:
        with_ktls: dict[str, int] = {}
        without: set[str] = set()
        for sample in one.samples:
            if not sample.errors:
                continue
            for name in INVARIANTS:
                count = sample.errors.get(name, 0)
                if count > 0 and (sample.arm == "off" or sample.at_s <= _ordered(one)):
                    without.add(name)
                elif count > 0:
                    with_ktls[name] = with_ktls.get(name, 0) + count
        for name, count in with_ktls.items():
            if name not in without:
                _add(failed, one.host, f"{name}: {count} with kTLS, none without")


def _traffic(ours: Columns, soak: Soak, unknown: dict[str, list[str]], silent: Sequence[str]) -> None:
    """Whether there was enough of it since the order.

    :param silent: hosts that do not say what they sent: their own check has it from the kernel.
    """
    since = ours.since > 0
    accepted = int(np.nansum(ours.connections[since]))
    sent = np.bincount(ours.host[since], weights=np.nan_to_num(ours.sent[since]), minlength=ours.hosts)
    for index in np.flatnonzero(sent < soak.min_bytes).tolist():
        if ours.names[index] not in silent:
            why = f"{sent[index]:,.0f} bytes sent since the order, {soak.min_bytes:,} needed"
            _add(unknown, ours.names[index], why)
    if accepted < soak.min_connections:
        _add(unknown, "", f"{accepted:,} connections since the order, {soak.min_connections:,} needed")


def _errors_verdict(found: errors.ErrorTest, gates: Gates) -> MetricVerdict:
    """The error test as a row among the metrics."""
    limit = looks.e_limit(gates.alpha)
    outcome: Outcome = "pass"
    if not found.compared and found.with_ktls == 0 and found.tries >= _FEWEST_TRIES:
        why = "no failure, so none more than without kTLS, whatever that has"
    elif not found.compared:
        outcome, why = "inconclusive", "nothing to compare failures with: no baseline, blocks or later waves"
    elif found.value >= limit:
        outcome, why = "fail", f"E {found.value:,.1f} reached {limit:g}"
    elif found.suspicious:
        outcome, why = (
            "inconclusive",
            f"more with kTLS than chance explains well (p {found.p:.3f}), E {found.value:.2g}",
        )
    else:
        why = f"E {found.value:.2g} of {limit:g}"
    counted = (
        f"{found.with_ktls} with kTLS, {found.without} without, against {' and '.join(found.compared) or 'nothing'}"
    )
    if found.with_ktls == 0 and found.tries:
        # Rule of three: upper 95 % bound of a share of which none was seen.
        counted += f"; none in {found.tries:,} connections: below {3 / found.tries:.2%} of them"
    return MetricVerdict(
        "errors",
        outcome,
        None,
        None,
        None,
        0.0,
        "E-process on bad minutes",
        found.p,
        len(found.path),
        f"{why}; {counted}",
    )


def _verdict(
    failed: Mapping[str, Sequence[str]],
    unknown: Mapping[str, Sequence[str]],
    answers: Sequence[MetricVerdict] = (),
    found: errors.ErrorTest | None = None,
    limit: float | None = None,
) -> WaveVerdict:
    """The worst of everything, with the reasons of that rank first."""
    by_rank: dict[Outcome, list[str]] = {
        "fail": [_line(host, why) for host, why in failed.items()],
        "inconclusive": [_line(host, why) for host, why in unknown.items()],
        "pass": [],
    }
    for answer in answers:
        if answer.gating or answer.outcome == "fail":
            by_rank[answer.outcome].append(f"{answer.name}: {answer.detail}")
    outcome: Outcome = "fail" if by_rank["fail"] else "inconclusive" if by_rank["inconclusive"] else "pass"
    if not answers and outcome == "pass":
        outcome, by_rank["inconclusive"] = "inconclusive", ["nothing was judged"]
    hosts = {
        host: (*failed.get(host, ()), *unknown.get(host, ())) for host in sorted(failed.keys() | unknown.keys()) if host
    }
    reasons = by_rank[outcome] if outcome == "pass" else by_rank["fail"] + by_rank["inconclusive"]
    path = _thinned(found.path) if found else ()
    value = found.value if found and found.compared else None
    return WaveVerdict(outcome, tuple(reasons), tuple(answers), value, path, limit, hosts)


def _thinned(path: tuple[float, ...]) -> tuple[float, ...]:
    """At most so many points, the last among them."""
    step = -(-len(path) // _PATH) or 1
    return path[::-step][::-1]


def _line(host: str, why: Sequence[str]) -> str:
    return f"{host}: {'; '.join(why)}" if host else "; ".join(why)


def _add(where: dict[str, list[str]], host: str, why: str) -> None:
    where.setdefault(host, []).append(why)
