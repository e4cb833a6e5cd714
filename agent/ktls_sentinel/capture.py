# SPDX-License-Identifier: Apache-2.0
"""Raw frames of one interface, through a packet socket with a ring (packet(7), Documentation/networking/packet_mmap).

The ring is the kernel's memory and does not depend on net.core.rmem_max: a burst that Python is too slow for waits
there. CAP_NET_RAW is needed to open it. It cannot send: nothing here ever writes to the socket.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import select
import socket
import struct
from collections.abc import Callable, Sequence

from ktls_host.errors import KtlsError

from . import bpf

BLOCK_BYTES = 1 << 20  # the longest frame that is kept whole is a little shorter
BLOCKS = 16
_RETIRE_MS = 50  # a block that is not full is handed over after this time

_SO_ATTACH_FILTER = 26
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
_TPACKET_V3 = 2
_REQUEST = struct.Struct("@7I")  # struct tpacket_req3
_STATISTICS = struct.Struct("@3I")  # struct tpacket_stats_v3
_BLOCK = struct.Struct("@3I")  # block_status, num_pkts, offset_to_first_pkt of struct tpacket_hdr_v1
_BLOCK_AT = 8
_PACKET = struct.Struct("@6I2H")  # struct tpacket3_hdr, up to tp_net
_USER, _KERNEL = 1, 0  # TP_STATUS_USER, TP_STATUS_KERNEL
_STATUS = struct.Struct("@I")
_ETH_P_ALL = 3
_ARPHRD_ETHER = 1
_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40

Frame = Callable[[memoryview, float], None]


def interface_problem(name: str) -> str | None:
    """Return why frames of the wire cannot be had at interface ``name`` now; None if they can."""
    request = struct.pack("16s24x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            flags = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
            kind = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFHWADDR, request), 16)[0]
        except OSError as error:
            return f"interface {name}: {error.strerror}"
    if flags & _IFF_LOOPBACK:
        return f"interface {name} is the loopback interface: nothing on it is on a wire"
    if kind != _ARPHRD_ETHER:
        return f"interface {name} is no Ethernet interface"
    if not flags & _IFF_UP:
        return f"interface {name} is down"
    if not flags & _IFF_RUNNING:
        return f"interface {name} has no carrier"
    return None


class Capture:
    """An open packet socket with its ring. For one thread."""

    def __init__(self, interface: str, ports: Sequence[int]) -> None:
        """Open it. Raises :class:`KtlsError`: no_capture."""
        problem = interface_problem(interface)
        if problem is not None:
            raise KtlsError("no_capture", problem)
        self.interface = interface
        try:
            # Without a protocol it takes in nothing, until the filter is there and bind(2) gives one.
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            message = f"no packet socket ({error.strerror}); the service needs CAP_NET_RAW"
            raise KtlsError("no_capture", message) from error
        try:
            self._ring = self._set_up(ports)
            self.index = socket.if_nametoindex(interface)
        except OSError as error:
            self._sock.close()
            raise KtlsError("no_capture", f"interface {interface}: {error.strerror}") from error
        self._view = memoryview(self._ring)
        self._next = 0
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN | select.POLLERR)
        self.dropped = 0
        """Frames that the ring had no room for."""

    def _set_up(self, ports: Sequence[int]) -> mmap.mmap:
        code = ctypes.create_string_buffer(bpf.program(ports))
        count = (ctypes.sizeof(code) - 1) // 8
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(code)))
        self._sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        # What this machine sends is no matter of the wire (since Linux 4.20).
        self._sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        size = BLOCK_BYTES * BLOCKS
        frames = _REQUEST.pack(BLOCK_BYTES, BLOCKS, 2048, size // 2048, _RETIRE_MS, 0, 0)
        self._sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, frames)
        ring = mmap.mmap(self._sock.fileno(), size)
        try:
            self._sock.bind((self.interface, _ETH_P_ALL))
        except OSError:
            ring.close()
            raise
        return ring

    def step(self, timeout_s: float, frame: Frame) -> int:
        """Wait for frames, at most so long, and call ``frame`` with each and its wall clock time in seconds.

        Returns how many there were. What ``frame`` is given is gone when it returns. Raises :class:`KtlsError`:
        no_capture, when the interface went away or down.
        """
        count = self._take(frame)
        if count:
            return count
        for _, events in self._poll.poll(timeout_s * 1000):
            if events & select.POLLERR:
                error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                problem = interface_problem(self.interface)
                if problem is not None or error:
                    raise KtlsError("no_capture", problem or f"interface {self.interface} went away for a moment")
        return self._take(frame)

    def check(self) -> None:
        """Raise :class:`KtlsError` if the interface is gone, another one of that name, or down."""
        problem = interface_problem(self.interface)
        if problem is None and socket.if_nametoindex(self.interface) != self.index:
            problem = f"interface {self.interface} is another one now"
        if problem is not None:
            raise KtlsError("no_capture", problem)
        self.dropped += _STATISTICS.unpack(self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))[1]

    def close(self) -> None:
        """Close socket and ring."""
        self._view.release()
        self._ring.close()
        self._sock.close()

    def _take(self, frame: Frame) -> int:
        """Look at what is there, once round the ring at most: under load, too, the caller has other things to do."""
        count = 0
        for _ in range(BLOCKS):
            if not self._ready():
                break
            count += self._block(frame)
        return count

    def _ready(self) -> bool:
        status: int = _STATUS.unpack_from(self._ring, self._next * BLOCK_BYTES + _BLOCK_AT)[0]
        return bool(status & _USER)

    def _block(self, frame: Frame) -> int:
        base = self._next * BLOCK_BYTES
        _, count, offset = _BLOCK.unpack_from(self._ring, base + _BLOCK_AT)
        at = base + offset
        for _ in range(count):
            following, seconds, nanoseconds, captured, _, _, mac, _ = _PACKET.unpack_from(self._ring, at)
            with self._view[at + mac : at + mac + captured] as whole:
                frame(whole, seconds + nanoseconds / 1e9)
            at += following
        _STATUS.pack_into(self._ring, base + _BLOCK_AT, _KERNEL)
        self._next = (self._next + 1) % BLOCKS
        return int(count)
