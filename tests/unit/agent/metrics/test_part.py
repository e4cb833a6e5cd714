# SPDX-License-Identifier: Apache-2.0
"""The metrics of a whole service, scraped from its real socket."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ktls_agent import cli, config
from ktls_agent.daemon import Daemon, build
from ktls_agent.metrics.catalogue import CATALOGUE
from ktls_agent.metrics.collector import Collector
from ktls_agent.metrics.config import MetricsConfig, Textfile
from ktls_agent.metrics.family import Family, Sample
from ktls_agent.metrics.part import MetricsPart, TextfilePart
from ktls_agent.parts import Parts
from ktls_agent.report import fetch, render
from ktls_host.errors import KtlsError

from ..test_cli import GOOD
from .example import NOW_S, SNAPSHOT, status


class Giving:
    """A part with metrics of its own, or with none because it fails."""

    def __init__(self, name: str, *families: Family) -> None:
        self.name = name
        self._families = families

    async def run(self) -> None:
        await asyncio.Event().wait()

    def status(self) -> dict[str, Any]:
        return {"answer": 42}

    def metrics(self) -> Iterable[Family]:
        if not self._families:
            raise RuntimeError("no metrics today")
        return self._families


def collector(*parts: Any, calls: list[int] | None = None, clock: Callable[[], float] = lambda: NOW_S) -> Collector:
    async def ask() -> dict[str, Any]:
        if calls is not None:
            calls.append(1)
        await asyncio.sleep(0)
        return status(guards={"tripped": []})

    return Collector(ask, lambda: SNAPSHOT, lambda: Parts(parts), clock)


def values(text: str) -> dict[str, list[Any]]:
    return {f.name: f.samples for f in text_string_to_metric_families(text)}


def test_families_of_parts_are_there_and_a_failing_part_takes_none_away() -> None:
    tripped = Family("ktls_guard_tripped", "gauge", "1 while latched.", (Sample(1, {"guard": "x"}),))
    broken = Family("ktls_guard_tripped", "counter", "The same name, another kind.", (Sample(1),))

    async def scenario() -> None:
        found = collector(Giving("good", tripped), Giving("bad"), Giving("odd", broken))
        read = values(await found.text())
        assert read["ktls_guard_tripped"][0].labels == {"guard": "x"}
        assert read["ktls_exposition_faults"][0].value == 1
        assert len(found.faults) == 1
        told = MetricsPart(MetricsConfig(), "/m", None, found).status()["problem"]
        why = "ktls_guard_tripped: counters end in _total, and nothing else does"
        assert told == f"metrics: 1 left out of the exposition, {why}"
        assert {s.labels["part"] for s in read["ktls_part_up"]} == {"good", "bad", "odd"}

    asyncio.run(scenario())


def test_many_scrapers_cost_no_more_than_one() -> None:
    async def scenario() -> None:
        calls: list[int] = []
        now = [NOW_S]
        found = collector(calls=calls, clock=lambda: now[0])
        texts = await asyncio.gather(*(found.text() for _ in range(20)))
        assert len(set(texts)) == 1
        assert len(calls) == 1
        now[0] += 1.1
        await found.text()
        assert len(calls) == 2

    asyncio.run(scenario())


def served(tmp_path: Path, scenario: Callable[[Daemon, str], Awaitable[None]], **section: Any) -> None:
    """Run the whole service of a host without sidecar and kernel helper."""
    paths = {"socket": "a.sock", "state_dir": "lib", "run_dir": "run", "sidecar_socket": "none", "diag_socket": "none"}
    raw = {**GOOD, **{key: str(tmp_path / name) for key, name in paths.items()}, "group": None, "metrics": section}
    (tmp_path / "lib").mkdir()
    (tmp_path / "run").mkdir()

    async def main() -> None:
        service = build(config.parse(raw, "test"))
        ready = asyncio.Event()
        task = asyncio.ensure_future(service.run(ready.set))
        await asyncio.wait_for(ready.wait(), 5)
        metrics = str(tmp_path / "metrics.sock")
        for _ in range(200):
            if os.path.exists(metrics):
                break
            await asyncio.sleep(0.01)
        try:
            await scenario(service, metrics)
        finally:
            service.stop()
            await asyncio.wait_for(task, 10)
        assert not os.path.exists(metrics)

    asyncio.run(main())


async def get(path: str, target: str) -> tuple[bytes, str]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(-1), 5)).partition(b"\r\n\r\n")
    writer.close()
    return head, body.decode()


def test_a_service_without_a_sidecar_can_be_scraped(tmp_path: Path) -> None:
    async def scenario(service: Daemon, path: str) -> None:
        head, body = await get(path, "/metrics")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/plain; version=0.0.4" in head
        read = values(body)
        assert read["ktls_sidecar_up"][0].value == 0
        assert read["ktls_agent_resident_memory_bytes"][0].value > 2**20
        assert [s.labels["state"] for s in read["ktls_order_state"] if s.value] == ["none"]
        await service.agent.off("drill")
        await asyncio.sleep(1.1)
        assert values((await get(path, "/metrics"))[1])["ktls_off_flag"][0].value == 1
        assert b"404" in (await get(path, "/"))[0]
        shown = (await service.status())["metrics"]
        assert shown == {"socket": path, "listen": None, "faults": [], "problem": None}

    served(tmp_path, scenario)


def test_every_family_of_the_service_is_in_the_catalogue(tmp_path: Path) -> None:
    async def scenario(service: Daemon, _: str) -> None:
        for part in service.parts.all:
            for found in part.metrics():
                known = CATALOGUE[found.name]
                assert (found.kind, found.help) == (known.kind, known.help)
                assert {name for s in found.samples for name in s.labels} - {"le"} <= set(known.labels)

    served(tmp_path, scenario)


def test_report_for_people_and_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(_: Daemon, path: str) -> None:
        assert await asyncio.to_thread(cli.main, ["report", "--socket", path, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["schema"] == 1
        assert report["sidecar"]["up"] is False
        assert report["shares"] == {"kernel": None, "sidecar": None}
        assert report["parts"]["metrics"]["up"] is True
        assert await asyncio.to_thread(cli.main, ["report", "--socket", path]) == 0
        assert "Sidecar NOT SERVING" in capsys.readouterr().out

    served(tmp_path, scenario)
    assert cli.main(["report", "--socket", str(tmp_path / "metrics.sock")]) == 3
    assert "start the service that owns it" in capsys.readouterr().err


def test_the_order_machine_goes_on_while_a_scraper_holds_the_line(tmp_path: Path) -> None:
    async def scenario(service: Daemon, path: str) -> None:
        idle = [await asyncio.open_unix_connection(path) for _ in range(20)]
        ticks = []
        tick = service.agent.tick

        def counted() -> None:
            ticks.append(time.monotonic())
            tick()

        service.agent.tick = counted  # type: ignore[method-assign]
        await asyncio.sleep(0.8)
        assert len(ticks) >= 2
        for _reader, writer in idle:
            writer.close()

    served(tmp_path, scenario)


def test_the_textfile_is_whole_and_goes_with_the_agent(tmp_path: Path) -> None:
    target = tmp_path / "ktls.prom"

    async def scenario(_: Daemon, path: str) -> None:
        for _try in range(300):
            if target.exists():
                break
            await asyncio.sleep(0.01)
        assert "ktls_epoch" in values(target.read_text())
        assert list(tmp_path.glob(".*tmp")) == []

    served(tmp_path, scenario, textfile={"path": str(target), "interval_s": 5})
    assert not target.exists(), "old numbers must not look like new ones"


def test_a_textfile_that_cannot_be_written_is_a_problem_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(service: Daemon, path: str) -> None:
        await asyncio.sleep(1.2)  # until the text is made anew
        status = await service.status()
        assert any("textfile" in problem for problem in status["problems"])
        read = values((await get(path, "/metrics"))[1])
        up = {s.labels["part"]: s.value for s in read["ktls_part_up"]}
        assert (up["metrics"], up["textfile"]) == (1, 0)

    served(tmp_path, scenario, textfile={"path": str(tmp_path / "none" / "ktls.prom")})


def test_parts_can_be_made_alone() -> None:
    found = collector()
    part = MetricsPart(MetricsConfig(), "/nowhere/m.sock", None, found)
    assert list(part.metrics()) == []
    file = TextfilePart(Textfile("/nowhere/x.prom"), found, asyncio.to_thread)
    assert file.status() == {"path": "/nowhere/x.prom", "interval_s": 15.0}


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ([], "metrics is not an object"),
        ({"typo": 1}, "metrics.typo"),
        ({"socket": "relative"}, "metrics.socket"),
        ({"listen": True}, "metrics.listen"),
        ({"listen": {"host": "0.0.0.0", "port": 9}}, "metrics.listen.host"),
        ({"listen": {"host": "::", "port": 9}}, "metrics.listen.host"),
        ({"listen": {"host": "localhost", "port": 9}}, "metrics.listen.host"),
        ({"listen": {"host": ["127.0.0.1"], "port": 9}}, "metrics.listen.host"),
        ({"listen": {"host": "127.0.0.1", "port": 0}}, "metrics.listen.port"),
        ({"listen": {"host": "127.0.0.1", "port": True}}, "metrics.listen.port"),
        ({"listen": {"host": "127.0.0.1", "port": 9, "tls": 0}}, "metrics.listen.tls"),
        ({"textfile": {"path": "x.prom"}}, "metrics.textfile.path"),
        ({"textfile": {"path": "/x.txt"}}, "metrics.textfile.path"),
        ({"textfile": {"path": "/x.prom", "interval_s": 0.1}}, "metrics.textfile.interval_s"),
        ({"textfile": {"path": "/x.prom", "interval_s": float("nan")}}, "metrics.textfile.interval_s"),
    ],
)
def test_bad_configuration_names_its_key(section: Any, named: str) -> None:
    with pytest.raises(KtlsError, match=named) as caught:
        config.parse({**GOOD, "metrics": section}, "agent.json")
    assert caught.value.code == "bad_config"


def test_good_configuration() -> None:
    assert config.parse(GOOD, "x").metrics.path("/run/ktls-agent/agent.sock") == config.DEFAULT_METRICS_SOCKET
    file = {"path": "/t/k.prom", "interval_s": 60}
    both = {"socket": "/s", "listen": {"host": "::1", "port": 9100}, "textfile": file}
    found = config.parse({**GOOD, "metrics": both}, "x").metrics
    assert (found.path("/a"), found.listen and found.listen.host, found.textfile and found.textfile.interval_s) == (
        "/s", "::1", 60.0,
    )  # fmt: skip


def test_report_of_something_else_is_a_protocol_error(tmp_path: Path) -> None:
    async def main() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n[]")
            writer.close()

        async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.5)
            writer.close()

        async with (
            await asyncio.start_unix_server(hang_up, tmp_path / "a"),
            await asyncio.start_unix_server(hold, tmp_path / "b"),
        ):
            for name, code in (("a", "protocol"), ("b", "timeout")):
                with pytest.raises(KtlsError) as caught:
                    await asyncio.to_thread(fetch, str(tmp_path / name), 0.2)
                assert caught.value.code == code

    asyncio.run(main())


def test_the_page_cannot_drive_a_terminal() -> None:
    async def scenario() -> None:
        report = await collector().report()
        report["problems"] = ["\x1b[2Jboo"]
        assert "\x1b" not in render(report)
        assert "?[2Jboo" in render(report)

    asyncio.run(scenario())
