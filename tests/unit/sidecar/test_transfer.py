# SPDX-License-Identifier: Apache-2.0
"""Sending over kTLS, with a kernel that is played: what goes which way, in which order, and how it stops."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from ktls_sidecar.counters import Tally
from ktls_sidecar.openssl import WANT_WRITE
from ktls_sidecar.openssl.library import READ_SIZE
from ktls_sidecar.transfer import (
    AGAIN,
    BLOCKED,
    DONE,
    SENDFILE_SIZE,
    BufferPool,
    KernelTransfer,
    Piece,
    TransferError,
    transfer,
)
from ktls_sidecar.web.files import HeldFile, OpenFile, parse_target
from tests.unit.sidecar.support import open_target


class Wire:
    """A connection's TLS and socket in one; ``sent`` are the calls, ``refuse`` how many of them find no room."""

    def __init__(self, ktls: bool = True, owes_keys: bool = False, room: int = 1 << 30) -> None:
        self.ktls_send = ktls
        self.key_update_pending = owes_keys
        self.room = room
        self.calls: list[tuple[str, int]] = []
        self.bytes = b""

    def take(self, how: str, data: bytes) -> int:
        count = min(len(data), self.room)
        self.room -= count
        self.bytes += data[:count]
        self.calls.append((how, count))
        return count

    def send(self, data: bytes, flags: int) -> int:
        if not self.room:
            raise BlockingIOError
        return self.take("more" if flags & socket.MSG_MORE else "send", data)

    def write_bytes(self, data: bytes) -> int:
        if self.room < len(data):
            return WANT_WRITE
        self.key_update_pending = False
        return self.take("SSL_write", data)

    def sendfile(self, fd: int, offset: int, length: int) -> int:
        if not self.room:
            return WANT_WRITE
        return self.take("sendfile", os.pread(fd, length, offset))


@pytest.fixture
def file(tmp_path: Path) -> OpenFile:
    (tmp_path / "f").write_bytes(os.urandom(3 * SENDFILE_SIZE + 5))
    return open_target(str(tmp_path), parse_target(b"/f"))


def sending(wire: Wire, pieces: list[Piece], file: OpenFile, tally: Tally | None = None) -> KernelTransfer:
    return KernelTransfer(cast(Any, wire), cast(Any, wire), tally or Tally("tx", "ktls_tx", "", ""), pieces, file)


def test_head_and_file_share_a_record_and_turns_are_bounded(file: OpenFile) -> None:
    wire, tally = Wire(), Tally("tx", "ktls_tx", "", "")
    current = sending(wire, [b"head", (0, file.size)], file, tally)
    assert [current.step() for _ in range(4)] == [AGAIN, AGAIN, AGAIN, DONE]
    assert wire.calls == [("more", 4), *[("sendfile", SENDFILE_SIZE)] * 3, ("sendfile", 5)]
    assert wire.bytes == b"head" + os.pread(file.fd, file.size, 0)
    assert current.sent == tally.bytes_total == len(wire.bytes)


def test_parts_go_in_order(file: OpenFile) -> None:
    wire = Wire()
    assert sending(wire, [b"head", b"a", (10, 5), b"b", (0, 3), b"end"], file).step() == DONE
    assert [how for how, _ in wire.calls] == ["more", "more", "sendfile", "more", "sendfile", "send"]
    assert wire.bytes == b"heada" + os.pread(file.fd, 5, 10) + b"b" + os.pread(file.fd, 3, 0) + b"end"


def test_every_place_to_block_resumes_there(file: OpenFile) -> None:
    whole = b"head" + os.pread(file.fd, 20, 0) + b"end"
    for room in range(len(whole)):
        wire = Wire(room=room)
        current = sending(wire, [b"head", (0, 20), b"end"], file)
        assert current.step() == BLOCKED
        assert wire.bytes == whole[:room]
        wire.room = 1 << 30
        assert current.step() == DONE
        assert wire.bytes == whole
        assert current.sent == len(whole)


def test_an_answer_to_a_key_update_goes_first(file: OpenFile) -> None:
    """Only SSL_write sends it, and what went before it would be read with keys that are gone."""
    wire = Wire(owes_keys=True, room=2)
    current = sending(wire, [b"head", (0, 20)], file)
    assert current.step() == BLOCKED
    assert wire.bytes == b""
    wire.room = 100
    assert current.step() == DONE
    assert wire.calls == [("SSL_write", 4), ("sendfile", 20)]
    assert current.sent == 24


def test_a_file_that_was_cut_ends_short(file: OpenFile, tmp_path: Path) -> None:
    wire = Wire()
    current = sending(wire, [b"head", (0, file.size)], file)
    assert current.step() == AGAIN
    os.truncate(tmp_path / "f", 10)
    with pytest.raises(TransferError) as caught:
        while True:
            current.step()
    assert caught.value.kind == "file_changed"
    assert len(wire.bytes) < file.size


def test_the_last_bytes_of_a_changed_file_stay_unsent(file: OpenFile, tmp_path: Path) -> None:
    wire = Wire()
    current = sending(wire, [b"head", (0, file.size)], file)
    for _ in range(2):
        current.step()
    with (tmp_path / "f").open("r+b") as changed:
        changed.write(b"another")
    with pytest.raises(TransferError):
        while True:
            current.step()
    assert len(wire.bytes) < file.size


def test_never_in_the_clear(file: OpenFile) -> None:
    with pytest.raises(ValueError, match="not encrypted by the kernel"):
        sending(Wire(ktls=False), [b"head", (0, 5)], file)


def test_without_a_file_openssl_writes_whoever_encrypts() -> None:
    wire = Wire()
    pool = BufferPool()
    current = transfer(cast(Any, wire), cast(Any, wire), pool, Tally("tx", "ktls_tx", "", ""), [b"head"], None, True)
    assert current.step() == DONE
    assert wire.calls == [("SSL_write", 4)]


@pytest.mark.parametrize(
    ("size", "kernel", "calls"),
    [
        (100, True, ["SSL_write"]),
        (READ_SIZE - 4, True, ["SSL_write"]),
        (READ_SIZE, True, ["send"]),
        (64 * 1024, True, ["send"]),
        (64 * 1024, False, ["SSL_write"]),
    ],
)
def test_what_is_in_memory_leaves_in_one_call(tmp_path: Path, size: int, kernel: bool, calls: list[str]) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    held = HeldFile(open_target(str(tmp_path), parse_target(b"/f")), content)
    wire, tally = Wire(ktls=kernel), Tally("tx", "ktls_tx", "", "")
    pieces: list[Piece] = [b"head", (0, size)]
    current = transfer(cast(Any, wire), cast(Any, wire), BufferPool(), tally, pieces, held, kernel)
    assert current.step() == DONE
    assert wire.bytes == b"head" + content
    assert [how for how, _ in wire.calls] == calls
    assert current.sent == tally.bytes_total == size + 4


def test_what_is_in_memory_and_does_not_fit_goes_on_where_it_stopped(tmp_path: Path) -> None:
    content = os.urandom(50_000)
    (tmp_path / "f").write_bytes(content)
    held = HeldFile(open_target(str(tmp_path), parse_target(b"/f")), content)
    wire, tally = Wire(room=20_000), Tally("tx", "ktls_tx", "", "")
    pieces: list[Piece] = [b"a", (0, 30_000), b"b", (30_000, 20_000)]
    current = transfer(cast(Any, wire), cast(Any, wire), BufferPool(), tally, pieces, held, True)
    assert current.step() == BLOCKED
    wire.room = 1 << 20
    assert current.step() == DONE
    assert wire.bytes == b"a" + content[:30_000] + b"b" + content[30_000:]
