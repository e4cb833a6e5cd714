# SPDX-License-Identifier: Apache-2.0
"""Watching a rollout: exit codes and lines for scripts, keys and a terminal that gets its settings back for people."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ktls_control.cli import main
from ktls_control.rollout import lock
from ktls_control.rollout.control import look
from ktls_control.rollout.state import fold
from ktls_control.rollout.store import Run
from ktls_control.view.changes import Changes
from ktls_control.view.keys import Keys
from ktls_control.view.off_process import Off
from ktls_control.view.pilot import Pilot
from ktls_control.view.watch import Watch, follow
from tests import journals

from .conftest import Stories
from .terminal import Terminal

RunOf = Callable[[str], Run]


def followed(run: Run, *, timeout_s: float | None = None, now: float | None = None) -> tuple[int, list[str]]:
    out = io.StringIO()
    moment = [now or time.time()]

    def sleep(seconds: float) -> None:
        moment[0] += seconds

    code = follow(Watch(run, timeout_s, clock=lambda: moment[0]), Console(file=out, width=160), sleep=sleep)
    return code, out.getvalue().splitlines()


def test_without_a_terminal_each_change_is_a_line(run_of: RunOf) -> None:
    code, lines = followed(run_of("failed"))
    assert code == 1
    text = "\n".join(lines)
    for words in (
        "phase tx on 24 hosts in 3 waves, epoch 42",
        "wave 1 waits: a person has to promote it: ktls promote, or ktls abort",
        "pause by grace@control1: looking at web-05",
        "web-06: unreachable: no answer within 20 s",
        "wave 2 gate: fail: latency: +21.0 %",
        "reverts by itself in 3m32s",
        "run failed: wave 2: gate failed",
    ):
        assert words in text
    assert len(lines) < 40


def test_a_large_wave_is_not_a_line_a_host(tmp_path: Path) -> None:
    story = journals.begin(tmp_path, journals.plan_of([500]))
    story.open(1)
    story.observe(1, 60)
    changes = Changes()
    assert len([line for event in story.journal.lines for line in changes.feed(event)]) == 3


@pytest.mark.parametrize(("story", "code"), [("completed", 0), ("failed", 1), ("soaking", 5)])
def test_exit_codes_of_the_command(run_of: RunOf, story: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(story)
    assert main(["status", "--watch", "--run", str(run.directory)]) == code
    assert main(["status", "--run", str(run.directory)]) == code
    assert capsys.readouterr().err == ""


def test_a_run_that_somebody_drives_is_watched_until_the_time_is_over(
    run_of: RunOf, stories: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "held", lambda _path: True)
    begun = stories("soaking").journal.at
    code, lines = followed(run_of("soaking"), timeout_s=30, now=begun)
    assert code == 3
    assert not any("controller" in line for line in lines)


def test_the_lock_of_another_run_drives_nothing(
    run_of: RunOf, stories: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("soaking")
    monkeypatch.setattr(lock, "held", lambda _path: True)
    run.fleet.lock.write_text(json.dumps({"run": "another", "pid": 1}))
    code, lines = followed(run, timeout_s=300, now=stories("soaking").journal.at)
    assert code == 5
    assert "controller not running" in lines[-1]


def test_a_changed_journal_is_said_once(run_of: RunOf) -> None:
    run = run_of("failed")
    run.journal.write_bytes(run.journal.read_bytes().replace(b"grace@control1", b"nobody@elsewhere", 1))
    _code, lines = followed(run)
    assert sum("do not trust" in line for line in lines) == 1


@pytest.mark.parametrize("options", [["--run", "nothing"], ["--run", "/nowhere/at/all"], ["--watch"]])
def test_no_such_run_is_one_line(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path))
    assert main(["status", *options]) == 1
    err = capsys.readouterr().err
    assert err.startswith("ktls: ")
    assert err.count("\n") == 1


def test_the_newest_run_of_the_only_fleet_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path))
    journals.begin(tmp_path, run="20261126-050000-old").end("aborted")
    journals.completed(tmp_path)
    assert main(["status", "--watch"]) == 0
    assert "completed" in capsys.readouterr().out


# Keys


@pytest.fixture
def pilot(run_of: RunOf) -> Iterator[tuple[Pilot, Run, list[str]]]:
    run = run_of("completed")
    # Up to where the canary waits to be promoted.
    kept = run.journal.read_bytes().split(b"\n")
    end = next(number for number, line in enumerate(kept) if b'"event":"waiting"' in line)
    run.journal.write_bytes(b"\n".join(kept[: end + 1]) + b"\n")
    state = fold(json.loads(line) for line in kept[: end + 1])
    begun: list[str] = []

    def start_off(reason: str) -> Off:
        begun.append(reason)
        said = (
            "import sys, json; json.dump({'hosts': {'a': {'host': 'a', 'off': True, 'last_new_s': 0.4}}}, sys.stdout)"
        )
        return Off("inv", "group", reason, run.directory, (sys.executable, "-c", said))

    yield Pilot(run, "ada@here", lambda: state, lambda: False, start_off), run, begun


def said(pilot: Pilot) -> str:
    return "\n".join(line.plain for line in pilot.footer())


def test_promote_asks_once(pilot: tuple[Pilot, Run, list[str]]) -> None:
    fly, run, _begun = pilot
    fly.press("p")
    assert said(fly).startswith("promote wave 1?")
    assert look(run.control).promote == {}
    fly.press("n")
    assert look(run.control).promote == {}
    fly.press("p")
    fly.press("y")
    assert look(run.control).promote[1].by == "ada@here"


def test_abort_asks_once(pilot: tuple[Pilot, Run, list[str]]) -> None:
    fly, run, _begun = pilot
    fly.press("a")
    assert look(run.control).abort is None
    fly.press("a")
    assert look(run.control).abort is None
    fly.press("a")
    fly.press("y")
    assert look(run.control).abort is not None


def test_pause_is_at_once_and_again_resumes(pilot: tuple[Pilot, Run, list[str]]) -> None:
    fly, run, _begun = pilot
    fly.press("P")
    assert look(run.control).pause is not None
    assert "[P] resume" in said(fly)
    fly.press("P")
    assert look(run.control).pause is None


def test_off_is_at_once_even_over_a_question_and_ends_the_rollout(pilot: tuple[Pilot, Run, list[str]]) -> None:
    fly, run, begun = pilot
    fly.press("p")
    fly.press("O")
    assert begun == ["off by ada@here"]
    assert look(run.control).off is not None
    assert look(run.control).promote == {}
    end = time.monotonic() + 10
    assert fly.off_lines()[0] == "OFF: ktls off -i inv --group group"
    done = "OFF: 1 of 1 hosts read back on userspace TLS, last new kTLS connection after 0.4 s"
    while done not in fly.off_lines():
        assert time.monotonic() < end, fly.off_lines()
        time.sleep(0.02)
    assert not fly.busy()
    # One that is done can be started again.
    fly.press("O")
    assert len(begun) == 2


def test_off_goes_on_when_nothing_can_be_written(pilot: tuple[Pilot, Run, list[str]], tmp_path: Path) -> None:
    off = Off(
        "inv", "group", "why", tmp_path / "no" / "place" / "off.log", (sys.executable, "-c", "raise SystemExit(1)")
    )
    end = time.monotonic() + 10
    while off.running():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert any("what it says is lost" in line for line in off.lines())
    assert any("NOT confirmed" in line for line in off.lines())


def test_off_names_who_is_not(tmp_path: Path) -> None:
    said = json.dumps({"hosts": {f"h{n}": {"host": f"h{n}", "off": False, "error": "gone"} for n in range(6)}})
    off = Off("inv", "group", "why", tmp_path, (sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"))
    end = time.monotonic() + 10
    while off.running():
        assert time.monotonic() < end
        time.sleep(0.02)
    lines = off.lines()
    assert "OFF: 0 of 6 hosts read back on userspace TLS" in lines
    assert "OFF: NOT h0: gone" in lines
    assert "OFF: NOT 2 more" in lines[-1]


def test_off_that_cannot_start_says_what_to_do(tmp_path: Path) -> None:
    off = Off("inv", "group", "why", tmp_path, ("/nowhere/ktls",))
    assert any("NOW" in line for line in off.lines())


def test_a_question_is_forgotten(pilot: tuple[Pilot, Run, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    fly, run, _begun = pilot
    moment = [0.0]
    monkeypatch.setattr(fly, "_clock", lambda: moment[0])
    fly.press("a")
    moment[0] = 60.0
    fly.press("y")
    assert look(run.control).abort is None


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (["p"], "p"),
        (["\x1b[Ap"], "p"),
        (["\x1bOP"], ""),  # F1
        (["\x1b", "OPq"], "q"),
        (["\x1b[", "15~e"], "e"),  # F5
        (["\x1b[1;5", "C"], ""),
        (["\x1bO"], ""),  # Alt and O
        (["\x1b"], ""),
        (["aO"], "aO"),
        (["é"], "é"),
    ],
)
def test_what_is_no_key(typed: list[str], keys: str) -> None:
    master, slave = pty.openpty()
    with open(slave, closefd=False) as stream, Keys(stream) as reader:
        os.write(master, typed[0].encode())
        timers = [threading.Timer(0.01, os.write, (master, part.encode())) for part in typed[1:]]
        for timer in timers:
            timer.start()
        found = reader.read(5.0)
        for timer in timers:
            timer.join()
    os.close(master)
    os.close(slave)
    assert found == keys


def test_keys_on_a_terminal(run_of: RunOf) -> None:
    run = run_of("soaking")
    with Terminal(run.directory) as terminal:
        drawn = terminal.until("[O]FF")
        assert "controller not running" in drawn
        assert terminal.settings() != terminal.before
        terminal.type("P")
        terminal.until("pause: asked for; nobody obeys before `ktls resume`")
        assert look(run.control).pause is not None
        # An arrow sends an A behind an escape: it is not a key.
        terminal.type("\x1b[A")
        terminal.type("a")
        terminal.until("abort: this wave goes back")
        terminal.type("n")
        terminal.until("abort: left alone")
        terminal.type("p")
        terminal.until("no wave waits to be promoted")
        terminal.type("e")
        terminal.until("accepted up to +3.0%")
        terminal.type("q")
        assert terminal.end() == 5
        assert terminal.settings() == terminal.before
    assert look(run.control).abort is None


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGINT, 130)])
def test_the_terminal_is_restored_whatever_ends_it(run_of: RunOf, number: signal.Signals, status: int) -> None:
    with Terminal(run_of("soaking").directory) as terminal:
        terminal.until("[O]FF")
        assert not terminal.settings()[3] & termios.ECHO
        terminal.process.send_signal(number)
        assert terminal.end() == status
        assert terminal.settings() == terminal.before
        # The cursor is shown again, and the screen before is back.
        assert b"\x1b[?25h" in terminal.raw
        assert b"\x1b[?1049l" in terminal.raw


def test_it_ends_with_the_run_and_leaves_the_tree(run_of: RunOf) -> None:
    run = run_of("completed")
    text = run.journal.read_bytes()
    begun = text.rindex(b"\n", 0, -1) + 1
    run.journal.write_bytes(text[:begun])
    with Terminal(run.directory) as terminal:
        terminal.until("[O]FF")
        with open(run.journal, "ab") as file:
            file.write(text[begun:])
        assert terminal.end() == 0
        assert terminal.settings() == terminal.before
        assert "completed" in terminal.until("completed")


def test_a_timeout_on_a_terminal(run_of: RunOf) -> None:
    with Terminal(run_of("soaking").directory, "--timeout", "1") as terminal:
        assert terminal.end() == 5
