# SPDX-License-Identifier: Apache-2.0
"""What hosts do, with and without something wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ktls_agent.guards import config as guards_config
from ktls_agent.guards import part as guards_part
from ktls_control.errors import ControlError
from ktls_control.judge.model import HostSeries, Sample
from ktls_control.plan.model import Gates
from ktls_control.simulate import noise, series
from ktls_control.simulate.regression import METRICS, Metric

CALM = replace(noise.Formula(), host_sd=0.0, load_sd=0.0, size_sd=0.0, traffic_sd=0.0, shock_sd=0.0, own_sd=0.0,
               spike_share=0.0, probe_host_sd=0.0, probe_sd=0.0, errors_per_request=0.0)  # fmt: skip


def draw(method: str = "switchback", source: noise.Noise = CALM, hosts: int = 2, **change: float) -> list[HostSeries]:
    gates = Gates(method=method)  # type: ignore[arg-type]
    nothing = np.zeros(hosts)
    effects: dict[Metric, noise.Floats] = {metric: nothing + change.get(metric, 0.0) for metric in METRICS}
    effect = series.Effect(effects, nothing + change.get("errors_per_s", 0.0))
    names = [f"h{number}" for number in range(hosts)]
    return series.Drawing(names, source, gates, series.schedule(gates, 600), effect, np.random.default_rng(7)).until(
        600
    )


def cost(samples: list[Sample]) -> float:
    return sum(one.cpu_s or 0 for one in samples) / sum(one.sent or 0 for one in samples)


def arms(one: HostSeries) -> tuple[list[Sample], list[Sample]]:
    since = [sample for sample in one.samples if sample.at_s > (one.ordered_at_s or 0) and not sample.washout]
    return [sample for sample in since if sample.arm == "on"], [sample for sample in since if sample.arm == "off"]


def test_a_switchback_has_pairs_of_blocks_in_an_order_of_chance() -> None:
    one, other = draw()
    on, off = arms(one)
    assert len(on) == len(off) == 10
    since = [sample.arm for sample in one.samples if sample.at_s > (one.ordered_at_s or 0)]
    pairs = [tuple(since[at : at + 4]) for at in range(0, 40, 4)]
    assert set(pairs) == {("on", "on", "off", "off"), ("off", "off", "on", "on")}
    assert since != [sample.arm for sample in other.samples if sample.at_s > (other.ordered_at_s or 0)]
    assert {sample.seconds for sample in on} == {25.0}
    assert sum(sample.washout for sample in one.samples) == 20
    assert all(sample.ktls == (sample.sent if sample.arm == "on" else 0) for sample in one.samples)


def test_what_is_wrong_is_wrong_with_the_phase_alone() -> None:
    on, off = arms(draw(cpu=0.08, latency=0.5, throughput=-0.2, errors=0.01)[0])
    assert cost(on) / cost(off) == pytest.approx(1.08, rel=1e-3)
    assert sum(one.sent or 0 for one in on) / sum(one.sent or 0 for one in off) == pytest.approx(0.8, rel=0.05)
    assert {round(took, 6) for one in on for took in one.probe_s} == {0.03}
    assert {round(took, 6) for one in off for took in one.probe_s} == {0.02}
    failures = [sum(sum((one.errors or {}).values()) for one in arm) for arm in (on, off)]
    requests = sum(one.requests or 0 for one in on) / 0.8
    assert failures[1] == 0
    assert failures[0] == pytest.approx(requests * 0.01, rel=0.4)


def test_an_earlier_look_sees_the_beginning_of_the_same() -> None:
    gates, nothing = Gates(), series.Effect({metric: np.zeros(1) for metric in METRICS}, np.zeros(1))
    rng = np.random.default_rng(1)
    drawing = series.Drawing(["h"], noise.LEVELS["usual"], gates, series.schedule(gates, 600), nothing, rng)
    early, late = drawing.until(300)[0], drawing.until(600)[0]
    assert early.samples == late.samples[: len(early.samples)]
    assert early.read_at_s - (early.ordered_at_s or 0) == 300
    assert early.samples[-1].at_s <= early.read_at_s


def test_nothing_wrong_makes_no_difference() -> None:
    on, off = arms(draw()[0])
    assert cost(on) == pytest.approx(cost(off), rel=1e-6)


def test_a_rate_of_failures_is_by_time() -> None:
    on, _ = arms(draw(errors_per_s=0.5)[0])
    assert sum(sum((one.errors or {}).values()) for one in on) == pytest.approx(125, rel=0.3)


def test_connections_of_each_arm() -> None:
    one = draw("connections", latency=0.3, throughput=-0.1)[0]
    assert {sample.arm for sample in one.samples if sample.at_s > (one.ordered_at_s or 0)} == {"mixed"}
    on, off = one.arms["on"], one.arms["off"]
    assert np.median(on.seconds) / np.median(off.seconds) == pytest.approx(1.3, rel=1e-6)
    assert on.sent / off.sent == pytest.approx(0.9, rel=1e-6)


def test_hosts_that_took_no_order_have_one_arm() -> None:
    gates = Gates(method="difference")
    nothing = series.Effect({metric: np.zeros(1) for metric in METRICS}, np.zeros(1))
    schedule = series.schedule(gates, 600)
    drawing = series.Drawing(["h"], CALM, gates, schedule, nothing, np.random.default_rng(1), ordered=False)
    one = drawing.until(600)[0]
    assert one.ordered_at_s is None
    assert {sample.arm for sample in one.samples} == {"off"}


def test_probes_come_as_the_agent_makes_them() -> None:
    assert guards_config.GuardsConfig().probe_interval_s == noise.PROBE_EVERY_S
    assert guards_part.TRIAL_PROBE_S == noise.TRIAL_PROBE_EVERY_S
    assert noise.PROBE_JITTER == guards_part._JITTER
    one = draw()[0]
    whole = sum(sample.seconds for sample in one.samples)
    assert sum(len(sample.probe_s) for sample in one.samples) == pytest.approx(whole / 30, rel=0.1)


def test_the_formula_is_what_it_says() -> None:
    rng = np.random.default_rng(3)
    ends = np.arange(1, 400) * 30.0
    source = replace(CALM, own_sd=0.1, memory_s=300.0)
    drawn = source.draw(200, ends, np.full(ends.size, 30.0), rng)
    level = np.log(drawn.cpu_s / drawn.sent)
    assert level.std() == pytest.approx(0.1, rel=0.05)
    now, then = level[:, 1:] - level.mean(), level[:, :-1] - level.mean()
    assert float((now * then).mean() / level.var()) == pytest.approx(np.exp(-0.1), abs=0.02)


def recorded(hosts: int = 3, samples: int = 60) -> list[HostSeries]:
    rng = np.random.default_rng(5)
    return [
        HostSeries(
            f"r{host}",
            tuple(
                Sample(5.0 * (at + 1), 5.0, cpu_s=0.1 * (host + 1), sent=int(rng.integers(10**7, 2 * 10**7)), ktls=0,
                       connections=10 * (host + 1), requests=100, errors={}, probe_s=(0.01 * (host + 1),))
                for at in range(samples)
            ),
        )
        for host in range(hosts)
    ]  # fmt: skip


def test_recorded_series_are_replayed() -> None:
    source = noise.recorded(recorded(), "x")
    ends, seconds = np.arange(1, 40) * 25.0, np.full(39, 25.0)
    drawn = source.draw(30, ends, seconds, np.random.default_rng(2))
    # Five samples of one host each, wherever it began.
    assert {round(float(one), 6) for one in drawn.cpu_s.ravel()} == {0.5, 1.0, 1.5}
    assert np.unique(drawn.cpu_s, axis=1).shape == (30, 39) or np.ptp(drawn.cpu_s, axis=1).max() < 1e-9
    assert set(drawn.connections[:, 0].tolist()) <= {50, 100, 150}
    assert drawn.sent.mean() == pytest.approx(5 * 1.5e7, rel=0.05)
    connections, sent = source.rates(1000, np.random.default_rng(2))
    assert set(connections.tolist()) == {2.0, 4.0, 6.0}
    assert sent.mean() == pytest.approx(3e6, rel=0.05)


def test_a_recording_that_says_too_little_is_refused() -> None:
    with pytest.raises(ControlError) as caught:
        noise.recorded(recorded(samples=11), "x")
    assert caught.value.code == "no_baseline"
    after = [replace(one, ordered_at_s=10.0) for one in recorded()]
    with pytest.raises(ControlError):
        noise.recorded(after, "x")
