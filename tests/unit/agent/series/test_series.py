# SPDX-License-Identifier: Apache-2.0
"""The series: what is kept of an interval, what is not, and how it is handed out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.cli import main as cli
from ktls_agent.daemon import Daemon
from ktls_agent.orders import Order
from ktls_agent.probe import ProbeResult, Timings
from ktls_agent.probe_log import ProbeLog
from ktls_agent.series import cpu
from ktls_agent.series.config import SeriesConfig, parse
from ktls_agent.series.counts import arm_of
from ktls_agent.series.draw import SIZE, Draw
from ktls_agent.series.part import SeriesPart
from ktls_agent.series.ring import Ring, Sample
from ktls_control.errors import ControlError
from ktls_control.judge.wire import encode, host_series
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import MAX_LINE, RequestError
from ktls_host.series import fetch

from ..conftest import Host, experiment, order
from ..test_daemon import ask, serve


def status(
    sent: int = 0,
    ktls: int = 0,
    opened: int = 0,
    mode: str = "userspace",
    share: float = 1.0,
    pid: int = 1,
    **more: Any,
) -> dict[str, Any]:
    row = {
        "assigned": mode,
        "path": "x",
        "connections_total": opened,
        "bytes_total": sent,
        "requests_total": 2 * opened,
    }
    return {
        "pid": pid,
        "effective_mode": mode,
        "share": share,
        "bytes": {"ktls_tx": ktls, "userspace": sent - ktls},
        "connections_total": {"ktls_tx": 0, "userspace": opened},
        "errors": {},
        "by": [row],
        **more,
    }


@pytest.fixture
def part(host: Host) -> SeriesPart:
    async def make() -> SeriesPart:
        return SeriesPart(SeriesConfig(), host.agent(), ProbeLog(), lambda answer: answer["sent"] * 1000, lambda: 7.0)

    return asyncio.run(make())


def hear(part: SeriesPart, at_s: float, *, cut: Any = False, **counts: Any) -> None:
    part.heard(at_s, {**status(**counts), "sent": counts.get("sent", 0)}, cut)


def samples(part: SeriesPart) -> list[dict[str, Any]]:
    columns = part.page()["samples"]
    plain = {name: column for name, column in columns.items() if isinstance(column, list)}
    return [dict(zip(plain, values)) for values in zip(*plain.values())]


def test_a_sample_is_what_grew_in_a_period_whatever_is_heard_in_between(part: SeriesPart) -> None:
    for second in range(11):
        hear(part, 100.0 + second, sent=10 * second, ktls=5 * second, opened=second)
    kept, then = samples(part)
    assert kept == {
        "at_ms": 105000, "ms": 5000, "arm": 0, "washout": 0, "cpu_us": 50000, "sent": 50, "ktls": 25, "connections": 5,
        "requests": 10,
    }  # fmt: skip
    assert then["at_ms"] == 110000


@pytest.mark.parametrize(
    "after",
    [{"sent": 1, "pid": 2}, {"sent": 3, "opened": 9}, {"sent": 99, "ktls": 0, "opened": 2}],
    ids=["another process", "bytes went down", "connections went down"],
)
def test_an_interval_in_which_counters_began_anew_is_dropped_and_never_negative(
    part: SeriesPart, after: dict[str, Any]
) -> None:
    hear(part, 100.0, sent=50, opened=5)
    hear(part, 105.0, **after)
    assert samples(part) == []
    hear(part, 110.0, sent=200, ktls=50, opened=20, pid=after.get("pid", 1))
    assert [one["at_ms"] for one in samples(part)] == [110000]


def test_a_time_without_news_is_not_made_one_long_sample(part: SeriesPart) -> None:
    hear(part, 100.0, sent=1)
    hear(part, 121.0, sent=2)
    hear(part, 126.0, sent=3)
    assert [one["at_ms"] for one in samples(part)] == [126000]


def test_a_cut_ends_an_interval_and_a_change_without_one_makes_it_mixed(part: SeriesPart) -> None:
    hear(part, 100.0)
    hear(part, 102.0, sent=1, cut=True)
    hear(part, 103.0, sent=2, mode="tx")
    hear(part, 107.0, sent=3, mode="tx")
    hear(part, 108.0, sent=4, mode="tx", share=0.0)
    hear(part, 112.0, sent=5, mode="tx", share=0.0)
    hear(part, 117.0, sent=6, mode="tx", share=0.0)
    ends = [(102000, 0), (107000, 1), (112000, 2), (117000, 0)]
    assert [(one["at_ms"], one["arm"]) for one in samples(part)] == ends


def test_arms_are_told_by_mode_and_share() -> None:
    states = [("userspace", 1.0), ("tx", 0.0), ("tx", 0.5), ("rx", 1.0)]
    assert [arm_of(state) for state in states] == ["off", "off", "mixed", "on"]


def test_errors_are_by_kind_and_what_cannot_be_told_is_null(part: SeriesPart) -> None:
    rows = {"by": [{"assigned": "tx", "connections_total": 0, "bytes_total": 0}]}  # an older sidecar
    part._cpu_us = lambda answer: None
    hear(part, 100.0, errors={"io_error": 1})
    hear(part, 105.0, errors={"io_error": 3, "bad_record": 1}, **rows)
    page = part.page()["samples"]
    assert page["errors"] == {"0": {"io_error": 2, "bad_record": 1}}
    assert (page["cpu_us"], page["requests"]) == ([None], [None])


def test_a_status_without_counts_makes_no_series_and_is_no_problem(part: SeriesPart) -> None:
    part.heard(0.0, {"mode": "tx", "effective_mode": "tx+rx", "share": 1.0, "pid": 5}, False)
    assert samples(part) == []
    assert (part.status() or {}).get("problem") is None


def test_a_status_that_makes_no_sense_is_a_problem_and_no_sample(part: SeriesPart) -> None:
    part.heard(100.0, {"pid": 1, "bytes": None, "by": None}, False)
    assert "cannot be read" in part.status()["problem"]
    hear(part, 105.0)
    assert part.status()["problem"] is None


def test_probes_of_an_interval_are_in_it_once(part: SeriesPart) -> None:
    good = ProbeResult(True, 101.0, timings=Timings(0.001, 0.002, 0.001, 0.004))
    hear(part, 100.0)
    part._probes.note(good)
    part._probes.note(ProbeResult(False, 102.0, error="x", failure="connect"))
    hear(part, 105.0)
    hear(part, 110.0)
    assert part.page()["samples"]["probe_s"] == {"0": [0.007]}


def test_the_ring_keeps_the_newest_and_is_read_in_pages() -> None:
    ring = Ring(10)
    for number in range(1, 101):
        ring.add(Sample(number * 1000, 1000, errors={"x": number} if number % 2 else {}, probe_s=(0.5,)))
    assert len(ring) == 10
    page = ring.page(92_000, 3)
    assert (page["at_ms"], page["errors"]) == ([93000, 94000, 95000], {"0": {"x": 93}, "2": {"x": 95}})
    assert ring.page(0, 1)["at_ms"] == [91000]
    assert ring.page(100_000, 9)["at_ms"] == []
    assert len(ring._errors) <= 14  # nothing stays of what has gone
    assert len(ring._probes) <= 27


def test_hours_of_samples_are_handed_out_whole_below_the_limit_of_a_line(part: SeriesPart) -> None:
    kinds = {f"kind_of_error_{number}": 123456 for number in range(4)}
    for number in range(1, 2801):
        part._ring.add(
            Sample(number * 5000, 5000, "on", True, 123456, 1 << 40, 1 << 40, 9999, 9999, kinds, (0.012345,) * 3)
        )
    sizes: list[int] = []

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        answer = {"ok": True, "series": part.page(request.get("since_s"))}
        sizes.append(len(json.dumps(answer, separators=(",", ":"))))
        return answer

    whole = fetch(ask)
    assert len(sizes) > 3
    assert max(sizes) < MAX_LINE
    found = host_series("h", {**whole["series"], "now_s": 14000.0}, 7.0)
    assert [one.at_s for one in found.samples] == [number * 5.0 for number in range(1, 2801)]
    assert all(one.errors == kinds and one.probe_s == (0.012345,) * 3 for one in found.samples)
    assert fetch(ask, 13_990.0)["series"]["samples"]["at_ms"] == [13_995_000, 14_000_000]


def test_a_restart_between_two_pages_is_said() -> None:
    pages = iter([1.0, 2.0])

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        columns = Ring(1).page(0, 1)
        return {"series": {"boot_id": "b", "began_s": next(pages), "samples": columns, "more": True, "next_since_s": 1}}

    with pytest.raises(KtlsError, match="started anew"):
        fetch(ask)


@pytest.mark.parametrize("since", ["5", True, [], float("nan"), float("inf"), 1e300])
def test_odd_questions_are_refused(part: SeriesPart, since: object) -> None:
    with pytest.raises(RequestError, match="since_s"):
        part.page(since)


def test_durations_by_arm_are_told_once_and_drawn_fairly() -> None:
    draw = Draw()
    draw.take({"userspace": ((0.5, 9.0),)})
    for second in range(100):
        ends = [(second + step / 100, float(second)) for step in range(100)]
        draw.take({"tx": tuple(ends), "userspace": ((1.0, 0.5),)})
        draw.take({"tx": tuple(ends)})  # the same, told again
    assert draw.seconds("off") == [0.5]
    kept = draw.seconds("on")
    assert len(kept) == SIZE
    assert 40 < sum(kept) / len(kept) < 60, "of all that time, not of its end"


def test_arms_have_their_durations(part: SeriesPart) -> None:
    part._agent.experiments.ordered(Order.parse(order(experiment=experiment("connections"))), 99.0)
    run = part._agent.experiments.current
    assert run is not None
    hear(part, 100.0)
    part._agent.experiments.begin(run.order, 100.5)
    hear(part, 101.0, mode="tx", share=0.5, times={"userspace": [[0.5, 9.0]]})
    hear(part, 102.0, mode="tx", share=0.5, times={"tx": [[1.0, 0.25]], "userspace": [[0.5, 9.0], [1.1, 0.5]]})
    arms = host_series("h", {**part.page(), "now_s": 200.0}, 0.0).arms
    assert (arms["on"].seconds, arms["off"].seconds) == ((0.25,), (0.5,))


def test_the_socket_hands_it_out(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(service: Daemon, path: str) -> None:
        part = SeriesPart(SeriesConfig(), service.agent, ProbeLog(), lambda status: 1)
        service.parts.all = (part,)
        hear(part, 100.0)
        hear(part, 105.0, sent=9)
        found = await ask(path, verb="series", since_s=104.0)
        assert found["series"]["samples"]["sent"] == [9]
        assert await asyncio.to_thread(cli, ["series", "--socket", path, "--json", "--since-s", "105"]) == 0
        with pytest.raises(KtlsError, match="does not take order"):
            await ask(path, verb="series", order={})

    serve(host, tmp_path, scenario)
    assert json.loads(capsys.readouterr().out)["series"]["samples"]["at_ms"] == []


def test_cpu_is_that_of_the_unit_else_of_its_processes(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit/cpu.stat").write_text("usage_usec 1234\nuser_usec 1000\n")
    for pid, times in ((10, "1 2 30 40"), (11, "5 6 700 800")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a b) S {'0 ' * 10}{times} 0")
    sidecar = {"pid": 10, "workers": [{"pid": 11}]}
    assert cpu.read(sidecar, str(tmp_path / "unit"), str(tmp_path)) == 1234
    tick = cpu._TICK_US
    assert cpu.read(sidecar, "/nowhere", str(tmp_path)) == (1 + 2 + 30 + 40 + 5 + 6) * tick
    assert cpu.read({"pid": 10, "workers": [{"pid": 12}]}, "/nowhere", str(tmp_path)) is None


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        ([], "not an object"), ({"period_s": 0.5}, "period_s"), ({"keep_s": 1e9}, "keep_s"),
        ({"period_s": True}, "period_s"), ({"x": 1}, "unknown key series.x"),
        ({"period_s": 1, "keep_s": 86400}, "at most 20000"),
    ],
)  # fmt: skip
def test_bad_configuration_is_named(raw: Any, what: str) -> None:
    with pytest.raises(KtlsError, match=what):
        parse(raw, "f")


# What the control node makes of it


def answer(**change: Any) -> dict[str, Any]:
    columns = {
        "at_ms": [1000, 6000], "ms": [1000, 5000], "arm": [0, 1], "washout": [0, 1], "cpu_us": [5, None],
        "sent": [10, 20], "ktls": [0, 20], "connections": [1, 2], "requests": [1, None], "errors": {"1": {"x": 2}},
        "probe_s": {},
    }  # fmt: skip
    series = {
        "boot_id": "b", "now_s": 6.5, "wall_s": 107.0, "ordered_at_s": 2.0, "samples": columns,
        "arms": {"on": {"connections": 1, "requests": 2, "sent": 3, "errors": 4}},
    }  # fmt: skip
    for key, value in change.items():
        (columns if key in columns else series)[key] = value
    return {"ok": True, "series": series}


def test_an_answer_becomes_a_series_and_back() -> None:
    found = host_series("h", answer(), 100.0)
    assert (found.skew_s, found.ordered_at_s, found.read_at_s) == (7.0, 2.0, 6.5)
    first, second = found.samples
    assert (first.cpu_s, first.arm, first.errors, first.washout) == (5e-6, "off", {}, False)
    assert (second.cpu_s, second.arm, second.errors, second.requests) == (None, "on", {"x": 2}, None)
    assert found.arms["on"].errors == 4
    assert host_series("h", encode(found, 107.0), 100.0) == found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"at_ms": [6000, 1000]}, "does not follow"),
        ({"at_ms": [1000, 1000]}, "does not follow"),
        ({"ms": [1000, 5500]}, "does not follow"),
        ({"ms": [1000, 0]}, "does not follow"),
        ({"at_ms": [1000]}, "one length"),
        ({"arm": [0, 3]}, "no known arm"),
        ({"washout": [0, 2]}, "no known arm"),
        ({"sent": [10, -1]}, "not a count"),
        ({"sent": [10, 1.5]}, "not a count"),
        ({"sent": [10, True]}, "not a count"),
        ({"ktls": [11, 0]}, "more bytes by kTLS"),
        ({"errors": {"2": {}}}, "not there"),
        ({"errors": {"-1": {}}}, "not there"),
        ({"errors": {"0": {"x": "1"}}}, "not a count"),
        ({"probe_s": {"0": [float("nan")]}}, "not a number"),
        ({"probe_s": {"0": [-1]}}, "not a duration"),
        ({"now_s": 1.0}, "future"),
        ({"boot_id": ""}, "boot_id"),
        ({"wall_s": None}, "wall_s"),
        ({"samples": []}, "samples"),
        ({"arms": {"both": {}}}, "unknown arm"),
        ({"arms": {"on": {"connections": 1}}}, "requests"),
    ],
)
def test_garbage_is_named_and_never_used(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        host_series("h", answer(**change), 100.0)
    assert caught.value.code == "bad_series"
    assert caught.value.message.startswith("h: ")
