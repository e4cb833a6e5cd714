# SPDX-License-Identifier: Apache-2.0
"""Experiments: which connections take the phase while an order is pending; and that nothing waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ktls_agent.core import Agent
from ktls_agent.experiment import Experiment
from ktls_agent.machine import RefusedError
from ktls_agent.orders import Order
from ktls_agent.probe_log import ProbeLog
from ktls_agent.series.config import SeriesConfig
from ktls_agent.series.part import SeriesPart
from ktls_agent.store import Store

from .conftest import Host, drained, experiment, order
from .faults import OFF_FIRST

Scenario = Callable[[Agent], Awaitable[None]]


def play(host: Host, scenario: Scenario) -> None:
    async def main() -> None:
        agent = host.agent()
        await agent.start()
        try:
            await scenario(agent)
            await drained(agent)
        finally:
            agent.close()

    asyncio.run(main())


async def pass_s(host: Host, agent: Agent, seconds: float) -> None:
    host.now += seconds
    agent.tick()
    await drained(agent)


async def running(host: Host, agent: Agent, **change: Any) -> None:
    await agent.order(order(lease_s=600, experiment=experiment(**{"seed": OFF_FIRST, **change})))
    await pass_s(host, agent, 0.25)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"method": "difference"}, "method"), ({"method": None}, "method"), ({"block_s": 4.9}, "block_s"),
        ({"block_s": "30"}, "block_s"), ({"block_s": float("nan")}, "block_s"), ({"block_s": True}, "block_s"),
        ({"washout_s": -1}, "washout_s"), ({"washout_s": 10}, "washout_s"), ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"), ({"seed": 2**53 + 1}, "seed"), ({"seed": True}, "seed"), ({"more": 1}, "nothing else"),
    ],
)  # fmt: skip
def test_odd_experiments_are_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusedError, match=what) as caught:
        Order.parse(order(experiment={**experiment(), **change}))
    assert caught.value.code == "bad_order"


@pytest.mark.parametrize("raw", [None, [], "switchback", {}])
def test_an_experiment_is_whole_or_not_there(raw: object) -> None:
    with pytest.raises(RefusedError, match="order experiment"):
        Order.parse(order(experiment=raw))


def test_userspace_has_none() -> None:
    with pytest.raises(RefusedError, match="nothing to compare"):
        Order.parse(order(phase="userspace", experiment=experiment()))


def test_an_order_with_one_survives_the_disk_and_one_without_looks_as_ever(host: Host) -> None:
    parsed = Order.parse(order(experiment=experiment()))
    store = Store(str(host.state_dir))
    store.put_record("committed", parsed, None)
    assert store.load().record_order == parsed
    assert Order.parse(order()).as_dict() == order()


def test_pairs_hold_both_arms_in_an_order_that_the_seed_draws() -> None:
    first = []
    for seed in range(200):
        trial = Experiment("switchback", 10.0, 1.0, seed)
        blocks = [trial.share(number) for number in range(40)]
        assert blocks == [trial.share(number) for number in range(40)]
        assert all({*pair} == {0.0, 1.0} for pair in zip(blocks[::2], blocks[1::2]))
        first.append(blocks[::2])
    shares = sum(map(sum, first)) / (200 * 20)
    assert 0.45 < shares < 0.55
    assert len({tuple(one) for one in first}) == 200


def test_the_share_follows_the_blocks_and_the_status_says_so(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        trial = Experiment("switchback", 10.0, 3.0, 7)
        await agent.order(order(lease_s=600, experiment=experiment()))
        assert host.sidecar.share == 1.0, "the phase is proved with all of it"
        seen = []
        for _ in range(12):
            await pass_s(host, agent, 0.25)
            seen.append(host.sidecar.share)
            shown = agent.experiments.as_dict(host.now)
            assert shown is not None
            assert (shown["state"], shown["share"], shown["washout"]) == ("running", host.sidecar.share, True)
            assert shown["block"] == len(seen) - 1
            await pass_s(host, agent, 9.75)
        assert seen == [trial.share(number) for number in range(12)]
        assert host.sidecar.mode == "tx"

    play(host, scenario)


def test_by_connections_half_of_them_take_it_all_the_time(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent, method="connections")
        for _ in range(5):
            assert host.sidecar.share == 0.5
            await pass_s(host, agent, 30)

    play(host, scenario)


def test_a_confirmation_ends_it_first_and_reads_that_back(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        assert host.sidecar.share == 0.0
        host.sidecar.share_stuck = True
        with pytest.raises(RefusedError, match="is over, but not shown to be") as caught:
            await agent.confirm("o1", 1)
        assert caught.value.code == "experiment_not_ended"
        assert agent.state.status == "pending", "and its lease goes on"
        assert not (host.state_dir / "order.json").exists()
        host.sidecar.share_stuck = False
        await agent.confirm("o1", 1)
        assert (agent.state.status, host.sidecar.share) == ("committed", 1.0)
        assert host.audit.names[-2:] == ["experiment_ended", "confirm"]
        shown = agent.experiments.as_dict(host.now)
        assert shown is not None
        assert (shown["state"], shown["ended"]) == ("ended", "confirmed")
        await pass_s(host, agent, 100)
        assert host.sidecar.share == 1.0

    play(host, scenario)


def test_an_unconfirmed_experiment_ends_with_its_lease(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        await pass_s(host, agent, 601)
        assert (agent.state.reason, host.sidecar.effective) == ("lease_expired", "userspace")
        assert agent.experiments.running is None
        await pass_s(host, agent, 11)
        assert host.sidecar.effective == "userspace"

    play(host, scenario)


def test_an_extension_keeps_it_going_or_ends_it(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        await agent.extend("o1", 1, 700)
        assert agent.experiments.running == ("o1", 1)
        await agent.extend("o1", 1, 800, end_experiment=True)
        shown = agent.experiments.as_dict(host.now)
        assert shown is not None
        assert (shown["state"], host.sidecar.share) == ("ended", 1.0)
        assert agent.state.status == "pending"
        await pass_s(host, agent, 30)
        assert host.sidecar.share == 1.0

    play(host, scenario)


def test_a_sidecar_that_lost_the_share_is_told_again(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        host.sidecar.share = 1.0
        await pass_s(host, agent, 1.1)
        assert host.sidecar.share == 0.0
        host.sidecar.mode, host.sidecar.share = "userspace", 1.0  # it was started again
        await pass_s(host, agent, 1.1)
        assert (host.sidecar.mode, host.sidecar.share) == ("tx", 0.0)

    play(host, scenario)


def test_a_newer_order_has_an_experiment_of_its_own_or_none(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        await agent.order(order("o2", 2, lease_s=600))
        await pass_s(host, agent, 20)
        assert (host.sidecar.share, agent.experiments.current) == (1.0, None)

    play(host, scenario)


@pytest.mark.parametrize("way", ["off", "revert", "flag"])
def test_nothing_that_goes_back_waits_for_an_experiment(host: Host, way: str) -> None:
    """The sidecar hangs in the very call that turns a block: new connections are userspace within half a second."""

    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        answers = host.call_sidecar
        hanging = asyncio.Event()

        async def hang(request: dict[str, Any]) -> dict[str, Any]:
            if request["verb"] == "mode" and not hanging.is_set():
                hanging.set()
                await asyncio.sleep(0.8)
            return await answers(request)

        agent._call_sidecar = hang
        host.now += 10
        agent.tick()
        await asyncio.wait_for(hanging.wait(), 1)
        started = time.monotonic()
        if way == "flag":
            (host.run_dir / "off").touch()
            agent.tick()
        else:
            going = asyncio.ensure_future(getattr(agent, way)("test"))
        while host.sidecar.effective != "userspace":
            assert time.monotonic() - started < 0.5
            await asyncio.sleep(0.01)
        if way != "flag":
            await going
        await drained(agent)
        assert host.sidecar.mode == "userspace"

    play(host, scenario)


@pytest.mark.parametrize("way", ["off", "revert"])
def test_what_goes_back_while_a_confirmation_ends_the_experiment_wins(host: Host, way: str) -> None:
    async def scenario(agent: Agent) -> None:
        await running(host, agent)
        answers = host.call_sidecar

        async def meanwhile(request: dict[str, Any]) -> dict[str, Any]:
            agent._call_sidecar = answers
            await getattr(agent, way)("test")
            return await answers(request)

        agent._call_sidecar = meanwhile
        with pytest.raises(RefusedError):
            await agent.confirm("o1", 1)
        await drained(agent)
        durable = Store(str(host.state_dir)).load()
        assert (agent.state.status, durable.record_status) == ("reverted", "reverted")
        assert host.sidecar.effective == "userspace"

    play(host, scenario)


def test_blocks_cut_the_series_and_mark_their_washout(host: Host) -> None:
    async def scenario(agent: Agent) -> None:
        part = SeriesPart(SeriesConfig(), agent, ProbeLog(), lambda status: 0)
        answer = host.sidecar.answer

        def full(request: dict[str, Any]) -> dict[str, Any]:
            counts = {"ktls_tx": 0, "userspace": round(host.now * 4)}
            rows = [
                {"assigned": mode, "connections_total": round(host.now * 4), "bytes_total": 0, "requests_total": 0}
                for mode in ("tx", "userspace")
            ]
            said = {"pid": 1, "errors": {}, "bytes": counts, "connections_total": counts, "by": rows}
            return {**answer(request), **said, "errors_by_mode": {"tx": round(host.now * 4)}}

        host.sidecar.answer = full  # type: ignore[method-assign]
        for _ in range(7):
            await pass_s(host, agent, 1.0)
        await running(host, agent)
        for _ in range(41 * 4):
            await pass_s(host, agent, 0.25)
        page = part.page()
        columns = page["samples"]
        kept = list(zip(columns["at_ms"], columns["ms"], columns["arm"], columns["washout"], columns["connections"]))
        ordered_ms = page["ordered_at_s"] * 1000
        assert all(arm == 0 and not wash for at, ms, arm, wash, _ in kept if at <= ordered_ms), "the baseline"
        assert all(count == round(ms / 250) for _, ms, _, _, count in kept), "each second counts once"
        assert sum(ms for _, ms, *_ in kept) == columns["at_ms"][-1] - (columns["at_ms"][0] - columns["ms"][0])
        begun = agent.experiments.current
        assert begun is not None
        assert begun.started_s is not None
        trial = Experiment("switchback", 10.0, 3.0, OFF_FIRST)
        blocks = set()
        for at, ms, arm, wash, _ in kept:
            since = (at - ms) / 1000 - begun.started_s
            if since < 0.25:
                continue
            block = trial.block(since)
            begins = since - block * 10.0
            assert arm == trial.share(block), (at, "an interval is of one block")
            assert wash == (begins < 3.25), (at, begins)
            blocks.add((block, wash))
        assert len(blocks) == 8
        arms = part.page()["arms"]
        assert arms["on"]["connections"] == arms["off"]["connections"] == arms["on"]["errors"] > 100
        assert arms["off"]["errors"] == 0
        await agent.confirm("o1", 1)
        host.now += 5
        await agent.sidecar_status()
        assert part.page()["arms"]["on"]["connections"] - arms["on"]["connections"] < 10, (
            "what came later does not count"
        )

    play(host, scenario)
