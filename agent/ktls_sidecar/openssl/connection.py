# SPDX-License-Identifier: Apache-2.0
"""One server-side TLS connection whose receive side can never move into the kernel.

OpenSSL offers keys to the BIO of a direction. The write side here is a socket BIO, which passes them to the
kernel; the read side is a memory BIO, which has no such control and answers "no". So transmit-only kTLS needs no
callback and no timing, for TLS 1.2 and 1.3 and on every 3.x.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from . import constants as c
from .context import ServerContext
from .errors import OpenSSLError, TlsError, drain

WANT_READ: Final = -2
"""Feed more bytes from the socket and call again."""
WANT_WRITE: Final = -3
"""Wait until the socket is writable and call again with the same arguments."""

_READ_SIZE = 16384  # one record holds at most 2**14 bytes of plaintext (RFC 8446 section 5.1)


class TlsConnection:
    """An ``SSL`` over a non-blocking socket that the caller owns and closes after :meth:`free`.

    Methods return a byte count, 0 at the end, or :data:`WANT_READ` / :data:`WANT_WRITE`, and raise
    :class:`TlsError` when the connection is dead.
    """

    # The event loop is one thread, and a read's result is copied out at once: one buffer serves all.
    _read_buffer = ctypes.create_string_buffer(_READ_SIZE)
    _read_view = memoryview(_read_buffer).cast("B")

    def __init__(self, context: ServerContext, fd: int, want_ktls_tx: bool) -> None:
        """Prepare a handshake on ``fd``. With ``want_ktls_tx`` the caller has attached the ULP to the socket.

        BIO_new_socket(3) is not used: OpenSSL before 3.0.19, 3.3.6, 3.4.4, 3.5.5, 3.6.1 attaches the ULP in it (and in
        SSL_set_fd(3)) even for connections that must stay in userspace. A plain socket BIO does not.
        Raises :class:`OpenSSLError`. Pages: SSL_new, SSL_set0_rbio, BIO_s_mem, BIO_s_socket, BIO_set_fd.
        """
        self.lib = lib = context.lib
        self.context = context
        self._ssl = 0
        self._broken = False
        lib.ERR_clear_error()
        read_bio = lib.BIO_new(lib.BIO_s_mem())
        write_bio = lib.BIO_new(lib.BIO_s_socket())
        ssl = lib.SSL_new(context.pointer)
        if not (read_bio and write_bio and ssl):
            for bio in (read_bio, write_bio):
                if bio:
                    lib.BIO_free(bio)
            if ssl:
                lib.SSL_free(ssl)
            raise OpenSSLError("SSL_new", drain(lib), "out of memory")
        lib.BIO_int_ctrl(write_bio, c.BIO_C_SET_FD, c.BIO_NOCLOSE, fd)
        lib.SSL_set0_rbio(ssl, read_bio)
        lib.SSL_set0_wbio(ssl, write_bio)
        lib.SSL_set_accept_state(ssl)
        if want_ktls_tx:
            lib.SSL_set_options(ssl, c.SSL_OP_ENABLE_KTLS)
        self._ssl = ssl
        self._read_bio = read_bio

    def free(self) -> None:
        """Free the C object and both BIOs, not the socket. May be called again. SSL_free(3)."""
        ssl, self._ssl = self._ssl, 0
        if ssl:
            self.lib.SSL_free(ssl)

    def __del__(self) -> None:
        """Free what the owner forgot."""
        self.free()

    @property
    def alive(self) -> bool:
        """False after :meth:`free`; nothing else may be called then."""
        return bool(self._ssl)

    def disable_ktls(self) -> None:
        """Keep keys that are not installed yet out of the kernel.

        The option is read each time a key is installed. Page: SSL_clear_options.
        """
        self.lib.SSL_clear_options(self._pointer(), c.SSL_OP_ENABLE_KTLS)

    def feed(self, data: bytes | ctypes.Array[ctypes.c_char], length: int) -> None:
        """Hand ``length`` bytes that came from the socket to the read side. BIO_write(3) on BIO_s_mem(3)."""
        self._pointer()
        if not 0 <= length <= len(data):
            raise ValueError("length outside of data")
        if length and self.lib.BIO_write(self._read_bio, data, length) != length:
            raise self._dead("BIO_write", 0)

    def handshake(self) -> int:
        """Return 1 when done. SSL_do_handshake(3)."""
        ssl = self._start()
        result = self.lib.SSL_do_handshake(ssl)
        return 1 if result == 1 else self._failed("SSL_do_handshake", result)

    def read(self) -> bytes | int:
        """Return decrypted bytes (one record at most), 0 after the peer's close_notify, or WANT_*.

        :data:`WANT_READ` also follows a record without data while more input waits: see :meth:`input_pending`.
        SSL_read(3).
        """
        ssl = self._start()
        result = self.lib.SSL_read(ssl, self._read_buffer, _READ_SIZE)
        if result > 0:
            return bytes(self._read_view[:result])
        return self._failed("SSL_read", result)

    def input_pending(self) -> bool:
        """True while fed bytes wait to be taken. BIO_ctrl_pending(3)."""
        self._pointer()
        return bool(self.lib.BIO_ctrl(self._read_bio, c.BIO_CTRL_PENDING, 0, None) > 0)

    def write(self, buffer: ctypes.Array[ctypes.c_char], length: int) -> int:
        """Send ``length`` bytes, all or nothing: returns ``length`` or WANT_*.

        After WANT_* the SAME buffer, unchanged, must be given again: records of it may be half sent. Moving
        buffers are not allowed on purpose (SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER has sent stale bytes).
        SSL_write(3).
        """
        if not 0 < length <= len(buffer):
            raise ValueError("length outside of the buffer")
        ssl = self._start()
        result = self.lib.SSL_write(ssl, buffer, length)
        return int(result) if result > 0 else self._failed("SSL_write", result)

    feeds = True

    def pending(self) -> bool:
        return False

    def write_bytes(self, data: bytes) -> int:
        ssl = self._start()
        result = self.lib.SSL_write(ssl, data, len(data))
        return int(result) if result > 0 else self._failed("SSL_write", result)

    def sendfile(self, fd: int, offset: int, length: int) -> int:
        """Send bytes of a file from the kernel's page cache: a count (may be short), 0 at the end of the file, WANT_*.

        Only for connections with :attr:`ktls_send`. 3.0 reports a system error as SSL_R_UNINITIALIZED, so
        ``errno`` is kept for every failure. SSL_sendfile(3), since 3.0.
        """
        if offset < 0 or length <= 0:
            raise ValueError("offset and length must be positive")
        ssl = self._start()
        result = self.lib.SSL_sendfile(ssl, fd, offset, length, 0)
        return int(result) if result >= 0 else self._failed("SSL_sendfile", result, keep_errno=True)

    def shutdown(self) -> bool:
        """Send close_notify, once, if the connection is sound. SSL_shutdown(3).

        Returns False when the socket does not take it now: call again when it is writable.
        """
        if self._broken or not self._ssl:
            return True
        self.lib.ERR_clear_error()
        result = self.lib.SSL_shutdown(self._ssl)
        again = result < 0 and self.lib.SSL_get_error(self._ssl, result) == WANT_WRITE
        self.lib.ERR_clear_error()
        self._broken = not again
        return not again

    @property
    def ktls_send(self) -> bool:
        """True when the kernel encrypts what is written. BIO_get_ktls_send(3)."""
        bio = self.lib.SSL_get_wbio(self._pointer())
        return bool(self.lib.BIO_ctrl(bio, c.BIO_CTRL_GET_KTLS_SEND, 0, None) > 0)

    @property
    def ktls_receive(self) -> bool:
        """True when the kernel decrypts what is read: never here. BIO_get_ktls_recv(3)."""
        bio = self.lib.SSL_get_rbio(self._pointer())
        return bool(self.lib.BIO_ctrl(bio, c.BIO_CTRL_GET_KTLS_RECV, 0, None) > 0)

    @property
    def key_update_pending(self) -> bool:
        """True when the peer asked for new keys and the answer is not sent yet. SSL_get_key_update_type(3)."""
        return bool(self.lib.SSL_get_key_update_type(self._pointer()) != c.SSL_KEY_UPDATE_NONE)

    @property
    def version(self) -> str:
        """For example ``TLSv1.3``. SSL_get_version(3)."""
        return _text(self.lib.SSL_get_version(self._pointer()))

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the cipher suite. SSL_get_current_cipher(3), SSL_CIPHER_get_name(3)."""
        return _text(self.lib.SSL_CIPHER_get_name(self.lib.SSL_get_current_cipher(self._pointer())))

    @property
    def small_fragments(self) -> bool:
        """True when the client asked for a maximum fragment length (RFC 6066), which excludes kTLS.

        SSL_SESSION_get_max_fragment_length(3).
        """
        session = self.lib.SSL_get_session(self._pointer())
        return bool(session and self.lib.SSL_SESSION_get_max_fragment_length(session))

    def _pointer(self) -> int:
        if not self._ssl:
            raise ValueError("this connection is freed")
        return self._ssl

    def _start(self) -> int:
        if self._broken:
            raise ValueError("this connection is shut down or dead")
        ssl = self._pointer()
        # SSL_get_error(3) looks at the queue: what is in it must come from the call that follows.
        self.lib.ERR_clear_error()
        ctypes.set_errno(0)
        return ssl

    def _failed(self, operation: str, result: int, keep_errno: bool = False) -> int:
        number = ctypes.get_errno()
        error = self.lib.SSL_get_error(self._ssl, result)
        if error == c.SSL_ERROR_WANT_READ:
            return WANT_READ
        if error == c.SSL_ERROR_WANT_WRITE:
            return WANT_WRITE
        if error == c.SSL_ERROR_ZERO_RETURN:
            return 0
        raise self._dead(operation, number if error == c.SSL_ERROR_SYSCALL or keep_errno else 0)

    def _dead(self, operation: str, number: int) -> TlsError:
        self._broken = True
        return TlsError(operation, drain(self.lib), number)


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if value else "none"
