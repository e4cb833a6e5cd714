# SPDX-License-Identifier: Apache-2.0
"""What the kernel takes is asked of the kernel; here model kernels answer in its place."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host import isolated, ulp_probe
from ktls_host.isolated import Outcome
from ktls_host.ulp_probe import CIPHERS, SOL_TLS, TCP_ULP, TLS_1_2, TLS_1_3, TLS_RX, TLS_TX, UlpState

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

Answer = Callable[[int, int, int, int], "int | None"]
_REAL = socket.socket.setsockopt
_NUMBERS = {number: name for name, (number, _) in CIPHERS.items()}
#: uapi linux/tls.h: the whole structure, its two leading 16-bit members included.
_SIZES = {"aes-gcm-128": 40, "aes-gcm-256": 56, "aes-ccm-128": 40, "chacha20-poly1305": 56}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer, int | None], None]:
    """Return a function that sets how keys are answered (errno or ``None``), and the ULP itself."""

    def model(answer: Answer, ulp: int | None = None) -> None:
        keys: dict[tuple[int, int], int] = {}

        def setsockopt(self: socket.socket, level: int, option: int, value: Any, *rest: Any) -> None:
            failure = None
            if (level, option) == (socket.IPPROTO_TCP, TCP_ULP):
                assert value == b"tls"
                failure = ulp
                for direction in (TLS_TX, TLS_RX):
                    keys.pop((self.fileno(), direction), None)
            elif level == SOL_TLS:
                version, number = struct.unpack("=HH", value[:4])
                assert len(value) == _SIZES[_NUMBERS[number]]
                assert not any(value[4:]), "keys of zeros"
                times = keys[self.fileno(), option] = keys.get((self.fileno(), option), 0) + 1
                failure = answer(version, number, option, times)
            else:
                _REAL(self, level, option, value, *rest)
            if failure is not None:
                raise OSError(failure, os.strerror(failure))

        monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)

    return model


def old(version: int, number: int, option: int, times: int) -> int | None:
    """Linux 6.12: everything once, but no AES-CCM with TLS 1.2."""
    if times > 1:
        return errno.EBUSY
    return errno.EINVAL if (version, number) == (TLS_1_2, CIPHERS["aes-ccm-128"][0]) else None


def transmit_only(version: int, number: int, option: int, times: int) -> int | None:
    return None if option == TLS_TX else errno.EINVAL


def anything(version: int, number: int, option: int, times: int) -> int | None:
    return None


def test_without_the_ulp_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's first request would load the module: reading a host must not change it."""
    monkeypatch.setattr(isolated, "call", lambda *_: pytest.fail("asked all the same"))
    assert ulp_probe.probe(False) == UlpState(why="module tls is not loaded")


def test_an_older_kernel(kernel: Callable[..., None]) -> None:
    kernel(old)
    state = ulp_probe.probe(True)
    assert (state.asked, state.why, state.rekey) == (True, None, {"tx": False, "rx": False})
    assert set(state.ciphers) == {"TLSv1.2", "TLSv1.3"}
    refused = [
        (v, c) for v, ciphers in state.ciphers.items() for c, found in ciphers.items() if not all(found.values())
    ]
    assert refused == [("TLSv1.2", "aes-ccm-128")]
    assert all(set(ciphers) == set(CIPHERS) for ciphers in state.ciphers.values())


def test_a_newer_kernel(kernel: Callable[..., None]) -> None:
    kernel(anything)
    assert ulp_probe.probe(True).rekey == {"tx": True, "rx": True}


def test_directions_are_told_apart(kernel: Callable[..., None]) -> None:
    kernel(transmit_only)
    state = ulp_probe.probe(True)
    assert state.rekey == {"tx": True, "rx": False}
    assert state.ciphers["TLSv1.3"]["aes-gcm-256"] == {"tx": True, "rx": False}


@pytest.mark.parametrize(("system", "rekey"), [("debian12", False), ("debian13", False), ("debian13-backports", True)])
def test_recorded_kernels(system: str, rekey: bool) -> None:
    """Real answers: all ciphers both ways, new keys from 6.14 on."""
    found = systems.collected(system)["ulp"]
    assert found["asked"] and found["rekey"] == {"tx": rekey, "rx": rekey}
    assert {name: set(ciphers) for name, ciphers in found["ciphers"].items()} == {
        "TLSv1.2": set(CIPHERS),
        "TLSv1.3": set(CIPHERS),
    }
    assert all(all(took.values()) for ciphers in found["ciphers"].values() for took in ciphers.values())


def test_a_kernel_without_the_ulp_is_not_taken_for_one_that_refuses_everything(kernel: Callable[..., None]) -> None:
    """It can be gone between the look and the question."""
    kernel(anything, errno.ENOENT)
    state = ulp_probe.probe(True)
    assert not state.asked and "No such file or directory" in (state.why or "")
    assert state.ciphers == {} == state.rekey


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN])
def test_a_broken_question_is_not_a_refusal(kernel: Callable[..., None], number: int) -> None:
    kernel(lambda *_: number)
    state = ulp_probe.probe(True)
    assert not state.asked and os.strerror(number) in (state.why or "")


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Outcome((), "timeout"), "the question to the kernel ended with timeout"),
        (Outcome((), "signal 11"), "the question to the kernel ended with signal 11"),
        (Outcome((), "done"), "the question to the kernel ended with done"),
        (Outcome(({"ciphers": {}, "rekey": {}},), "signal 9"), "the question to the kernel ended with signal 9"),
    ],
)
def test_no_whole_answer(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, why: str) -> None:
    monkeypatch.setattr(isolated, "call", lambda *_: outcome)
    assert ulp_probe.probe(True) == UlpState(why=why)


def test_connection_joins_both_ends_and_closes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    client, server = ulp_probe.connection()
    with client, server:
        assert client.getpeername() == server.getsockname()
        client.sendall(b"there")
        server.sendall(b"back")
        assert (server.recv(10), client.recv(10)) == (b"there", b"back")
    assert set(os.listdir("/proc/self/fd")) == before

    def refuse(self: socket.socket) -> None:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(socket.socket, "accept", refuse)
    with pytest.raises(OSError, match="too many"):
        ulp_probe.connection()
    assert set(os.listdir("/proc/self/fd")) == before


def test_nothing_is_left_open(kernel: Callable[..., None]) -> None:
    kernel(old)
    before = set(os.listdir("/proc/self/fd"))
    assert not ulp_probe._takes(TLS_1_3, "aes-gcm-128", TLS_RX, times=2)
    assert ulp_probe._takes(TLS_1_3, "aes-gcm-128", TLS_RX)
    assert set(os.listdir("/proc/self/fd")) == before
