# SPDX-License-Identifier: Apache-2.0
"""The C object of a connection: its life, and what it can be asked without sending or receiving."""

from __future__ import annotations

import ctypes
from typing import Any

from . import constants as c
from .context import server_name
from .library import Library


class Handle:
    """An ``SSL`` that is freed once, and is never used when freed or inside a handshake."""

    __slots__ = (
        "__weakref__",
        "_broken",
        "_busy",
        "_free_later",
        "_io",
        "_read_bio",
        "_ssl",
        "_unsent",
        "feeds",
        "lib",
    )

    lib: Library
    feeds: bool
    """True when received bytes come through ``feed()``, False when OpenSSL reads the socket."""
    _read_bio: int
    _busy: int
    """The C object while SSL_do_handshake runs, else 0."""
    _ssl: int
    """The C object; 0 when freed, and while a handshake runs (then it is in _busy)."""
    _io: int
    """The same while data may flow: after the handshake, before an error or a goodbye; else 0."""
    _broken: bool
    """After an error or a goodbye: only free() is of use."""
    _unsent: object
    """The data of an unfinished write: OpenSSL may point into it until the connection is freed."""

    def __new__(cls, *_: Any, **__: Any) -> Handle:
        """Make an object that is safe to use and to free before ``__init__`` has run."""
        self = super().__new__(cls)
        self._ssl = self._io = self._busy = 0
        self._broken = self._free_later = False
        self._unsent = None
        return self

    def free(self) -> None:
        """Free the C object and its BIOs, not the socket. May be called again. SSL_free(3).

        Inside of a ``select`` of :meth:`ServerContext.choose_by_name` it takes effect when the handshake returns.
        """
        if self._busy:
            self._free_later = True
            return
        self._io = 0
        ssl, self._ssl = self._ssl, 0
        if ssl:
            self.lib.SSL_free(ssl)
            self._unsent = None

    def __del__(self) -> None:
        """Free what the owner forgot."""
        self.free()

    def __reduce_ex__(self, _protocol: Any) -> str:
        """Refuse copies: two objects would free one C object."""
        raise TypeError("a TlsConnection cannot be copied or pickled")

    @property
    def alive(self) -> bool:
        """False after :meth:`free`; nothing else may be called then."""
        return bool(self._ssl or self._busy) and not self._free_later

    # --- questions ------------------------------------------------------------------------------------------

    @property
    def ktls_send(self) -> bool:
        """True when the kernel encrypts what is written. BIO_get_ktls_send(3)."""
        bio = self.lib.SSL_get_wbio(self._pointer())
        return bool(self.lib.BIO_ctrl(bio, c.BIO_CTRL_GET_KTLS_SEND, 0, None) > 0)

    @property
    def ktls_receive(self) -> bool:
        """True when the kernel decrypts what is read: never with :attr:`feeds`. BIO_get_ktls_recv(3)."""
        bio = self.lib.SSL_get_rbio(self._pointer())
        return bool(self.lib.BIO_ctrl(bio, c.BIO_CTRL_GET_KTLS_RECV, 0, None) > 0)

    @property
    def key_update_pending(self) -> bool:
        """True when new keys for sending are due: the peer has asked, or :meth:`key_update` was called.

        SSL_get_key_update_type(3).
        """
        return bool(self.lib.SSL_get_key_update_type(self._pointer()) != c.SSL_KEY_UPDATE_NONE)

    @property
    def version(self) -> str:
        """For example ``TLSv1.3``. SSL_get_version(3)."""
        return _text(self.lib.SSL_get_version(self._pointer()))

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the cipher suite; "none" before there is one.

        SSL_get_current_cipher(3), SSL_CIPHER_get_name(3).
        """
        return _text(self.lib.SSL_CIPHER_get_name(self.lib.SSL_get_current_cipher(self._pointer())))

    @property
    def server_name(self) -> str | None:
        """The name that the client asked for, in lower case, or None. SSL_get_servername(3).

        In a resumed TLS 1.2 session it is the name of the first handshake, if a context was chosen for it.
        """
        return server_name(self.lib, self._pointer())

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on, for example ``http/1.1``, or None. SSL_get0_alpn_selected(3)."""
        data, length = ctypes.c_void_p(), ctypes.c_uint()
        self.lib.SSL_get0_alpn_selected(self._pointer(), ctypes.byref(data), ctypes.byref(length))
        return ctypes.string_at(data.value, length.value).decode("ascii", "backslashreplace") if data.value else None

    @property
    def resumed(self) -> bool:
        """True when the handshake took up an earlier session. SSL_session_reused(3)."""
        return bool(self.lib.SSL_session_reused(self._pointer()))

    @property
    def small_fragments(self) -> bool:
        """True when the client asked for a maximum fragment length (RFC 6066), which excludes kTLS.

        SSL_SESSION_get_max_fragment_length(3).
        """
        session = self.lib.SSL_get_session(self._pointer())
        return bool(session and self.lib.SSL_SESSION_get_max_fragment_length(session))

    def _pointer(self) -> int:
        if not self._ssl:
            raise self._refusal()
        return self._ssl

    def _refusal(self) -> ValueError:
        if self._busy:
            return ValueError("this connection is in a handshake: select must not use it")
        if not self._ssl:
            return ValueError("this connection is freed")
        if self._broken:
            return ValueError("this connection is shut down or dead")
        return ValueError("this connection is not ready for data: handshake() has not returned 1, or shutdown() began")


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if value else "none"
