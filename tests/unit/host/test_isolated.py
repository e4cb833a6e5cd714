# SPDX-License-Identifier: Apache-2.0
"""A question that crashes or hangs is answered all the same, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ktls_host import isolated, ulp_probe
from ktls_host.isolated import Outcome

AGENT = Path(isolated.__file__).parents[1]
ENOUGH_S = 20.0


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def two(emit: isolated.Emit) -> None:
    emit({"first": 1})
    emit([2, None, "zwei"])


def test_answers_come_in_order() -> None:
    assert isolated.call(two, ENOUGH_S) == Outcome(({"first": 1}, [2, None, "zwei"]), "done")


def test_no_answer_is_an_answer() -> None:
    found = isolated.call(lambda emit: None, ENOUGH_S)
    assert found == Outcome((), "done") and found.done


def crash(emit: isolated.Emit) -> None:
    two(emit)
    faulthandler.disable()
    ctypes.string_at(0)


def abort(emit: isolated.Emit) -> None:
    two(emit)
    faulthandler.disable()
    os.abort()


def leave(emit: isolated.Emit) -> None:
    two(emit)
    os._exit(7)


def stop(emit: isolated.Emit) -> None:
    two(emit)
    sys.exit(3)


def fail(emit: isolated.Emit) -> None:
    two(emit)
    raise ValueError("of its own")


def hang(emit: isolated.Emit) -> None:
    two(emit)
    time.sleep(600)


@pytest.mark.parametrize(
    ("function", "ended"),
    [
        (crash, f"signal {int(signal.SIGSEGV)}"),
        (abort, f"signal {int(signal.SIGABRT)}"),
        (leave, "exit 7"),
        (stop, "error: SystemExit: 3"),
        (fail, "error: ValueError: of its own"),
    ],
)
def test_what_was_said_before_the_end_is_kept(function: object, ended: str) -> None:
    found = isolated.call(function, ENOUGH_S)  # type: ignore[arg-type]
    assert (len(found.answers), found.ended, found.done) == (2, ended, False)


def test_a_child_that_hangs_is_ended_in_time() -> None:
    began = time.monotonic()
    found = isolated.call(hang, 0.5)
    assert (len(found.answers), found.ended) == (2, "timeout")
    assert 0.5 <= time.monotonic() - began < 5


def test_a_child_that_ignores_signals_is_ended_too() -> None:
    def stubborn(emit: isolated.Emit) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        emit(os.getpid())
        time.sleep(600)

    found = isolated.call(stubborn, 0.5)
    assert found.ended == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(found.answers[0], 0)


def test_an_answer_cut_short_is_none() -> None:
    """The writer may die within a line."""

    def half(emit: isolated.Emit) -> None:
        emit("whole")
        write = os.write

        def cut(pipe: int, data: bytes) -> int:
            write(pipe, data[:12])
            os._exit(0)

        os.write = cut  # type: ignore[assignment]
        emit("half of it never comes")

    assert isolated.call(half, ENOUGH_S) == Outcome(("whole",), "exit 0")


def test_large_answers_arrive_whole() -> None:
    """More than a pipe holds, so that writing and reading must go hand in hand."""
    big = "x" * 5_000_000

    def much(emit: isolated.Emit) -> None:
        emit(big)
        emit(1)

    found = isolated.call(much, ENOUGH_S)
    assert found == Outcome((big, 1), "done")


def test_what_is_no_json_is_an_error_of_the_child() -> None:
    found = isolated.call(lambda emit: emit(object()), ENOUGH_S)
    assert found.answers == () and found.ended.startswith("error: TypeError")


def test_output_goes_nowhere_and_input_is_empty(capfd: pytest.CaptureFixture[str]) -> None:
    def talk(emit: isolated.Emit) -> None:
        with os.fdopen(os.dup(1), "w") as stream:
            print("to stdout", file=stream)
        os.write(1, b"to descriptor 1\n")
        os.write(2, b"to descriptor 2\n")
        emit(os.read(0, 10).decode())

    assert isolated.call(talk, ENOUGH_S) == Outcome(("",), "done")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("function", [two, crash, fail, hang])
def test_nothing_is_left_behind(function: object) -> None:
    before = descriptors()
    for _ in range(5):
        isolated.call(function, 0.3)  # type: ignore[arg-type]
    assert descriptors() == before
    with pytest.raises(ChildProcessError):  # no zombie, and nobody who still runs
        os.waitpid(-1, os.WNOHANG)


def test_the_parent_keeps_its_own_state() -> None:
    """What a library does to the process is the child's own affair."""
    handler, directory = signal.getsignal(signal.SIGPIPE), os.getcwd()

    def spoil(emit: isolated.Emit) -> None:
        os.chdir("/")
        os.environ["KTLS_SPOILT"] = "yes"

    assert isolated.call(spoil, ENOUGH_S).done
    assert (signal.getsignal(signal.SIGPIPE), os.getcwd(), "KTLS_SPOILT" in os.environ) == (handler, directory, False)


def in_a_process(code: str) -> str:
    """Run ``code`` in a Python of its own, where a child that escapes does no harm; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(AGENT)},
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_child_never_goes_on_as_a_second_parent() -> None:
    """Its pipe may be gone when it wants to report; then the caller's code must not run twice."""
    said = in_a_process(
        "import os; from ktls_host import isolated\n"
        "found = isolated.call(lambda emit: os.closerange(3, 64), 20)\n"
        "os.write(1, (found.ended + '\\n').encode())\n"
    )
    assert said in ("exit 1\n", "signal 9\n")  # one line; who is faster is open


def test_a_parent_that_ignores_its_children() -> None:
    """SIG_IGN for SIGCHLD is inherited, and then there is no status to wait for (waitpid(2))."""
    said = in_a_process(
        "import signal; from ktls_host import isolated\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "print(isolated.call(lambda emit: emit(1), 20))\n"
    )
    assert said == "Outcome(answers=(1,), ended='done')\n"


# A network namespace of its own


def seen(emit: isolated.Emit) -> None:
    emit(isolated.own_network())
    emit([name for _, name in socket.if_nameindex()])
    client, server = ulp_probe.connection()
    with client, server:
        client.sendall(b"through loopback")
        emit(server.recv(100).decode())


def test_own_network_has_loopback_and_nothing_else() -> None:
    mine = [name for _, name in socket.if_nameindex()]
    found = isolated.call(seen, ENOUGH_S)
    assert found.done, found
    permitted, names, data = found.answers
    assert data == "through loopback"
    assert permitted is (os.geteuid() == 0) and names == (["lo"] if permitted else mine)
    assert [name for _, name in socket.if_nameindex()] == mine, "the caller stays where it was"


def test_without_permission_the_network_stays_as_it_was() -> None:
    def ordinary(emit: isolated.Emit) -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        seen(emit)

    mine = [name for _, name in socket.if_nameindex()]
    assert isolated.call(ordinary, ENOUGH_S) == Outcome((False, mine, "through loopback"), "done")


def test_a_refusal_of_another_kind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def unshare(self, flags: int) -> int:
            assert flags == 0x40000000
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    monkeypatch.setattr(ctypes, "get_errno", lambda: 12)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        isolated.own_network()
