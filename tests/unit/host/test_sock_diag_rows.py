# SPDX-License-Identifier: Apache-2.0
"""Rows: the same as what the object reader finds, on recordings and on live sockets; and never a crash."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import sock_diag
from ktls_host.errors import KtlsError
from ktls_host.sock_diag_rows import Destroyed, Dumps, Row, port_of, split, ulp_of

if TYPE_CHECKING:
    from tests.unit.host.recordings import Recording


def netlink(kind: int, payload: bytes, sequence: int = 1) -> bytes:
    padding = bytes(-len(payload) % 4)
    return struct.pack("=IHHII", 16 + len(payload), kind, 2, sequence, 0) + payload + padding


DONE = netlink(3, bytes(4))


def compare(row: Row, message: bytes) -> None:
    cookie, acked, received, tail, inode, state, family, port, *_ = row
    expected = sock_diag.parse_message(message)
    assert expected is not None
    assert (cookie, acked, received, inode) == (
        expected.cookie, expected.bytes_acked, expected.bytes_received, expected.inode,
    )  # fmt: skip
    assert (port_of(port), ulp_of(tail)) == (expected.local_port, expected.ulp)
    assert (state, family) == (1, {"inet": socket.AF_INET, "inet6": socket.AF_INET6}[expected.family])


def test_recorded(recording: Recording) -> None:
    """All messages of a kernel in one datagram, whatever attributes precede and follow tcp_info."""
    messages = [*recording.messages.values(), *recording.unprivileged.values()]
    data = b"".join(netlink(20, message) for message in messages)
    for layout in (88, 96, 200):
        rows, _, ended = split(data + DONE, layout, 1)
        assert ended == 0 and len(rows) == len(messages)
        for row, message in zip(rows, messages):
            compare(row, message)


def test_answers_to_other_questions_are_passed_over(recording: Recording) -> None:
    message = recording.messages["plain"]
    data = netlink(20, message, 7) + netlink(20, message, 8) + netlink(3, bytes(4), 7)
    rows, layout, ended = split(data, 88, 8)
    assert len(rows) == 1 and ended is None
    rows, _, ended = split(data, layout, 8)
    assert len(rows) == 1 and ended is None


def test_a_socket_without_tcp_info_is_none(recording: Recording) -> None:
    """What is left of a connection in TIME_WAIT has no tcp_info."""
    plain = recording.messages["plain"]
    layout = split(netlink(20, plain), 88, 1)[1]
    rows, _, _ = split(netlink(20, plain[:72]) + netlink(20, plain) + netlink(20, plain[:72]), layout, 1)
    assert len(rows) == 1


@given(st.binary(max_size=400), st.integers(88, 300))
def test_never_raises_on_bytes(data: bytes, layout: int) -> None:
    split(data, layout, 1)
    split(netlink(20, data), layout, None)
    ulp_of(data)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOENT])
def test_refusal_of_the_kernel(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = Dumps()
    monkeypatch.setattr(dumps, "_sock", Fake([netlink(2, struct.pack("=i", -number) + bytes(16))]))
    with pytest.raises(KtlsError, match=os.strerror(number)) as caught:
        list(dumps.rows())
    assert caught.value.code == "sock_diag_failed"


def test_a_kernel_that_hides_is_not_taken_for_userspace(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "ulp_for_all", lambda release=None: False)
    dumps = Dumps()
    hides = recording.version < (6, 15)
    for messages, fails in ((recording.messages, False), (recording.unprivileged, hides)):
        dumps._may_hide = True
        monkeypatch.setattr(dumps, "_sock", Fake([netlink(20, messages["plain"]) + DONE, DONE]))
        dumps._sequence = 0
        if not fails and recording.version >= (6, 15) and messages is recording.unprivileged:
            continue  # that kernel hides nothing, and is not asked
        try:
            found = [row for rows in dumps.rows() for row in rows]
        except KtlsError as error:
            assert fails and error.code == "need_net_admin"
        else:
            assert len(found) == 1 and not fails


class Fake:
    """A netlink socket that answers every request with the next datagram, under the sequence that was asked for."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.sequence = 0

    def sendto(self, data: bytes, _: Any) -> None:
        self.sequence = struct.unpack_from("=I", data, 8)[0]

    def recv(self, _: int) -> bytes:
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        data = bytearray(step)
        offset = 0
        while offset + 16 <= len(data):
            struct.pack_into("=I", data, offset + 8, self.sequence)
            offset += struct.unpack_from("=I", data, offset)[0] + 3 & ~3
        return bytes(data)


def test_lost_notices_are_counted(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    notices = Destroyed()
    one = netlink(20, recording.messages["plain"])
    script = [one, OSError(errno.ENOBUFS, "no buffer"), one, BlockingIOError()]
    monkeypatch.setattr(notices, "_sock", Fake(script))
    assert len(notices.drain()) == 2
    assert notices.lost == 1
    monkeypatch.setattr(notices, "_sock", Fake([OSError(errno.EBADF, "bad")]))
    with pytest.raises(KtlsError, match="bad"):
        notices.drain()


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_live(family: int, address: str) -> None:
    """A connection of this machine, in a dump and in its notice: how much it carried, a byte more for a FIN."""
    notices, dumps = Destroyed(), Dumps()
    with socket.create_server((address, 0), family=socket.AddressFamily(family)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((address, port))
        accepted, _ = server.accept()
        client.sendall(bytes(300))
        accepted.recv(1000)
        accepted.sendall(bytes(5000))
        while client.recv(10000, socket.MSG_PEEK) and len(client.recv(10000, socket.MSG_PEEK)) < 5000:
            pass
        time.sleep(0.05)
        rows = [row for batch in dumps.rows(port=port) for row in batch]
        assert [(row[1], row[2], row[5], row[6]) for row in rows] == [(5000, 300, 1, family)]
        cookie = struct.unpack("=Q", accepted.getsockopt(socket.SOL_SOCKET, 57, 8))[0]  # SO_COOKIE
        assert rows[0][0] == cookie and rows[0][4] == os.fstat(accepted.fileno()).st_ino
        accepted.close()
        client.close()
        found: list[Row] = []
        deadline = time.monotonic() + 5
        while cookie not in {row[0] for row in found} and time.monotonic() < deadline:
            time.sleep(0.02)
            found += notices.drain()
    row = next(row for row in found if row[0] == cookie)
    assert port_of(row[7]) == port
    assert 0 <= row[1] - 5000 <= 1 and 0 <= row[2] - 300 <= 1
    assert not [row for batch in dumps.rows(port=port) for row in batch]
    notices.close()
    dumps.close()
