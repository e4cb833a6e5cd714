# SPDX-License-Identifier: Apache-2.0
"""Send one response, a piece each time the socket is writable.

A piece is bounded, so that many connections share the event loop fairly: 1 MiB by ``SSL_sendfile`` when the kernel
encrypts (nothing is copied to userspace), else 256 KiB read into a buffer and encrypted from there.
"""

from __future__ import annotations

import ctypes
import os

from .counters import Tally
from .openssl import WANT_WRITE, TlsConnection
from .web.files import OpenFile

BUFFER_SIZE = 256 * 1024
SENDFILE_SIZE = 1024 * 1024


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


class Transfer:
    """The bytes ``head``, then ``text`` or ``length`` bytes of ``file`` from ``offset``.

    ``sent`` counts bytes handed to TLS; the row ``tally`` is kept up to date while sending.
    """

    def __init__(
        self,
        tls: TlsConnection,
        pool: BufferPool,
        tally: Tally,
        head: bytes,
        file: OpenFile | None = None,
        offset: int = 0,
        length: int = 0,
        use_sendfile: bool = False,
    ) -> None:
        """Prepare; ``head`` with any text must fit a buffer. ``use_sendfile`` only with kTLS TX."""
        self._tls = tls
        self._pool = pool
        self._tally = tally
        self._file = file
        self._offset = offset
        self._left = length if file is not None else 0
        self._use_sendfile = use_sendfile
        self._short: TransferError | None = None
        self._buffer: Buffer | None = pool.take()
        self._buffer.view[: len(head)] = head
        self._pending = len(head)
        if not use_sendfile:
            self._fill()
        self.sent = 0

    def step(self) -> bool:
        """Send a piece. Returns True when all is sent; False: call again when the socket is writable.

        Raises TlsError (the connection is dead) and :class:`TransferError`. Call :meth:`release` in any case.
        """
        if self._buffer is not None:
            result = self._tls.write(self._buffer.memory, self._pending)
            if result == WANT_WRITE:
                return False
            if result <= 0:
                raise TransferError("ssl_error", f"SSL_write wants to read ({result})")
            self._count(result)
            self._pending = 0
            if self._use_sendfile or not self._left:
                self.release()
            else:
                self._fill()
                # Empty after a cut: nothing more to send, the reason is raised below.
                if self._pending:
                    return False
            if self._short is not None:
                raise self._short
        return self._sendfile() if self._left else True

    def release(self) -> None:
        """Give the buffer back. After an unfinished write the connection must not be used again."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._pool.give_back(buffer)

    def _count(self, amount: int) -> None:
        self.sent += amount
        self._tally.bytes_total += amount

    def _sendfile(self) -> bool:
        file = self._file
        assert file is not None  # _left is 0 without a file
        if self._left <= SENDFILE_SIZE and file.changed():
            raise _changed()
        result = self._tls.sendfile(file.fd, self._offset, min(self._left, SENDFILE_SIZE))
        if result == 0:
            raise _changed()
        if result > 0:
            self._count(result)
            self._offset += result
            self._left -= result
        return not self._left

    def _fill(self) -> None:
        buffer, file = self._buffer, self._file
        assert buffer is not None
        if file is None:
            return
        start = end = self._pending
        offset, left = self._offset, self._left
        while left and end < BUFFER_SIZE:
            try:
                got = os.preadv(file.fd, [buffer.view[end : end + min(left, BUFFER_SIZE - end)]], offset)
            except OSError as error:
                self._short = TransferError("io_error", f"cannot read the file: {error.strerror}")
                break
            if got == 0:
                self._short = _changed()
                break
            end, offset, left = end + got, offset + got, left - got
        if not left and self._short is None and file.changed():
            # The last piece stays unsent, so that the client sees a short body and not a mixed one.
            self._short, end = _changed(), start
        self._pending, self._offset = end, offset
        self._left = 0 if self._short is not None else left


def _changed() -> TransferError:
    return TransferError("file_changed", "the file was changed while it was sent; publish by rename, not in place")
