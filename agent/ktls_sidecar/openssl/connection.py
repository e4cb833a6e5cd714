# SPDX-License-Identifier: Apache-2.0
"""One server-side TLS connection, with kernel TLS in the directions that were asked for.

OpenSSL offers keys to the BIO of a direction. A socket BIO passes them to the kernel; a memory BIO has no such
control and answers "no". So transmit-only kTLS is a socket BIO for writing and a memory BIO for reading, which needs
no callback and no timing, for TLS 1.2 and 1.3 and on every 3.x. With both directions one socket BIO serves both.

Every call into OpenSSL that may fail starts with an empty error queue, because SSL_get_error(3) takes what lies in
it for the reason of the failure. The binding leaves it empty, but it is one queue for the thread and the libcrypto:
where the interpreter's ``ssl`` and ``hashlib`` use the same libcrypto.so.3, as on Debian, a failure there can leave
entries here. So each call looks (ERR_peek_error(3), a fraction of a full ERR_clear_error(3)) instead of trusting.
``errno`` needs no such care but for SSL_sendfile: OpenSSL sets it to 0 when an SSL_read, SSL_write or handshake
starts (clear_sys_error() in ssl/s3_lib.c and ssl/statem/statem.c, 3.0 to 3.5).
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from . import constants as c
from .context import ServerContext
from .errors import OpenSSLError, TlsError, drain
from .handle import Handle
from .library import READ_SIZE

WANT_READ: Final = -2
"""Feed more bytes (or, without :attr:`TlsConnection.feeds`, wait until the socket is readable) and call again."""
WANT_WRITE: Final = -3
"""Wait until the socket is writable and call again with the same arguments."""

_MAX_INT = 2**31 - 1
_MAX_OFFSET = 2**63 - 1
_sizeof = ctypes.sizeof


class TlsConnection(Handle):
    """An ``SSL`` over a non-blocking socket that the caller owns and closes after :meth:`free`.

    Methods return a byte count, 0 at the end, or :data:`WANT_READ` / :data:`WANT_WRITE`, and raise
    :class:`TlsError` when the connection is dead. Misuse raises TypeError or ValueError and changes nothing: wrong
    types and lengths, any use after :meth:`free` or after an error, data before the handshake is done.
    An object stays in the thread that made it. Behaviour is the same from 3.0 to 3.6 where nothing else is said.
    """

    __slots__ = (
        "_feed",
        "_get_error",
        "_others",
        "_peek_error",
        "_read",
        "_read_buffer",
        "_select_error",
        "_unsent_length",
        "_write",
        "context",
    )

    def __init__(self, context: ServerContext, fd: int, want_ktls_tx: bool = False, want_ktls_rx: bool = False) -> None:
        """Prepare a handshake on ``fd``. With ``want_ktls_tx`` the caller has attached the ULP to the socket.

        ``want_ktls_tx`` alone keeps receiving in userspace; with ``want_ktls_rx`` OpenSSL moves what it can of both
        directions: 3.0 and 3.1 only sending with TLS 1.3, all others both. Receiving alone is not offered.
        :attr:`ktls_send` and :attr:`ktls_receive` tell after the handshake.

        BIO_new_socket(3) is not used: OpenSSL before 3.0.19, 3.3.6, 3.4.4, 3.5.5, 3.6.1 attaches the ULP in it (and in
        SSL_set_fd(3)) even for connections that must stay in userspace. A plain socket BIO does not.
        Raises :class:`OpenSSLError`, ValueError. Pages: SSL_new, SSL_set0_rbio, BIO_s_mem, BIO_s_socket, BIO_set_fd.
        """
        if not isinstance(context, ServerContext):
            raise TypeError("context must be a ServerContext")
        _check_int("fd", fd, 0, _MAX_INT)
        if want_ktls_rx and not want_ktls_tx:
            raise ValueError("receiving with kTLS goes with sending: want_ktls_rx without want_ktls_tx is no mode")
        if self._ssl or self._busy:
            raise ValueError("this connection is in use")
        lib, pointer = context.lib, context.pointer
        self.lib = lib
        self.context = context
        self._others: tuple[ServerContext, ...] = ()
        self._select_error: BaseException | None = None
        self._broken = self._free_later = False
        self._unsent = None
        self._unsent_length = 0
        self.feeds = not want_ktls_rx
        # What is called for each request, without a search through lib.
        self._read, self._write, self._feed = lib.SSL_read, lib.SSL_write, lib.BIO_write
        self._get_error, self._peek_error = lib.SSL_get_error, lib.ERR_peek_error
        self._read_buffer: Any = lib.read_buffer()
        lib.ERR_clear_error()
        write_bio = lib.BIO_new(lib.BIO_s_socket())
        if self.feeds:
            read_bio = lib.BIO_new(lib.BIO_s_mem())
        else:
            # SSL_set0_rbio and SSL_set0_wbio take a reference each.
            read_bio = write_bio if write_bio and lib.BIO_up_ref(write_bio) == 1 else None
        ssl = lib.SSL_new(pointer)
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

    def disable_ktls(self) -> None:
        """Keep keys that are not installed yet out of the kernel.

        The option is read each time a key is installed. Page: SSL_clear_options.
        """
        self.lib.SSL_clear_options(self._pointer(), c.SSL_OP_ENABLE_KTLS)

    def at_most_tls12(self) -> None:
        """Negotiate no TLS 1.3. Only before the first :meth:`handshake` that has a whole ClientHello.

        The client is not told that a downgrade happened (RFC 8446 section 4.1.3), for there was none: this connection
        does not support TLS 1.3. Page: SSL_set_options.
        """
        self.lib.SSL_set_options(self._pointer(), c.SSL_OP_NO_TLSv1_3)

    # --- the handshake --------------------------------------------------------------------------------------

    def handshake(self) -> int:
        """Return 1 when done, 0 when the peer has said goodbye, or WANT_*. SSL_do_handshake(3).

        Afterwards it sends what :meth:`key_update` has ordered. Raises :class:`TlsError`, and what a ``select`` of
        :meth:`ServerContext.choose_by_name` raised; both end the connection.
        """
        if self._broken:
            raise self._refusal()
        ssl, lib = self._pointer(), self.lib
        if self._unsent is not None:
            raise ValueError("an earlier write is unfinished: give the same data and length again")
        if self._peek_error():
            lib.ERR_clear_error()
        # Callbacks run Python code in there, which must not meet this object's C side.
        self._busy, self._ssl, self._io = ssl, 0, 0
        lib.handshaking[ssl] = self
        try:
            result = lib.SSL_do_handshake(ssl)
            error = 0 if result == 1 else lib.SSL_get_error(ssl, result)
        except BaseException:  # a signal handler's: what came of the call is not known
            self._broken = True
            raise
        finally:
            del lib.handshaking[ssl]
            self._busy, self._ssl = 0, ssl
            if self._free_later:
                self.free()
        if not self._ssl:
            raise self._refusal()
        if result == 1:
            self._io = ssl
            return 1
        failure, self._select_error = self._select_error, None
        if failure is not None:
            self._dead("SSL_do_handshake", 0)
            raise failure
        return self._outcome("SSL_do_handshake", error)

    def switched_to(self, context: ServerContext) -> None:
        """Keep ``context`` as long as this connection: its callbacks may be called. For the server name callback."""
        if context is not self.context and context not in self._others:
            self._others += (context,)

    def select_failed(self, error: BaseException) -> None:
        """Keep what a ``select`` raised until C has returned. For the server name callback."""
        self._select_error = error

    # --- receiving ------------------------------------------------------------------------------------------

    def feed(self, data: bytes | ctypes.Array[Any], length: int) -> None:
        """Hand ``length`` bytes that came from the socket to the read side. BIO_write(3) on BIO_s_mem(3).

        ValueError when OpenSSL reads from the socket itself (:attr:`feeds` is False); :class:`TlsError` when memory
        is short.
        """
        if type(data) is bytes:
            available = len(data)
        elif isinstance(data, ctypes.Array):
            available = _sizeof(data)
        else:
            raise TypeError("data must be bytes or a ctypes array")
        if type(length) is not int:
            raise TypeError("length must be an int")
        if not 0 <= length <= available or length > _MAX_INT:
            raise ValueError("length outside of data")
        if not self._ssl:
            raise self._refusal()
        if not self.feeds:
            raise ValueError("this connection reads from its socket and cannot be fed")
        if length and self._feed(self._read_bio, data, length) != length:
            raise self._dead("BIO_write", 0)

    def read(self) -> bytes | int:
        """Return decrypted bytes (one record at most), 0 after the peer's close_notify, or WANT_*.

        :data:`WANT_READ` also follows a record without data while more input waits: see :meth:`input_pending`.
        Without :attr:`feeds` an end of the stream without close_notify raises :class:`TlsError` with ``peer_left``.
        Where the kernel decrypts, a KeyUpdate of the peer needs Linux 6.14 and OpenSSL 3.2; before, it raises
        :class:`TlsError` "no suitable record layer". SSL_read(3).
        """
        ssl = self._io
        if not ssl:
            raise self._refusal()
        if self._peek_error():
            self.lib.ERR_clear_error()
        result = self._read(ssl, self._read_buffer, READ_SIZE)
        if result > 0:
            data: bytes = self._read_buffer[:result]
            return data
        return self._outcome("SSL_read", self._get_error(ssl, result))

    def input_pending(self) -> bool:
        """True while input waits that needs no look at the socket: then :meth:`read` again after WANT_READ.

        With :attr:`feeds` these are fed bytes that are not taken, BIO_ctrl_pending(3); else :meth:`pending`.
        """
        if not self._ssl:
            raise self._refusal()
        if self.feeds:
            return bool(self.lib.BIO_ctrl_pending(self._read_bio))
        return bool(self.lib.SSL_has_pending(self._ssl))

    def pending(self) -> bool:
        """True while OpenSSL holds received bytes, of a whole record or of a part. SSL_has_pending(3).

        Fed bytes that OpenSSL has not taken yet do not count.
        """
        return bool(self.lib.SSL_has_pending(self._pointer()))

    # --- sending --------------------------------------------------------------------------------------------

    def write(self, buffer: ctypes.Array[Any], length: int) -> int:
        """Send ``length`` bytes, all or nothing: returns ``length`` or WANT_*.

        After WANT_* the SAME buffer and length, unchanged, must be given again: records of it may be half sent, and
        with kTLS they are sent from where they lie. Anything else is a ValueError, and the object keeps a reference
        until then or until :meth:`free`. Moving buffers are not allowed on purpose
        (SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER has sent stale bytes up to 3.5.6). With kTLS on Linux before 6.14 it fails
        after a KeyUpdate in this direction: see :meth:`key_update`. SSL_write(3).
        """
        if not isinstance(buffer, ctypes.Array):
            raise TypeError("buffer must be a ctypes array; write_bytes() takes bytes")
        if type(length) is not int:
            raise TypeError("length must be an int")
        if not 0 < length <= _sizeof(buffer) or length > _MAX_INT:
            raise ValueError("length outside of the buffer")
        return self._send(buffer, length)

    def write_bytes(self, data: bytes) -> int:
        """Send all of ``data``, which is not copied: returns its length or WANT_*.

        After WANT_* the same object must be given again, as in :meth:`write`. SSL_write(3).
        """
        if type(data) is not bytes:
            raise TypeError("data must be bytes")
        length = len(data)
        if not 0 < length <= _MAX_INT:
            raise ValueError("length outside of 1 to 2 GiB")
        return self._send(data, length)

    def _send(self, data: object, length: int) -> int:
        ssl = self._io
        if not ssl:
            raise self._refusal()
        unsent = self._unsent
        if unsent is None:
            # Before the call, so that not even an interrupt in between can free what OpenSSL points at.
            self._unsent_length = length
            self._unsent = data
        elif unsent is not data or self._unsent_length != length:
            raise ValueError("an earlier write is unfinished: give the same data and length again")
        if self._peek_error():
            self.lib.ERR_clear_error()
        result = self._write(ssl, data, length)
        if result > 0:
            self._unsent = None
            return int(result)
        return self._outcome("SSL_write", self._get_error(ssl, result), sending=True)

    def sendfile(self, fd: int, offset: int, length: int) -> int:
        """Send bytes of a file from the kernel's page cache: a count (may be short), 0 at the end of the file, WANT_*.

        Only for connections with :attr:`ktls_send`: others raise :class:`TlsError` "uninitialized", and are dead.
        ValueError while a :meth:`write` is unfinished. 3.0 reports a system error as SSL_R_UNINITIALIZED, so
        ``errno`` is kept for every failure. SSL_sendfile(3), since 3.0.
        """
        _check_int("fd", fd, 0, _MAX_INT)
        _check_int("offset", offset, 0, _MAX_OFFSET)
        _check_int("length", length, 1, _MAX_OFFSET)
        ssl = self._io
        if not ssl:
            raise self._refusal()
        if self._unsent is not None:
            raise ValueError("an earlier write is unfinished: the file would go out in the middle of it")
        if self._peek_error():
            self.lib.ERR_clear_error()
        ctypes.set_errno(0)
        result = self.lib.SSL_sendfile(ssl, fd, offset, length, 0)
        if result >= 0:
            return int(result)
        return self._outcome("SSL_sendfile", self._get_error(ssl, result), sending=True)

    def key_update(self, request_peer: bool) -> None:
        """Order a new key for sending; with ``request_peer`` the peer is asked to change its own too.

        The message leaves with the next :meth:`write` or :meth:`handshake`. TLS 1.3 only: with TLS 1.2 raises
        :class:`OpenSSLError` "wrong ssl version", with an unfinished write "bad write retry"; the connection goes on.
        Do not use it where the kernel encrypts, unless Linux is 6.14 or later and OpenSSL 3.2 or later: with 3.0 and
        3.1 the peer then gets records that it cannot decrypt, with others the next write fails with "no suitable
        record layer". SSL_key_update(3).
        """
        if type(request_peer) is not bool:
            raise TypeError("request_peer must be a bool")
        ssl, lib = self._io, self.lib
        if not ssl:
            raise self._refusal()
        lib.ERR_clear_error()
        kind = c.SSL_KEY_UPDATE_REQUESTED if request_peer else c.SSL_KEY_UPDATE_NOT_REQUESTED
        if lib.SSL_key_update(ssl, kind) != 1:
            raise OpenSSLError("SSL_key_update", drain(lib))

    def shutdown(self) -> bool:
        """Send close_notify, once, if the connection is sound. SSL_shutdown(3).

        Returns False when the socket does not take it now: call again when it is writable. Nothing is sent, and the
        answer is True, after an error, before a handshake, and in the middle of a :meth:`write`, whose data must
        not look complete.
        """
        if self._busy:
            raise self._refusal()
        if self._broken or not self._ssl:
            return True
        lib, ssl = self.lib, self._ssl
        self._io = 0
        if self._unsent is not None:
            self._broken = True
            return True
        lib.ERR_clear_error()
        result = lib.SSL_shutdown(ssl)
        again = result < 0 and lib.SSL_get_error(ssl, result) == c.SSL_ERROR_WANT_WRITE
        lib.ERR_clear_error()
        self._broken = not again
        return not again

    # --- inside ---------------------------------------------------------------------------------------------

    def _outcome(self, operation: str, error: int, sending: bool = False) -> int:
        """Translate SSL_get_error(3)."""
        if error == c.SSL_ERROR_WANT_READ:
            return WANT_READ
        if error == c.SSL_ERROR_WANT_WRITE:
            return WANT_WRITE
        if error == c.SSL_ERROR_ZERO_RETURN and not sending:
            return 0
        # Sending after the peer's goodbye is allowed; 3.0 then calls a failed system call ZERO_RETURN.
        keep = error in (c.SSL_ERROR_SYSCALL, c.SSL_ERROR_ZERO_RETURN) or operation == "SSL_sendfile"
        # As the call left it: ctypes keeps it apart from what Python does meanwhile.
        raise self._dead(operation, ctypes.get_errno() if keep else 0)

    def _dead(self, operation: str, number: int) -> TlsError:
        self._broken = True
        self._io = 0
        return TlsError(operation, drain(self.lib), number)


def _check_int(name: str, value: object, lowest: int, highest: int) -> None:
    # ctypes keeps the low bits of what does not fit.
    if type(value) is not int:
        raise TypeError(f"{name} must be an int")
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is outside of {lowest} to {highest}")
