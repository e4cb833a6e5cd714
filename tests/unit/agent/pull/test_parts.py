# SPDX-License-Identifier: Apache-2.0
"""Pace, configuration, status, and what the agent makes of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent import cli
from ktls_agent.pull import config, pace, words
from ktls_agent.pull.part import SILENT_S, PullPart
from ktls_host.errors import KtlsError

from .conftest import Host, Keys, Server

GOOD: dict[str, Any] = {"fleet": "prod", "endpoints": ["https://flags.example.org/ktls/flag"]}
AGENT = Path(__file__).resolve().parents[4] / "agent"


# Pace


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_polls_never_stop_and_never_storm(failures: int, chance: float) -> None:
    assert 1.5 <= pace.next_s(2.0, failures, chance) <= 20.0
    if failures <= 1:
        assert pace.next_s(2.0, failures, chance) <= 2.5
    assert pace.next_s(60.0, failures, chance) <= 75.0


def test_hosts_that_start_together_are_spread_evenly_and_always_alike() -> None:
    first = [pace.first_s(f"host-{number}", "https://a/", 2.0) for number in range(1000)]
    assert first == [pace.first_s(f"host-{number}", "https://a/", 2.0) for number in range(1000)]
    assert all(60 < sum(low <= one < low + 0.2 for one in first) < 140 for low in (0.2 * step for step in range(10)))
    assert pace.first_s("host-1", "https://a/", 2.0) != pace.first_s("host-1", "https://b/", 2.0)


# Configuration


def test_the_configuration_of_the_role_is_taken() -> None:
    found = config.parse({**GOOD, "ca": None, "interval_s": 2, "timeout_s": 3.0}, "x")
    assert found.endpoints == (config.Endpoint(GOOD["endpoints"][0], True, "flags.example.org", 443, "/ktls/flag"),)
    one = config.parse(
        {**GOOD, "endpoints": ["https://[2001:db8::1]:8443/a?b=c", "http://127.0.0.1:80"]}, "x"
    ).endpoints
    assert (one[0].host, one[0].port, one[0].target) == ("2001:db8::1", 8443, "/a?b=c")
    assert (one[1].tls, one[1].target) == (False, "/")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"fleet": ""}, "fleet"), ({"fleet": "a b"}, "fleet"), ({"fleet": None}, "fleet"), ({"fleet": "-x"}, "fleet"),
        ({"endpoints": []}, "endpoints"), ({"endpoints": ["https://a/", "https://a/"]}, "different"),
        ({"endpoints": "https://a"}, "endpoints"),
        ({"endpoints": [f"https://h{n}/" for n in range(9)]}, "1 to 8"), ({"endpoints": [7]}, "URL"),
        ({"endpoints": ["http://flags.example.org/"]}, "use https"),
        ({"endpoints": ["http://localhost.example.org/"]}, "use https"),
        ({"endpoints": ["ftp://a/"]}, "https://HOST/PATH"), ({"endpoints": ["https:///x"]}, "https://HOST/PATH"),
        ({"endpoints": ["https://user:secret@a/"]}, "password"), ({"endpoints": ["https://a/#f"]}, "fragment"),
        ({"endpoints": ["https://a:0/"]}, "https://HOST/PATH"), ({"endpoints": ["https://a:99999/"]}, "ort"),
        ({"endpoints": ["https://a/\r\nX: y"]}, "ASCII"), ({"endpoints": ["https://ä/"]}, "ASCII"),
        ({"ca": "pull-ca.pem"}, "ca"), ({"interval_s": 0.1}, "interval_s"), ({"interval_s": True}, "interval_s"),
        ({"timeout_s": float("nan")}, "timeout_s"), ({"timeout_s": 1000}, "timeout_s"), ({"owed": "x"}, "owed"),
        ({"verify": False}, "unknown key verify"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], names: str) -> None:
    with pytest.raises(KtlsError) as caught:
        config.parse({**GOOD, **change}, "/etc/ktls/pull.json")
    assert caught.value.code == "bad_config"
    assert names in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.message.startswith("/etc/ktls/pull.json: ")


@pytest.mark.parametrize("content", [None, "{", "[]", "[" * 100_000])
def test_a_configuration_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pull.json"
    if content is not None:
        path.write_text(content)
    assert cli.main(["pull", "--config", str(path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said


# The service


def test_the_service_itself_says_it_is_ready_lives_and_ends(
    host: Host, server: Server, keys: Keys, tmp_path: Path
) -> None:
    import socket

    server.serves(keys.sign("off"))
    raw = {
        "fleet": "prod", "endpoints": [one.url for one in host.config.endpoints], "interval_s": 0.5,
        **{key: getattr(host.config, key) for key in (
            "ca", "allowed_signers", "run_flag", "durable_flag", "agent_socket", "status", "owed")},
    }  # fmt: skip
    path = tmp_path / "pull.json"
    path.write_text(json.dumps(raw))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "PYTHONPATH": str(AGENT)}
        command = [sys.executable, "-m", "ktls_agent.cli", "pull", "--config", str(path)]
        runner = "import sys; from ktls_agent.cli import main; sys.exit(main(sys.argv[1:]))"
        command[1:3] = ["-c", runner]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            said = {systemd.recv(100) for _ in range(3)}
            assert said == {b"READY=1", b"WATCHDOG=1"}
            end = time.monotonic() + 10
            while not (host.flags.present() == (True, True) and Path(host.config.status).exists()):
                assert time.monotonic() < end
                time.sleep(0.05)
            time.sleep(0.6)
            assert json.loads(Path(host.config.status).read_text())["raised"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert process.stderr is not None
            log = process.stderr.read()
    assert "says off: a test" in log
    assert "Traceback" not in log


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_or_hangs_ends_the_service(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> int:
        raise SystemExit

    monkeypatch.setattr(host.puller, "poll", die)
    with pytest.raises(RuntimeError, match="is dead"):
        host.puller.run()
    host.restart()
    monkeypatch.setattr("ktls_agent.pull.service.SLACK_S", -10.0)
    with pytest.raises(RuntimeError, match="is late"):
        host.puller.run()
    host.puller.stop()


def test_a_fault_of_ours_is_one_poll_and_not_the_end(
    host: Host, server: Server, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serves(keys.sign("off"))
    monkeypatch.setattr(host.verifier, "check", lambda body: 1 / 0)
    assert host.poll()["result"] == "internal"
    assert host.nothing_happened()
    monkeypatch.undo()
    assert host.poll()["result"] == "off"


def test_logs_say_a_state_once_and_again_when_it_changes(
    host: Host, server: Server, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.serves(keys.sign("none", serial=1))
    host.poll(5)
    server.serves(b"", "404 No")
    host.poll(5)
    server.serves(keys.sign("none", serial=1))
    host.poll(5)
    server.serves(keys.sign("none", serial=2))
    host.poll(5)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO", "INFO"]


def test_a_status_that_cannot_be_written_is_said_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    os.mkdir(host.config.status)
    for _ in range(3):
        host.puller._write_status()
    assert len(caplog.records) == 1


# The part in the agent


def part(host: Host, later_s: float = 0.0) -> PullPart:
    host.puller._write_status()
    from ktls_agent.pull.service import boottime_s

    made = PullPart(host.config.status, lambda: boottime_s() + later_s)
    made.read()
    return made


def test_the_agent_shows_what_the_fetcher_saw(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("none", serial=42), headers='ETag: "a"\r\n')
    host.poll(2)
    server.serves(b"", "404 No")
    host.poll()
    shown = part(host, 5.0)
    status = shown.status()
    url = host.config.endpoints[0].url
    assert (status["running"], status["state"], status["serial"]) == (True, "unknown", 42)
    assert 5.0 <= status["age_s"] < 6.0
    assert status["endpoints"][0]["result"] == "missing"
    assert "gives no valid flag (missing)" in status["problems"][0]
    samples = {
        (family.name, *sorted(sample.labels.items())): sample.value
        for family in shown.metrics()
        for sample in family.samples
    }
    assert samples["ktls_flag_polls_total", ("endpoint", url), ("result", "none")] == 2
    assert samples["ktls_flag_polls_total", ("endpoint", url), ("result", "missing")] == 1
    assert samples["ktls_flag_valid", ("endpoint", url)] == 0
    assert samples[("ktls_flag_serial",)] == 42
    assert 5.0 <= samples["ktls_flag_age_seconds", ("endpoint", url)] < 6.0
    assert 5.0 <= samples[("ktls_flag_fetcher_age_seconds",)] < 6.0
    for family in shown.metrics():
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".")


def test_the_status_for_people(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("none", serial=42))
    host.poll()
    assert words.lines(part(host).status()) == ["  signed flag: none, serial 42, valid 0 s ago, at 1 of 1 endpoints"]
    server.serves(b"", "404 No")
    host.poll()
    found, problem = words.lines(part(host, 7.0).status())
    assert found == "  signed flag: unknown, serial 42, valid 7 s ago, at 0 of 1 endpoints"
    assert problem.startswith("  PROBLEM: https://127.0.0.1")
    assert words.lines({"running": False}) == words.lines(None) == []


def test_a_fetcher_that_has_died_is_a_problem(host: Host) -> None:
    status = part(host, SILENT_S + 1).status()
    assert not status["running"]
    assert "does not run" in status["problems"][0]


@pytest.mark.parametrize(
    "content",
    [None, "", "{}", "[]", '{"endpoints": 1, "written_s": 1}', '{"endpoints": [], "written_s": "x"}', "[" * 70_000],
)
def test_a_host_that_does_not_pull_has_no_metrics(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "status.json"
    if content is not None:
        path.write_text(content)
    shown = PullPart(str(path))
    shown.read()
    assert shown.status() == {"running": False}
    assert list(shown.metrics()) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_odd_entries_break_nothing(value: Any) -> None:
    shown = PullPart("/nowhere")
    shown._seen = {
        "endpoints": [value, {"url": value, "valid_s": value, "polls": None, "old": value}],
        "written_s": 1.0,
    }
    shown.status()
    list(shown.metrics())


def test_the_part_reads_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktls_agent.pull.part.EVERY_S", 0.01)

    async def scenario() -> None:
        shown = PullPart(host.config.status)
        task = asyncio.ensure_future(shown.run())
        await asyncio.sleep(0.03)
        assert not shown.status()["running"]
        host.puller._write_status()
        await asyncio.sleep(0.1)
        assert shown.status()["running"]
        task.cancel()

    asyncio.run(scenario())
