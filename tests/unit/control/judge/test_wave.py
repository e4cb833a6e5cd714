# SPDX-License-Identifier: Apache-2.0
"""A wave's verdict: what passes, what fails and where, and that missing data never passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_control.judge.gate import Check, Verdict
from ktls_control.judge.model import ArmTotals, HostSeries, Sample
from ktls_control.judge.regimes import Harm
from ktls_control.judge.wave import judge_wave
from ktls_control.plan.model import Gates, Soak

from .waves import SOAK, each, judge, minutes, since, wave


def test_a_healthy_wave_passes_with_its_numbers() -> None:
    verdict = judge(wave())
    assert verdict.outcome == "pass", verdict.reasons
    answers = {one.name: one for one in verdict.metrics}
    assert {"errors", "cpu", "latency", "throughput"} <= answers.keys()
    cpu = answers["cpu"]
    assert cpu.low is not None and cpu.high is not None and cpu.effect is not None and cpu.p is not None
    assert cpu.low < cpu.effect < cpu.high < cpu.margin == 0.03
    assert cpu.n == 20
    assert verdict.e_value is not None and verdict.e_limit == 40


@pytest.mark.parametrize(
    ("harm", "metric"),
    [
        (Harm(cpu=1.1), "cpu"),
        (Harm(latency=1.15), "latency"),
        (Harm(throughput=0.85), "throughput"),
        (Harm(failures=0.005), "errors"),
    ],
)
def test_harm_fails_where_it_is(harm: Harm, metric: str) -> None:
    verdict = judge(wave(harm))
    failed = {one.name for one in verdict.metrics if one.outcome == "fail"}
    assert verdict.outcome == "fail"
    assert metric in failed and failed <= {metric, f"{metric}_worst_host"}
    assert any(reason.startswith(f"{metric}: ") for reason in verdict.reasons)


def test_gain_is_no_harm() -> None:
    verdict = judge(wave(Harm(cpu=0.8, latency=0.9, throughput=1.1)))
    assert verdict.outcome == "pass", verdict.reasons
    cpu = next(one for one in verdict.metrics if one.name == "cpu")
    assert cpu.high is not None and cpu.high < -0.15


def test_one_sick_host_of_many_is_not_lost_in_the_mean() -> None:
    verdict = judge(wave(Harm(cpu=1.2, hosts=1), hosts=20))
    answers = {one.name: one for one in verdict.metrics}
    assert answers["cpu"].outcome == "pass"
    assert answers["cpu_worst_host"].outcome == "fail"
    assert verdict.outcome == "fail"
    assert "host1" in answers["cpu_worst_host"].detail


def test_hosts_that_switch_by_one_schedule_are_one_draw_for_each_time() -> None:
    first, *rest = wave(hosts=6)
    together = [replace(first, host=f"host{index}") for index in range(1 + len(rest))]
    cpu = next(one for one in judge(together).metrics if one.name == "cpu")
    assert cpu.n == 10


def test_without_block_numbers_the_blocks_are_found() -> None:
    hosts = wave(Harm(cpu=1.05))
    anonymous = [each(one, lambda sample: replace(sample, block=None)) for one in hosts]
    assert judge(anonymous) == judge(hosts)


def test_blocks_without_washout_are_told_apart_by_time() -> None:
    hosts = wave()
    bare = [each(one, lambda sample: replace(sample, block=None, washout=False)) for one in hosts]
    cpu = next(one for one in judge(bare).metrics if one.name == "cpu")
    assert cpu.n == 20


def test_asking_more_often_changes_nothing_between_looks() -> None:
    hosts = wave(soak_s=850.0)

    def cut(at_s: float) -> list[HostSeries]:
        return [
            replace(
                one,
                samples=tuple(sample for sample in one.samples if sample.at_s <= (one.ordered_at_s or 0) + at_s),
                read_at_s=(one.ordered_at_s or 0) + at_s + 1,
            )
            for one in hosts
        ]

    def cpu(at_s: float) -> object:
        return next(one for one in judge(cut(at_s)).metrics if one.name == "cpu")

    assert cpu(100) != cpu(350) != cpu(600)
    assert cpu(350) == cpu(420) == cpu(560)
    assert cpu(600) == cpu(700) == cpu(850)


def test_before_the_main_look_nothing_passes() -> None:
    verdict = judge(wave(soak_s=400.0))
    assert verdict.outcome == "inconclusive"
    assert any("early look" in reason for reason in verdict.reasons)


def test_an_early_look_can_fail() -> None:
    verdict = judge(wave(Harm(cpu=1.5), hosts=6, soak_s=320.0))
    assert verdict.outcome == "fail"


# What cannot be judged


def _gap(series: HostSeries) -> HostSeries:
    return replace(series, samples=series.samples[:-60] + series.samples[-4:])


def _jump(series: HostSeries) -> HostSeries:
    middle = len(series.samples) * 3 // 4
    back = tuple(replace(sample, at_s=sample.at_s - 3600) for sample in series.samples[middle:])
    return replace(series, samples=series.samples[:middle] + back)


BROKEN: dict[str, tuple[Callable[[HostSeries], HostSeries], str]] = {
    "no samples": (lambda one: replace(one, samples=()), "no sample since the order"),
    "baseline only": (
        lambda one: replace(one, samples=tuple(s for s in one.samples if s.at_s <= (one.ordered_at_s or 0))),
        "no sample since the order",
    ),
    "no order": (lambda one: replace(one, ordered_at_s=None), "does not say when the order took effect"),
    "stale": (lambda one: replace(one, read_at_s=one.read_at_s + 300), "last sample is 301 s old"),
    "half the samples": (lambda one: replace(one, samples=one.samples[:1] + one.samples[1::2]), "samples cover 50 %"),
    "a hole": (_gap, "samples cover 5"),
    "clock ahead": (lambda one: replace(one, skew_s=3600.0), "+3600 s off"),
    "clock behind": (lambda one: replace(one, skew_s=-45.0), "-45 s off"),
    "clock not a number": (lambda one: replace(one, skew_s=math.nan), "off the control node"),
    "from the future": (lambda one: replace(one, read_at_s=one.read_at_s - 200), "in the future"),
    "back in time": (_jump, "go back in time"),
    "rebooted": (lambda one: replace(one, read_at_s=30.0, ordered_at_s=9000.0), "it was rebooted"),
    "counters reset": (
        lambda one: since(one, lambda s: replace(s, sent=-5) if s.at_s % 100 < 5 else s),
        "bytes sent went backwards: the sidecar restarted",
    ),
    "no CPU time": (lambda one: since(one, lambda s: replace(s, cpu_s=None)), "CPU time in 0 % of the samples"),
    "no failures known": (lambda one: since(one, lambda s: replace(s, errors=None)), "errors in 0 % of the samples"),
    "no bytes known": (lambda one: since(one, lambda s: replace(s, sent=None)), "bytes sent in 0 % of the samples"),
    "times not numbers": (lambda one: since(one, lambda s: replace(s, seconds=math.nan)), ""),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("all_hosts", [True, False], ids=["every host", "one host of two"])
def test_what_is_broken_is_inconclusive_and_says_why(broken: str, all_hosts: bool) -> None:
    change, why = BROKEN[broken]
    hosts = wave()
    changed = [change(one) if all_hosts or index else one for index, one in enumerate(hosts)]
    verdict = judge(changed)
    assert verdict.outcome == "inconclusive", verdict.reasons
    assert why in "; ".join(verdict.hosts["host2"])
    assert ("host1" in verdict.hosts) == all_hosts


def test_nothing_at_all_is_inconclusive() -> None:
    assert judge([]).outcome == "inconclusive"
    checks = {"host1": Verdict("pass", (), None, 0, 0)}
    verdict = judge_wave("tx", Gates(), [], (), checks)
    assert verdict.outcome == "inconclusive"


def test_a_host_without_a_series_is_inconclusive() -> None:
    hosts = wave()
    checks = {name: Verdict("pass", (), None, 0, 0) for name in ("host1", "host2", "host3")}
    verdict = judge_wave("tx", Gates(), hosts, (), checks, SOAK)
    assert (verdict.outcome, dict(verdict.hosts)) == ("inconclusive", {"host3": ("no series",)})


def test_two_boots_of_a_host_are_inconclusive() -> None:
    first, second = wave()
    again = replace(second, boot_id="other")
    verdict = judge([first, second, again])
    assert verdict.outcome == "inconclusive"
    assert verdict.hosts["host2"] == ("rebooted during the soak",)


def test_a_switchback_that_never_switched_is_inconclusive() -> None:
    hosts = [since(one, lambda sample: replace(sample, arm="on", washout=False, block=None)) for one in wave()]
    verdict = judge(hosts)
    assert verdict.outcome == "inconclusive"
    assert any("no complete pair of blocks" in reason for reason in verdict.reasons)


def test_no_traffic_is_inconclusive() -> None:
    hosts = [since(one, lambda sample: replace(sample, sent=0, ktls=0, connections=0)) for one in wave()]
    verdict = judge(hosts)
    assert verdict.outcome == "inconclusive"
    assert any("no traffic in them" in reason for reason in verdict.reasons)


def test_no_probes_is_inconclusive() -> None:
    verdict = judge([since(one, lambda sample: replace(sample, probe_s=())) for one in wave()])
    assert verdict.outcome == "inconclusive"
    assert any(reason.startswith("latency: ") and "no self-probe" in reason for reason in verdict.reasons)


def test_too_little_traffic_for_the_plan_is_inconclusive() -> None:
    hosts = wave()
    verdict = judge_wave("tx", Gates(), hosts, soak=Soak(600, 900, min_connections=10**9, min_bytes=10**15))
    assert verdict.outcome == "inconclusive"
    assert "1,000,000,000 needed" in " ".join(verdict.reasons)
    assert "needed" in verdict.hosts["host1"][0]


def test_too_few_pairs_never_pass() -> None:
    verdict = judge_wave("tx", Gates(), wave(hosts=1, soak_s=125.0), soak=Soak(120, 120, min_bytes=1))
    assert verdict.outcome == "inconclusive"
    assert any("too few to tell anything" in reason for reason in verdict.reasons)


# Tier 0


def _host(outcome: str, name: str = "probe", detail: str = "content hash differs") -> Verdict:
    return Verdict(outcome, (Check(name, outcome, detail),), None, 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_host_checks_stop_the_wave(outcome: str) -> None:
    verdict = judge_wave("tx", Gates(), wave(), (), {"host1": _host("pass"), "host2": _host(outcome)}, SOAK)
    assert verdict.outcome == outcome
    assert verdict.hosts == {"host2": ("probe: content hash differs",)}


def test_an_unreachable_host_fails_the_wave_without_any_series() -> None:
    verdict = judge_wave("tx", Gates(), [], (), {"host1": _host("fail", "reachable", "the host did not answer")})
    assert verdict.outcome == "fail"


def test_a_record_that_does_not_decrypt_is_one_too_many() -> None:
    first, second = wave()
    once = iter([True])
    changed = since(
        second,
        lambda s: replace(s, errors={"bad_record": 1}) if s.arm == "on" and next(once, False) else s,
    )
    verdict = judge([first, changed])
    assert verdict.outcome == "fail"
    assert verdict.hosts == {"host2": ("bad_record: 1 with kTLS, none without",)}


def test_what_the_host_has_without_ktls_too_is_no_invariant() -> None:
    first, second = wave()
    changed = each(second, lambda s: replace(s, errors={"bad_record": 1}) if s.at_s % 100 < 5 else s)
    assert judge([first, changed]).outcome == "pass"


def test_usual_failures_of_a_host_go_to_the_error_test() -> None:
    first, second = wave()
    changed = each(second, lambda s: replace(s, errors={"io_error": 1}) if s.at_s % 100 < 5 else s)
    checks = {"host1": _host("pass"), "host2": _host("fail", "errors", "new sidecar errors: io_error +3")}
    assert judge_wave("tx", Gates(), [first, changed], (), checks, SOAK).outcome == "pass"
    assert judge_wave("tx", Gates(), [first, second], (), checks, SOAK).outcome == "fail"


def test_a_flood_stops_the_wave_within_its_minute() -> None:
    verdict = judge(wave(Harm(failures=0.5), soak_s=90.0))
    assert verdict.outcome == "fail"
    assert "failures within a minute with kTLS" in verdict.hosts["host1"][0]


# What other judges got wrong: must not pass


def _others(count: int = 3, length: int = 120) -> list[HostSeries]:
    return [minutes(f"later{index}", [], [0] * length, on=False) for index in range(count)]


@pytest.mark.parametrize("method", ["difference", "none"])
@pytest.mark.parametrize("controls", [True, False], ids=["with later waves", "alone"])
@pytest.mark.parametrize(
    "errors",
    [
        [0, 1, 2, 1, 0, 0],
        [1] * 3 + [100] * 7,
        [50 if index % 2 else 0 for index in range(59)] + [0],
        [3 if index % 3 == 0 else 0 for index in range(60)],
    ],
    ids=["kayenta 426", "7 of 10 at 100 times", "1450 in 29 of 60 minutes", "20 of 60 minutes"],
)
def test_failures_that_other_judges_let_pass(errors: list[int], controls: bool, method: str) -> None:
    past = [1] * 60 if errors[0] == 1 else [0] * 60
    host = minutes("canary", errors, past)
    others = _others(length=60 + len(errors)) if controls else []
    verdict = judge_wave("tx", Gates(method=method), [host], others, soak=Soak(60, 3600, min_bytes=1))  # type: ignore[arg-type]
    assert verdict.outcome != "pass"
    assert next(one for one in verdict.metrics if one.name == "errors").outcome != "pass" or verdict.outcome == "fail"


def test_a_metric_that_is_a_hundred_times_worse_in_seven_of_ten_blocks_does_not_pass() -> None:
    hosts = wave(hosts=1)

    def worse(sample: Sample) -> Sample:
        bad = sample.arm == "on" and (sample.block or 0) // 2 < 7
        return replace(sample, cpu_s=(sample.cpu_s or 0) * 100) if bad else sample

    verdict = judge([each(one, worse) for one in hosts])
    cpu = next(one for one in verdict.metrics if one.name == "cpu")
    assert cpu.outcome != "pass" and cpu.effect is not None and cpu.effect > 1
    many = judge([each(one, worse) for one in wave(hosts=4)])
    assert many.outcome == "fail"


def test_harm_in_a_minority_of_blocks_does_not_pass() -> None:
    def worse(sample: Sample) -> Sample:
        bad = sample.arm == "on" and (sample.block or 0) // 2 % 4 == 0
        return replace(sample, cpu_s=(sample.cpu_s or 0) * 2) if bad else sample

    verdict = judge([each(one, worse) for one in wave(hosts=4)])
    assert verdict.outcome == "fail", verdict.reasons


# Connections


def _drawn(errors: tuple[int, int], slower: float = 1.0) -> list[HostSeries]:
    rows = tuple(0.02 * (1 + index % 7 / 70) for index in range(2000))
    arms = {
        "off": ArmTotals(5000, 9000, 10**10, errors[0], rows),
        "on": ArmTotals(5000, 9000, 10**10, errors[1], tuple(slower * one for one in rows)),
    }
    mixed = [since(one, lambda s: replace(s, arm="mixed", washout=False, block=None)) for one in wave()]
    return [replace(one, arms=arms) for one in mixed]


def test_connections_tell_latency_and_failures_but_never_cpu() -> None:
    verdict = judge(_drawn((3, 4)), method="connections")
    outcomes = {one.name: one.outcome for one in verdict.metrics}
    assert outcomes == {"errors": "pass", "cpu": "inconclusive", "latency": "pass", "throughput": "pass"}
    assert verdict.outcome == "inconclusive"


def test_connections_that_fail_or_are_slow_fail_the_wave() -> None:
    failing = judge(_drawn((0, 12)), method="connections")
    assert next(one for one in failing.metrics if one.name == "errors").outcome == "fail"
    slow = judge(_drawn((0, 0), slower=1.2), method="connections")
    assert next(one for one in slow.metrics if one.name == "latency").outcome == "fail"


# Anything


_COUNT = st.none() | st.integers(-3, 10**12)
_TIME = st.floats(allow_nan=True, allow_infinity=True, width=32)
_SAMPLES = st.builds(
    Sample,
    at_s=_TIME | st.floats(0, 1000),
    seconds=_TIME | st.floats(0.1, 60),
    arm=st.sampled_from(["off", "on", "mixed"]),
    washout=st.booleans(),
    cpu_s=st.none() | _TIME,
    sent=_COUNT,
    ktls=_COUNT,
    connections=_COUNT,
    requests=_COUNT,
    errors=st.none() | st.dictionaries(st.sampled_from(["io_error", "bad_record"]), st.integers(-2, 10**6), max_size=2),
    probe_s=st.lists(_TIME, max_size=3).map(tuple),
    block=st.none() | st.integers(0, 9),
)
_SERIES = st.builds(
    HostSeries,
    host=st.sampled_from(["a", "b", "c"]),
    samples=st.lists(_SAMPLES, max_size=8).map(tuple),
    ordered_at_s=st.none() | _TIME | st.floats(0, 100),
    boot_id=st.sampled_from(["1", "2"]),
    read_at_s=_TIME | st.floats(0, 1000),
    skew_s=st.just(0.0) | _TIME,
)


@settings(max_examples=150)
@given(
    st.lists(_SERIES, max_size=4),
    st.lists(_SERIES, max_size=3),
    st.sampled_from(["switchback", "connections", "difference", "none"]),
    st.booleans(),
)
def test_no_series_makes_it_stumble_or_pass(
    series: list[HostSeries], others: list[HostSeries], method: str, soak: bool
) -> None:
    verdict = judge_wave("tx", Gates(method=method), series, others, soak=SOAK if soak else None)  # type: ignore[arg-type]
    assert verdict.outcome in ("fail", "inconclusive") and verdict.reasons
