# SPDX-License-Identifier: Apache-2.0
"""sock_diag: recorded messages of real kTLS sockets, messages made by hand, and live loopback sockets."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ktls_host import sock_diag
from ktls_host.errors import KtlsError
from ktls_host.sock_diag import TcpConnection, UlpInfo, find_connection, parse_message, tcp_connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.host.recordings import Recording

OLD, NEW = "6.12.1", "6.15.0"


# recorded


@pytest.mark.parametrize(
    ("case", "version", "cipher", "tx", "rx"),
    [
        ("ulp_only", None, None, "none", "none"),
        ("tx_tls13_aes256", "TLSv1.3", "AES-256-GCM", "sw", "none"),
        ("tx_tls12_aes128", "TLSv1.2", "AES-128-GCM", "sw", "none"),
        ("tx_tls13_chacha", "TLSv1.3", "CHACHA20-POLY1305", "sw", "none"),
        ("both_tls13_aes128", "TLSv1.3", "AES-128-GCM", "sw", "sw"),
    ],
)
def test_recorded_ulp(
    recording: Recording, case: str, version: str | None, cipher: str | None, tx: str, rx: str
) -> None:
    connection = parse_message(recording.messages[case], recording.release)
    assert connection is not None
    ulp = connection.ulp
    assert ulp is not None
    assert (ulp.name, ulp.version, ulp.cipher, ulp.tx, ulp.rx) == ("tls", version, cipher, tx, rx)
    assert (ulp.zc_ro_tx, ulp.rx_no_pad) == (False, False), "flags of device offload and of an option not set"
    assert (connection.ktls_tx, connection.ktls_rx) == (tx == "sw", rx == "sw")
    assert connection.ulp_visible


def test_recorded_plain(recording: Recording) -> None:
    connection = parse_message(recording.messages["plain"], recording.release)
    assert connection is not None
    assert (connection.family, connection.state, connection.ulp) == ("inet", "ESTABLISHED", None)
    assert (connection.local_address, connection.remote_address) == ("127.0.0.1", "127.0.0.1")
    assert connection.local_port and connection.remote_port and connection.inode and connection.cookie
    assert (connection.bytes_acked, connection.bytes_received) == (1000, 0)
    assert connection.ulp_visible, "an administrator who sees no ULP knows that there is none"


def test_recorded_bytes_hold_the_tls_overhead(recording: Recording) -> None:
    """TLS 1.3: header 5, content type 1, tag 16 (RFC 8446 5.2); TLS 1.2 GCM: header 5, nonce 8, tag 16."""
    acked = {case: parse_message(message, OLD) for case, message in recording.messages.items()}
    assert acked["tx_tls13_aes256"] is not None and acked["tx_tls13_aes256"].bytes_acked == 1022
    assert acked["tx_tls12_aes128"] is not None and acked["tx_tls12_aes128"].bytes_acked == 1029


def test_recorded_payload_limit_is_read_where_there_is_one(recording: Recording) -> None:
    connection = parse_message(recording.messages["tx_tls13_aes256"], recording.release)
    assert connection is not None and connection.ulp is not None
    assert connection.ulp.tx_max_payload == (16384 if recording.version >= (7, 0) else None)


def test_recorded_secrecy_of_old_kernels(recording: Recording) -> None:
    """Before 6.15 a process without CAP_NET_ADMIN is shown a kTLS connection as if it were a plain one."""
    connection = parse_message(recording.unprivileged["tx_tls13_aes256"], recording.release)
    plain = parse_message(recording.unprivileged["plain"], recording.release)
    assert connection is not None and plain is not None
    tells = recording.version >= (6, 15)
    assert (connection.ulp is not None) == tells
    assert connection.ulp_visible == plain.ulp_visible == tells
    if tells:
        assert connection.ktls_tx


# made by hand


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(*attributes: bytes, family: int = socket.AF_INET, local: bytes = b"", state: int = 1) -> bytes:
    addresses = (local or bytes([192, 0, 2, 1])).ljust(16, b"\0") + bytes([192, 0, 2, 2]).ljust(16, b"\0")
    sockid = struct.pack("!HH", 8443, 50000) + addresses + struct.pack("=III", 0, 0x11, 0x22)
    head = struct.pack("=BBBB", family, state, 0, 0) + sockid + struct.pack("=IIIII", 0, 0, 0, 33, 777)
    return head + b"".join(attributes)


def ulp_message(*tls: bytes, name: bytes = b"tls\0", nested_flag: int = 0) -> bytes:
    return message(attribute(19 | nested_flag, attribute(1, name) + attribute(2 | nested_flag, b"".join(tls))))


def u16(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=H", number))


def parsed(data: bytes, release: str = OLD) -> TcpConnection:
    connection = parse_message(data, release)
    assert connection is not None
    return connection


def test_all_fields() -> None:
    info = bytes(120) + struct.pack("=QQ", 6288, 306) + bytes(100)
    data = message(
        attribute(2, info),
        attribute(15, bytes(4)),
        attribute(
            19,
            attribute(1, b"tls\0")
            + attribute(
                2,
                u16(1, 0x303)
                + u16(2, 51)
                + u16(3, 3)
                + u16(4, 2)
                + attribute(5, b"")
                + attribute(6, b"")
                + u16(7, 4096),
            ),
        ),
    )
    assert parsed(data) == TcpConnection(
        family="inet",
        state="ESTABLISHED",
        local_address="192.0.2.1",
        local_port=8443,
        remote_address="192.0.2.2",
        remote_port=50000,
        uid=33,
        inode=777,
        cookie=0x22_0000_0011,
        ulp=UlpInfo("tls", "TLSv1.2", "AES-128-GCM", "hw", "sw", True, True, 4096),
        bytes_acked=6288,
        bytes_received=306,
        ulp_visible=True,
    )


@pytest.mark.parametrize("flag", [0, 0x8000, 0xC000])
def test_nested_flag_is_not_part_of_the_type(flag: int) -> None:
    assert parsed(ulp_message(u16(3, 2), nested_flag=flag)).ktls_tx


def test_unknown_numbers_are_kept_visible() -> None:
    ulp = parsed(ulp_message(u16(1, 0x305), u16(2, 99), u16(3, 9), u16(99, 1))).ulp
    assert ulp is not None
    assert (ulp.version, ulp.cipher, ulp.tx) == ("0x0305", "cipher-99", "unknown-9")


def test_other_ulps_are_not_tls() -> None:
    connection = parsed(message(attribute(19, attribute(1, b"mptcp\0") + attribute(3, u16(3, 2)))))
    assert connection.ulp == UlpInfo("mptcp")
    assert not connection.ktls_tx and not connection.ktls_rx


@pytest.mark.parametrize(
    ("attributes", "release", "visible"),
    [
        ((), OLD, False),
        ((attribute(15, bytes(4)),), OLD, True),
        ((attribute(19, attribute(1, b"tls\0")),), OLD, True),
        ((), NEW, True),
        ((), "7.2.12+deb13-cloud", True),
        ((), "6.2.0", False),
        ((), "10.0", True),
        ((), "unknown", False),
        ((), "", False),
    ],
)
def test_what_silence_about_the_ulp_means(attributes: tuple[bytes, ...], release: str, visible: bool) -> None:
    assert parsed(message(*attributes), release).ulp_visible is visible


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (bytes(15) + b"\x01", "::1"),
        (bytes(10) + b"\xff\xff\x7f\x00\x00\x01", "127.0.0.1"),
        (bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
    ],
)
def test_addresses_of_ipv6_sockets(address: bytes, text: str) -> None:
    connection = parsed(message(family=socket.AF_INET6, local=address))
    assert (connection.family, connection.local_address) == ("inet6", text)


@pytest.mark.parametrize("data", [b"", bytes(71), message(family=socket.AF_UNIX)], ids=["empty", "short", "unix"])
def test_what_is_no_connection(data: bytes) -> None:
    assert parse_message(data) is None


@pytest.mark.parametrize("length", [0, 3, 200])
def test_broken_attribute_ends_the_list(length: int) -> None:
    broken = struct.pack("=HH", length, 19) + b"xxxx"
    assert parsed(message(attribute(15, bytes(4)), broken)).ulp is None


def test_short_tcp_info_has_no_bytes() -> None:
    connection = parsed(message(attribute(2, bytes(135))))
    assert (connection.bytes_acked, connection.bytes_received) == (None, None)


def test_unknown_state_is_a_number() -> None:
    assert parsed(message(state=13)).state == "13"


@given(st.binary(max_size=300))
@example(message() + b"\x04\x00\x13\x00")
def test_parse_never_raises(data: bytes) -> None:
    parse_message(data)
    parse_message(message() + data)
    parse_message(message(attribute(19, data), attribute(2, data)))
    parse_message(message(attribute(19, attribute(1, data) + attribute(2, data))))


@given(st.binary(max_size=300))
def test_split_never_raises_and_never_hangs(data: bytes) -> None:
    assert len(list(sock_diag.iter_messages(data))) <= len(data) // 16


# the conversation with the kernel


def netlink(kind: int, payload: bytes = b"", flags: int = 2, sequence: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


DONE = netlink(3, bytes(4))


class FakeKernel:
    """Stands for the netlink sockets that are opened, one script of datagrams each."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.buffers: list[int] = []
        self.sequences: list[int] = []
        self.requests: list[bytes] = []

    def __call__(self, *_: int) -> FakeKernel:
        self.script = self.scripts.pop(0)
        return self

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, _: float) -> None:
        pass

    def bind(self, _: Any) -> None:
        pass

    def setsockopt(self, _level: int, _name: int, value: int) -> None:
        self.buffers.append(value)

    def sendto(self, data: bytes, _: Any) -> None:
        self.sequences.append(struct.unpack_from("=I", data, 8)[0])
        self.requests.append(data[16:])

    def recvmsg(self, _: int) -> tuple[bytes, list[Any], int, tuple[int, int]]:
        item = self.script.pop(0)
        if isinstance(item, OSError):
            raise item
        data, flags, sender = item if isinstance(item, tuple) else (item, 0, 0)
        # Scripts are written for sequence 1; answer with the sequence that was asked.
        data = b"".join(
            netlink(kind, payload, message_flags, self.sequences[-1] if sequence == 1 else sequence)
            for kind, message_flags, sequence, payload in sock_diag.iter_messages(data)
        )
        return data, [], flags, (sender, 0)


def ask(monkeypatch: pytest.MonkeyPatch, *scripts: list[Any], **options: Any) -> tuple[list[int], FakeKernel]:
    """Run one listing against scripts for IPv4, with an empty answer for IPv6; return the local ports."""
    kernel = FakeKernel(*scripts, [DONE])
    monkeypatch.setattr(socket, "socket", kernel)
    found = tcp_connections(options.pop("ports", None), need_ulp=False, **options)
    return [connection.local_port for connection in found], kernel


ONE = netlink(20, message())


def test_answers_in_several_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, [ONE + ONE, ONE, DONE])[0] == [8443] * 3


def test_interrupted_dump_is_repeated_and_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = netlink(20, message(), flags=2 | 0x10)
    ports, kernel = ask(monkeypatch, [interrupted + ONE, DONE], [ONE, DONE])
    assert ports == [8443]
    assert kernel.sequences == [1, 2, 1]


def test_interruption_told_at_the_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, [ONE, netlink(3, bytes(4), flags=0x12)], [DONE])[0] == []


def test_full_buffer_is_answered_with_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ports, kernel = ask(monkeypatch, [ONE, OSError(errno.ENOBUFS, "full")], [ONE, DONE])
    assert ports == [8443]
    assert kernel.buffers[1] == 2 * kernel.buffers[0]


@pytest.mark.parametrize("bad", [(ONE, socket.MSG_TRUNC, 0), netlink(4)], ids=["truncated", "overrun"])
def test_lost_answers_are_asked_for_again(monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    assert ask(monkeypatch, [bad], [ONE, DONE])[0] == [8443]


def test_endless_interruption_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = [[netlink(3, bytes(4), flags=0x12)] for _ in range(5)]
    with pytest.raises(KtlsError, match="interrupted") as caught:
        ask(monkeypatch, *scripts)
    assert caught.value.code == "sock_diag_failed"


def test_strangers_and_old_answers_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = netlink(20, message(), sequence=99)
    assert ask(monkeypatch, [(ONE, 0, 4711), stale, ONE, DONE])[0] == [8443]


@pytest.mark.parametrize("kind", [2, 3], ids=["error", "done"])
def test_error_of_the_kernel_is_named(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    with pytest.raises(KtlsError, match="No such file") as caught:
        ask(monkeypatch, [netlink(kind, struct.pack("=i", -errno.ENOENT))])
    assert caught.value.code == "sock_diag_failed"


def test_unreadable_answer_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KtlsError) as caught:
        ask(monkeypatch, [netlink(20, b"short"), DONE])
    assert caught.value.code == "sock_diag_failed"


def test_request_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """struct inet_diag_req_v2: family, TCP, INFO bit, states; port in network order, no cookie."""
    kernel = ask(monkeypatch, [DONE], ports={8443}, states=("ESTABLISHED", "CLOSE_WAIT"))[1]
    family4, family6 = (request[0] for request in kernel.requests)
    assert (family4, family6) == (socket.AF_INET, socket.AF_INET6)
    assert kernel.requests[0][1:4] == bytes([6, 2, 0])
    assert struct.unpack_from("=I", kernel.requests[0], 4)[0] == 1 << 1 | 1 << 8
    assert kernel.requests[0][8:12] == b"\x20\xfb\x00\x00"
    assert kernel.requests[0][-12:] == bytes(4) + b"\xff" * 8
    assert len(kernel.requests[0]) == 56


def test_several_ports_are_filtered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    ports, kernel = ask(monkeypatch, [ONE, DONE], ports={1, 2})
    assert ports == []
    assert kernel.requests[0][8:10] == b"\0\0"


def test_no_ports_is_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert tcp_connections(set()) == []


def test_hidden_ulp_is_refused_unless_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "ulp_for_all", lambda release=None: False)
    monkeypatch.setattr(socket, "socket", FakeKernel([ONE, DONE], [DONE]))
    with pytest.raises(KtlsError, match="AmbientCapabilities=CAP_NET_ADMIN") as caught:
        tcp_connections()
    assert caught.value.code == "need_net_admin"
    monkeypatch.setattr(socket, "socket", FakeKernel([ONE, DONE], [DONE]))
    assert [connection.ulp_visible for connection in tcp_connections(need_ulp=False)] == [False]


# this machine's kernel


@pytest.fixture(params=["127.0.0.1", "::1", "dual"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a real connection: (server, client)."""
    address = request.param
    family = socket.AF_INET if address == "127.0.0.1" else socket.AF_INET6
    bound = "::" if address == "dual" else address
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=address == "dual") as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if address == "dual" else address, port)) as client:
            server = listener.accept()[0]
            with server:
                yield server, client


def test_live_connection(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    client.sendall(b"x" * 306)
    received = 0
    while received < 306:
        received += len(server.recv(400))
    server.sendall(b"y" * 6288)
    left = 6288
    while left:
        left -= len(client.recv(left))
    port = client.getpeername()[1]
    listed = tcp_connections({port}, need_ulp=False)
    found = find_connection(listed, client.getpeername()[:2], client.getsockname()[:2])
    assert found is not None
    assert (found.state, found.ulp, found.uid) == ("ESTABLISHED", None, os.getuid())
    assert found.inode == os.fstat(server.fileno()).st_ino
    assert (found.bytes_acked, found.bytes_received) == (6288, 306)
    assert [connection.local_port for connection in listed] == [port], "the other end has another local port"


def test_live_cookie_is_the_sockets_own(ends: tuple[socket.socket, socket.socket]) -> None:
    server, _ = ends
    so_cookie = 57  # asm-generic/socket.h
    cookie = int.from_bytes(server.getsockopt(socket.SOL_SOCKET, so_cookie, 8), sys.byteorder)
    port = server.getsockname()[1]
    assert [connection.cookie for connection in tcp_connections({port}, need_ulp=False)] == [cookie]


def test_live_states() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert tcp_connections({port}, need_ulp=False) == []
        listed = tcp_connections({port}, ("LISTEN",), need_ulp=False)
        assert [(connection.state, connection.local_port) for connection in listed] == [("LISTEN", port)]


def test_live_many_connections_come_complete() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        servers = [listener.accept()[0] for _ in clients]
        listed = tcp_connections({port}, need_ulp=False)
        peer = clients[42].getsockname()[1]
        one = tcp_connections({port}, need_ulp=False, remote_port=peer)
        for sock in [*clients, *servers]:
            sock.close()
    assert len(listed) == 100
    assert [connection.remote_port for connection in one] == [peer], "the kernel leaves the others out"
    assert len({connection.cookie for connection in listed}) == 100


def test_find_connection_distinguishes_both_ends() -> None:
    connection = parsed(message())
    assert find_connection([connection], ("192.0.2.1", 8443), ("192.0.2.2", 50000)) is connection
    assert find_connection([connection], ("192.0.2.2", 50000), ("192.0.2.1", 8443)) is None
    other = dataclasses.replace(connection, remote_port=1)
    assert find_connection([other], ("192.0.2.1", 8443), ("192.0.2.2", 50000)) is None
