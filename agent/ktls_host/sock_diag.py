# SPDX-License-Identifier: Apache-2.0
"""TCP connections as the kernel sees them, with what kernel TLS does on each (sock_diag(7)).

Sources: include/uapi/linux/inet_diag.h and tls.h for the numbers, net/ipv4/inet_diag.c and tcp_diag.c for
what is sent when, include/uapi/linux/tcp.h for ``struct tcp_info``. ULP information is sent along with
``INET_DIAG_INFO``.

Before Linux 6.15 the kernel sends it only to a requester with CAP_NET_ADMIN (``tcp_diag_get_aux``). To the
others a kTLS connection looks like any other, so :func:`tcp_connections` refuses to answer rather than call
it userspace.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .errors import KtlsError

NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_OVERRUN = 2, 3, 4

_INET_DIAG_INFO, _INET_DIAG_MARK, _INET_DIAG_ULP_INFO = 2, 15, 19
_ULP_NAME, _ULP_TLS = 1, 2
_TLS_VERSION, _TLS_CIPHER, _TLS_TXCONF, _TLS_RXCONF, _TLS_ZC_RO_TX, _TLS_RX_NO_PAD, _TLS_TX_MAX = range(1, 8)

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_NLATTR = struct.Struct("=HH")  # length, type
_SOCKID = struct.Struct("!HH16s16s")  # network order; interface and cookie follow in host order
_REQ_HEAD = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_MSG = struct.Struct("=BBBB48sIIIII")  # family, state, timer, retrans, sockid, expires, rq, wq, uid, inode
_ATTR_TYPE_MASK = 0x3FFF  # the top two bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER)
_BYTES_ACKED_OFFSET = 120  # tcpi_bytes_acked; tcpi_bytes_received follows

# include/net/tcp_states.h
_STATES = {
    "ESTABLISHED": 1,
    "SYN_SENT": 2,
    "SYN_RECV": 3,
    "FIN_WAIT1": 4,
    "FIN_WAIT2": 5,
    "TIME_WAIT": 6,
    "CLOSE": 7,
    "CLOSE_WAIT": 8,
    "LAST_ACK": 9,
    "LISTEN": 10,
    "CLOSING": 11,
    "NEW_SYN_RECV": 12,
}
_STATE_NAMES = {number: name for name, number in _STATES.items()}
_VERSIONS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
# include/uapi/linux/tls.h TLS_CIPHER_*
_CIPHERS = {
    51: "AES-128-GCM",
    52: "AES-256-GCM",
    53: "AES-128-CCM",
    54: "CHACHA20-POLY1305",
    55: "SM4-GCM",
    56: "SM4-CCM",
    57: "ARIA-128-GCM",
    58: "ARIA-256-GCM",
}
# include/uapi/linux/tls.h TLS_CONF_*; 4 (hw_record) left the kernel with the TOE drivers
_CONFIGURATIONS = {1: "none", 2: "sw", 3: "hw", 4: "hw_record"}

_ATTEMPTS = 5
_RECEIVE_BYTES = 256 * 1024
_TIMEOUT_S = 5.0
_ULP_FOR_ALL_SINCE = (6, 15)


@dataclass(frozen=True)
class UlpInfo:
    """The upper layer protocol on a TCP socket. ``version`` and ``cipher`` are ``None`` before keys are set.

    ``tx`` and ``rx`` are ``none``, ``sw`` or ``hw``: who encrypts records that leave and decrypts those that
    come. ``tx_max_payload`` is in bytes, ``None`` where the kernel does not say (before about 6.19).
    """

    name: str
    version: str | None = None
    cipher: str | None = None
    tx: str = "none"
    rx: str = "none"
    zc_ro_tx: bool = False
    rx_no_pad: bool = False
    tx_max_payload: int | None = None


@dataclass(frozen=True)
class TcpConnection:
    """One TCP socket. IPv4-mapped IPv6 addresses are written as IPv4, because that is what the peer sees.

    ``bytes_acked`` and ``bytes_received`` count TCP payload since the start (RFC 4898), TLS overhead
    included; ``None`` where the kernel sent no ``tcp_info``. ``ulp_visible`` is false when a missing ``ulp``
    proves nothing, because the kernel hid it from us.
    """

    family: str
    state: str
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    uid: int
    inode: int
    cookie: int
    ulp: UlpInfo | None = None
    bytes_acked: int | None = None
    bytes_received: int | None = None
    ulp_visible: bool = True

    @property
    def ktls_tx(self) -> bool:
        """True when the kernel or the NIC encrypts what this socket sends."""
        return self.ulp is not None and self.ulp.name == "tls" and self.ulp.tx != "none"

    @property
    def ktls_rx(self) -> bool:
        """True when the kernel or the NIC decrypts what this socket receives."""
        return self.ulp is not None and self.ulp.name == "tls" and self.ulp.rx != "none"


def tcp_connections(
    ports: set[int] | None = None,
    states: Iterable[str] = ("ESTABLISHED",),
    *,
    need_ulp: bool = True,
    remote_port: int = 0,
) -> list[TcpConnection]:
    """Return the TCP connections of this network namespace whose local port is in ``ports`` (``None``: all).

    ``remote_port``: only those whose peer has this port; the kernel leaves the others out, so it costs little.

    Raises :class:`KtlsError`: ``need_net_admin`` when ULP information is needed and the kernel hides it,
    ``sock_diag_failed`` when the kernel does not answer.
    """
    found: list[TcpConnection] = []
    if ports is not None and not ports:
        return found
    # The kernel filters by one source port; more than one is filtered here.
    only = next(iter(ports)) if ports is not None and len(ports) == 1 else 0
    mask = sum(1 << _STATES[state] for state in set(states))
    for family in (socket.AF_INET, socket.AF_INET6):
        for payload in _dump(request(family, only, mask, remote_port)):
            connection = parse_message(payload)
            if connection is None:
                raise failed("an answer of the kernel cannot be read")
            if ports is None or connection.local_port in ports:
                found.append(connection)
    if need_ulp and not all(connection.ulp_visible for connection in found):
        message = (
            "this process cannot see kernel TLS on connections: before Linux 6.15 that takes CAP_NET_ADMIN; "
            "run as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN"
        )
        raise KtlsError("need_net_admin", message)
    return found


def find_connection(
    connections: Iterable[TcpConnection], local: tuple[str, int], remote: tuple[str, int]
) -> TcpConnection | None:
    """Return the connection between two (address, port) pairs, or ``None``.

    To find the server's socket of a client's connection, pass the client's peer name as ``local`` and its own
    name as ``remote``.
    """
    for connection in connections:
        here = (connection.local_address, connection.local_port)
        there = (connection.remote_address, connection.remote_port)
        if (here, there) == (local[:2], remote[:2]):
            return connection
    return None


def parse_message(payload: bytes, release: str | None = None) -> TcpConnection | None:
    """Read one ``struct inet_diag_msg`` with its attributes; ``None`` when it is not one.

    ``release`` is the kernel that sent it (default: this one); it decides ``ulp_visible``. Never raises on
    bytes.
    """
    if len(payload) < _MSG.size:
        return None
    family, state, _, _, sockid, _, _, _, uid, inode = _MSG.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    local_port, remote_port, source, destination = _SOCKID.unpack_from(sockid)
    _, cookie_low, cookie_high = struct.unpack_from("=III", sockid, _SOCKID.size)
    attributes = dict(_attributes(payload[_MSG.size :]))
    ulp = read_ulp(attributes.get(_INET_DIAG_ULP_INFO))
    info = attributes.get(_INET_DIAG_INFO, b"")
    acked: int | None = None
    received: int | None = None
    if len(info) >= _BYTES_ACKED_OFFSET + 16:
        acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED_OFFSET)
    return TcpConnection(
        family="inet" if family == socket.AF_INET else "inet6",
        state=_STATE_NAMES.get(state, str(state)),
        local_address=_address(family, source),
        local_port=local_port,
        remote_address=_address(family, destination),
        remote_port=remote_port,
        uid=uid,
        inode=inode,
        cookie=cookie_high << 32 | cookie_low,
        ulp=ulp,
        bytes_acked=acked,
        bytes_received=received,
        # The kernel adds the mark exactly when it takes us for an administrator of the network.
        ulp_visible=ulp is not None or _INET_DIAG_MARK in attributes or ulp_for_all(release),
    )


def iter_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Split a datagram into netlink messages: (type, flags, sequence, payload). Stops at the first broken one."""
    offset = 0
    while offset + _NLMSGHDR.size <= len(data):
        length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, offset)
        if length < _NLMSGHDR.size or offset + length > len(data):
            return
        yield kind, flags, sequence, data[offset + _NLMSGHDR.size : offset + length]
        offset += _aligned(length)


class _TryAgainError(Exception):
    """The dump is incomplete through no fault of anybody; a new one may succeed."""


def _dump(request: bytes) -> list[bytes]:
    """Send a dump request until an answer is complete; return the payloads."""
    for attempt in range(_ATTEMPTS):
        payloads = _dump_once(request, sequence=attempt + 1, receive_bytes=_RECEIVE_BYTES << attempt)
        if payloads is not None:
            return payloads
    raise failed(f"{_ATTEMPTS} dumps in a row were interrupted")


def _dump_once(request: bytes, sequence: int, receive_bytes: int) -> list[bytes] | None:
    """Return the payloads of one dump, or ``None`` when it has holes."""
    length = _NLMSGHDR.size + len(request)
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.bind((0, 0))
            sock.sendto(_NLMSGHDR.pack(length, _SOCK_DIAG_BY_FAMILY, flags, sequence, 0) + request, (0, 0))
            return _collect(sock, sequence)
    except _TryAgainError:
        return None
    except OSError as error:
        # ENOBUFS: answers were lost because the receive buffer was full (netlink(7)).
        if error.errno == errno.ENOBUFS:
            return None
        raise failed(error.strerror or str(error)) from error


def _receive(sock: socket.socket) -> bytes:
    """Return the next datagram from the kernel."""
    while True:
        data, _, flags, sender = sock.recvmsg(_RECEIVE_BYTES)
        if flags & socket.MSG_TRUNC:
            raise _TryAgainError
        if sender[0] == 0:
            return data


def _collect(sock: socket.socket, sequence: int) -> list[bytes]:
    payloads: list[bytes] = []
    interrupted = False
    while True:
        for kind, flags, found_sequence, payload in iter_messages(_receive(sock)):
            if found_sequence != sequence:
                continue
            interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
            if kind == _SOCK_DIAG_BY_FAMILY:
                payloads.append(payload)
            elif kind == _NLMSG_OVERRUN:
                raise _TryAgainError
            elif kind in (_NLMSG_ERROR, _NLMSG_DONE):
                _raise_for(kind, payload)
                if interrupted:
                    raise _TryAgainError
                return payloads


def _raise_for(kind: int, payload: bytes) -> None:
    """Raise for a negative error number: that of an error message, or of a dump that ended early."""
    number = struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
    if number < 0:
        raise OSError(-number, os.strerror(-number))
    if kind == _NLMSG_ERROR:
        raise OSError(errno.EPROTO, "an acknowledgement where connections were expected")


def request(family: int, source_port: int, states: int, remote_port: int = 0) -> bytes:
    """Return a ``struct inet_diag_req_v2``; cookie INET_DIAG_NOCOOKIE, any interface and address, port 0 is any."""
    head = _REQ_HEAD.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, states)
    sockid = _SOCKID.pack(source_port, remote_port, bytes(16), bytes(16))
    return head + sockid + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _NLATTR.size <= len(data):
        length, kind = _NLATTR.unpack_from(data, offset)
        if length < _NLATTR.size or offset + length > len(data):
            return
        yield kind & _ATTR_TYPE_MASK, data[offset + _NLATTR.size : offset + length]
        offset += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def read_ulp(data: bytes | None) -> UlpInfo | None:
    """Read the value of INET_DIAG_ULP_INFO. Never raises on bytes."""
    if data is None:
        return None
    outer = dict(_attributes(data))
    name = outer.get(_ULP_NAME, b"").split(b"\0", 1)[0].decode("ascii", "replace")
    tls = dict(_attributes(outer.get(_ULP_TLS, b"")))
    version = _number(tls.get(_TLS_VERSION))
    cipher = _number(tls.get(_TLS_CIPHER))
    return UlpInfo(
        name=name,
        version=_VERSIONS.get(version, f"0x{version:04x}") if version else None,
        cipher=_CIPHERS.get(cipher, f"cipher-{cipher}") if cipher else None,
        tx=_configuration(tls.get(_TLS_TXCONF)),
        rx=_configuration(tls.get(_TLS_RXCONF)),
        zc_ro_tx=_TLS_ZC_RO_TX in tls,
        rx_no_pad=_TLS_RX_NO_PAD in tls,
        tx_max_payload=_number(tls.get(_TLS_TX_MAX)),
    )


def _configuration(data: bytes | None) -> str:
    number = _number(data)
    return _CONFIGURATIONS.get(number, f"unknown-{number}") if number else "none"


def _number(data: bytes | None) -> int | None:
    if data is None or len(data) not in (1, 2, 4):
        return None
    return int(struct.unpack({1: "=B", 2: "=H", 4: "=I"}[len(data)], data)[0])


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if raw[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def ulp_for_all(release: str | None = None) -> bool:
    """Return whether the kernel ``release`` (default: this one) tells everybody of ULPs."""
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", os.uname().release if release is None else release, re.ASCII)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _ULP_FOR_ALL_SINCE


def failed(why: str) -> KtlsError:
    """Return the error for a kernel that does not answer."""
    message = f"cannot list TCP connections through sock_diag ({why}); modules inet_diag and tcp_diag are needed"
    return KtlsError("sock_diag_failed", message)
