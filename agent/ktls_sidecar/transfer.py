# SPDX-License-Identifier: Apache-2.0
"""Send one response, a piece at a time, and never more than the file that was opened.

A turn is bounded, so that many connections share the event loop fairly: 1 MiB by ``SSL_sendfile`` when the kernel
encrypts (nothing is copied to userspace), else 256 KiB read into a buffer and encrypted from there.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import Union

from .counters import Tally
from .openssl import WANT_WRITE, TlsConnection
from .openssl.library import READ_SIZE
from .web.files import OpenFile

BUFFER_SIZE = 256 * 1024
SENDFILE_SIZE = 1024 * 1024
SMALL = 64 * 1024
"""Up to here a response is put together once and needs no buffer that stays."""

DONE, AGAIN, BLOCKED = 0, 1, 2
"""All is sent; call again when others had their turn; call again when the socket is writable."""

Piece = Union[bytes, "tuple[int, int]"]
"""Bytes to send, or (offset, length) of the file."""


class TransferError(Exception):
    """The response ends short of its Content-Length. ``kind`` is the error's name in the counters."""

    def __init__(self, kind: str, detail: str) -> None:
        """Keep both."""
        self.kind = kind
        super().__init__(detail)


class Buffer:
    """Memory that C and Python see at one address."""

    def __init__(self) -> None:
        """Take :data:`BUFFER_SIZE` bytes."""
        self.memory = ctypes.create_string_buffer(BUFFER_SIZE)
        self.view = memoryview(self.memory).cast("B")


class BufferPool:
    """Buffers for responses under way; an idle connection holds none."""

    def __init__(self, keep: int = 32) -> None:
        """Keep up to ``keep`` free buffers."""
        self._keep = keep
        self._free: list[Buffer] = []

    def take(self) -> Buffer:
        """Return a buffer with unknown content."""
        return self._free.pop() if self._free else Buffer()

    def give_back(self, buffer: Buffer) -> None:
        """Return a buffer that OpenSSL no longer looks at."""
        if len(self._free) < self._keep:
            self._free.append(buffer)


class SmallTransfer:
    """A response that is all in memory; with kTLS in one record, or with no part of a file.

    ``sent`` counts bytes handed to TLS; the row ``tally`` is kept up to date while sending.
    """

    __slots__ = ("_data", "_short", "_tally", "_tls", "sent")

    def __init__(self, tls: TlsConnection, tally: Tally, data: bytes, short: TransferError | None = None) -> None:
        """Send ``data``, then raise ``short``."""
        self._tls = tls
        self._tally = tally
        self._data = data
        self._short = short
        self.sent = 0

    def step(self) -> int:
        """Send. Raises TlsError (the connection is dead) and :class:`TransferError`."""
        result = self._tls.write_bytes(self._data)
        if result == WANT_WRITE:
            return BLOCKED
        if result <= 0:
            raise _wants_to_read(result)
        self.sent = result
        self._tally.bytes_total += result
        if self._short is not None:
            raise self._short
        return DONE

    def release(self) -> None:
        """Nothing is held."""


class KernelTransfer:
    """A response over kTLS: ``SSL_sendfile`` for the file, and what is around it straight into the socket.

    The kernel makes records of what is written to the socket (tls(7), Documentation/networking/tls.rst), and with
    MSG_MORE the head shares a record and a segment with the beginning of the file.
    """

    __slots__ = ("_file", "_left", "_owes_keys", "_pieces", "_sock", "_tally", "_tls", "sent")

    def __init__(
        self, tls: TlsConnection, sock: socket.socket, tally: Tally, pieces: Iterable[Piece], file: OpenFile
    ) -> None:
        """``tls`` must have :attr:`TlsConnection.ktls_send`: anything else would send in the clear."""
        if not tls.ktls_send:
            raise ValueError("this connection is not encrypted by the kernel")
        # The answer to a KeyUpdate goes before our next data (RFC 8446 section 4.6.3), and SSL_write sends it.
        self._owes_keys = tls.key_update_pending
        self._tls = tls
        self._sock = sock
        self._tally = tally
        self._pieces = deque(pieces)
        self._file = file
        self._left = sum(piece[1] for piece in self._pieces if not isinstance(piece, bytes))
        self.sent = 0

    def step(self) -> int:
        """Send a piece. Raises TlsError, OSError (the connection is dead) and :class:`TransferError`."""
        pieces, budget = self._pieces, SENDFILE_SIZE
        while pieces:
            if budget <= 0:
                return AGAIN
            piece = pieces.popleft()
            if isinstance(piece, bytes):
                if self._owes_keys:
                    if self._tls.write_bytes(piece) == WANT_WRITE:
                        pieces.appendleft(piece)
                        return BLOCKED
                    self._owes_keys = False
                    self._count(len(piece))
                    continue
                count = self._send(piece, more=bool(pieces))
                if count < len(piece):
                    pieces.appendleft(piece[count:])
                    return BLOCKED
                continue
            offset, length = piece
            result = self._sendfile(offset, min(length, budget))
            if result == WANT_WRITE:
                pieces.appendleft(piece)
                return BLOCKED
            self._left -= result
            budget -= result
            if result < length:
                pieces.appendleft((offset + result, length - result))
        return DONE

    def release(self) -> None:
        """Nothing is held."""

    def _send(self, data: bytes, more: bool) -> int:
        try:
            count = self._sock.send(data, socket.MSG_MORE if more else 0)
        except (BlockingIOError, InterruptedError):
            return 0
        self._count(count)
        return count

    def _sendfile(self, offset: int, length: int) -> int:
        file = self._file
        # The last bytes stay unsent, so that the client sees a short body and not a mixed one.
        if self._left <= SENDFILE_SIZE and file.changed():
            raise changed()
        result = self._tls.sendfile(file.fd, offset, length)
        if result == 0:
            raise changed()
        if result > 0:
            self._count(result)
        return result

    def _count(self, amount: int) -> None:
        self.sent += amount
        self._tally.bytes_total += amount


class CopyTransfer:
    """A response that userspace encrypts: read into a buffer, encrypted from there.

    OpenSSL writes each record of 16 KiB by itself. TCP_CORK (tcp(7)) makes whole segments of them, which costs the
    kernel less; it ends with the response.
    """

    __slots__ = (
        "_buffer",
        "_file",
        "_left",
        "_pending",
        "_pieces",
        "_pool",
        "_short",
        "_sock",
        "_tally",
        "_tls",
        "sent",
    )

    def __init__(
        self,
        tls: TlsConnection,
        sock: socket.socket,
        pool: BufferPool,
        tally: Tally,
        pieces: Iterable[Piece],
        file: OpenFile,
    ) -> None:
        """Prepare, and read the first bytes of the file. Call :meth:`release` in any case. Raises OSError."""
        self._tls = tls
        self._sock = sock
        self._pool = pool
        self._tally = tally
        self._pieces = deque(pieces)
        self._file = file
        self._left = sum(piece[1] for piece in self._pieces if not isinstance(piece, bytes))
        self._short: TransferError | None = None
        self._pending = 0
        self._buffer: Buffer | None = pool.take()
        self.sent = 0
        self._fill()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)

    def step(self) -> int:
        """Send a buffer. Raises TlsError (the connection is dead) and :class:`TransferError`."""
        if self._pending:
            assert self._buffer is not None
            result = self._tls.write(self._buffer.memory, self._pending)
            if result == WANT_WRITE:
                return BLOCKED
            if result <= 0:
                raise _wants_to_read(result)
            self._pending = 0
            self.sent += result
            self._tally.bytes_total += result
            if self._pieces and self._short is None:
                self._fill()
        if self._pending:
            return AGAIN
        if self._short is not None:
            raise self._short
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        return DONE

    def release(self) -> None:
        """Give the buffer back. After an unfinished write the connection must not be used again."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._pool.give_back(buffer)

    def _fill(self) -> None:
        assert self._buffer is not None
        view, pieces, file, end = self._buffer.view, self._pieces, self._file, 0
        last = end
        while pieces and end < BUFFER_SIZE:
            piece = pieces.popleft()
            if isinstance(piece, bytes):
                part = piece[: BUFFER_SIZE - end]
                view[end : end + len(part)] = part
                end += len(part)
                if len(part) < len(piece):
                    pieces.appendleft(piece[len(part) :])
                continue
            offset, length = piece
            last = end
            got = self._read(view[end : end + min(length, BUFFER_SIZE - end)], offset)
            if not got:
                break
            end += got
            self._left -= got
            if got < length:
                pieces.appendleft((offset + got, length - got))
        if not self._left and self._short is None and file.changed():
            # The last bytes stay unsent, so that the client sees a short body and not a mixed one.
            self._short, end = changed(), last
        self._pending = end

    def _read(self, view: memoryview, offset: int) -> int:
        try:
            got = os.preadv(self._file.fd, [view], offset)
        except OSError as error:
            self._short = TransferError("io_error", f"cannot read the file: {error.strerror}")
            return 0
        if got == 0:
            self._short = changed()
        return got


Transfer = Union[SmallTransfer, KernelTransfer, CopyTransfer]


def transfer(
    tls: TlsConnection,
    sock: socket.socket,
    pool: BufferPool,
    tally: Tally,
    pieces: list[Piece],
    file: OpenFile | None,
    kernel: bool,
) -> Transfer:
    """Choose how to send ``pieces``. ``kernel``: the kernel encrypts what this connection sends."""
    if file is None:
        return SmallTransfer(tls, tally, b"".join(piece for piece in pieces if isinstance(piece, bytes)))
    content = file.content
    if content is not None:
        whole = b"".join([piece if isinstance(piece, bytes) else content[piece[0] : sum(piece)] for piece in pieces])
        # The kernel takes any number of records at once, OpenSSL gives it one after the other.
        many = kernel and len(whole) > READ_SIZE
        return KernelTransfer(tls, sock, tally, [whole], file) if many else SmallTransfer(tls, tally, whole)
    if kernel:
        return KernelTransfer(tls, sock, tally, pieces, file)
    if len(pieces) == 2:
        head, body = pieces
        if isinstance(head, bytes) and isinstance(body, tuple) and body[1] <= SMALL:
            return _small(tls, tally, head, file, *body)
    return CopyTransfer(tls, sock, pool, tally, pieces, file)


def _small(tls: TlsConnection, tally: Tally, head: bytes, file: OpenFile, offset: int, length: int) -> SmallTransfer:
    try:
        body = os.pread(file.fd, length, offset)
    except OSError as error:
        return SmallTransfer(tls, tally, head, TransferError("io_error", f"cannot read the file: {error.strerror}"))
    if len(body) < length or file.changed():
        return SmallTransfer(tls, tally, head, changed())
    return SmallTransfer(tls, tally, head + body)


def changed() -> TransferError:
    """Return the error of a file that did not stay what it was."""
    return TransferError("file_changed", "the file was changed while it was sent; publish by rename, not in place")


def _wants_to_read(result: int) -> TransferError:
    return TransferError("ssl_error", f"SSL_write wants to read ({result})")
