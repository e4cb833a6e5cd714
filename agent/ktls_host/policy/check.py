# SPDX-License-Identifier: Apache-2.0
"""Prove a configuration with the library that will read it, before anybody else does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
from collections.abc import Iterator
from typing import Any

from .. import gnutls as gnutls_library
from .. import openssl_lib, textfile
from ..commands import Runner
from ..errors import KtlsError
from . import ask, gnutls_conf, services
from .places import Place

_SUFFIX = ".candidate"
_OPENSSL_DIRECTORY = 4  # OpenSSL_version(3): OPENSSL_DIR


def openssl_directory() -> str:
    """Return OPENSSLDIR of libcrypto.so.3. Raises :class:`KtlsError` ``openssl_missing``."""
    try:
        library = ctypes.CDLL("libcrypto.so.3")
    except OSError as error:
        raise _missing("openssl", "OpenSSL 3", "libssl.so.3") from error
    library.OpenSSL_version.restype = ctypes.c_char_p
    found = ask.openssl_directory((library.OpenSSL_version(_OPENSSL_DIRECTORY) or b"").decode("utf-8", "replace"))
    if found is None:
        raise KtlsError("openssl_missing", "libcrypto.so.3 does not say where its configuration is; reinstall OpenSSL")
    return found


def capable_openssl(allow_inert: bool) -> openssl_lib.OpensslState:
    """Return the library. Raises :class:`KtlsError` where asking it would be in vain.

    The codes are ``openssl_missing`` and ``openssl_without_ktls``.
    """
    state = openssl_lib.probe()
    if state.library is None:
        raise _missing("openssl", "OpenSSL 3", "libssl.so.3")
    if state.release[0] < 3:
        # It does not know the option, and a program that reports mistakes in its configuration would not start.
        message = f"{state.version} has no kernel TLS, OpenSSL 3.0 and later have; serve from a newer release"
        raise KtlsError("openssl_without_ktls", message)
    if not state.ktls_built and not allow_inert:
        message = (
            f"{state.version} was built without kernel TLS (enable-ktls), so the setting would do nothing; use a build "
            f"with it, or say allow_inert: true to set it all the same"
        )
        raise KtlsError("openssl_without_ktls", message)
    return state


def capable_gnutls(state: gnutls_library.GnutlsState, allow_inert: bool) -> None:
    """Raise :class:`KtlsError` ``gnutls_missing`` or ``gnutls_without_ktls``."""
    if state.library is None:
        raise _missing("gnutls", "GnuTLS", gnutls_library.LIBRARY)
    if not state.ktls_built and not allow_inert:
        message = (
            f"GnuTLS {state.version} was built without kernel TLS (--enable-ktls; Debian and Ubuntu leave it out), so "
            f"the setting would do nothing; use a build with it, or say allow_inert: true to set it all the same"
        )
        raise KtlsError("gnutls_without_ktls", message)


def existing(backend: str, source: str, runner: Runner, root: str = "/") -> ask.OpensslAnswer | ask.GnutlsAnswer:
    """Ask about what is in force. Raises :class:`KtlsError` ``malformed_config`` when programs fail with it already.

    GnuTLS passes over mistakes, unlike the strict reading here. So its answer counts only if what shall be has the
    same problem: releases before 3.8.0 do not know ``ktls = false``, which will be gone.
    """
    answer = _ask(backend, textfile.under(root, source) if source else "", runner)
    if answer.problem is not None and backend == "openssl":
        raise _does_not_work(source, answer)
    return answer


def candidate(
    backend: str, place: Place, before: ask.OpensslAnswer | ask.GnutlsAnswer, runner: Runner, root: str = "/"
) -> dict[str, Any]:
    """Ask about what shall be, in a private file, and return what :func:`effective` would.

    Raises :class:`KtlsError` ``validation_failed`` and ``malformed_config``; nobody has seen the file then.
    """
    with _private(place.candidate, root) as path:
        answer = _ask(backend, path, runner)
        if answer.problem is not None and before.problem is not None:
            raise _does_not_work(place.source, before)
        wrong = _wrong(answer, before)
        if wrong is not None:
            wrong = wrong.replace(path, place.config)
            message = (
                f"{place.config} with kernel TLS would not do ({wrong}); nothing was changed: look for a setting in "
                f"{place.source or 'the unit'} that takes it back, or file a bug with that file"
            )
            raise KtlsError("validation_failed", message)
        asks = backend == "gnutls" and gnutls_conf.asks(place.candidate, place.config) is True
        return describe(backend, place.config, answer, asks)


def effective(backend: str, config: str, runner: Runner, root: str = "/") -> dict[str, Any]:
    """Return what the library makes of ``config`` as it is now; never raises for what the file says."""
    real = textfile.under(root, config) if config else ""
    answer = _ask(backend, real, runner, programs=False)
    configured = False
    if backend == "gnutls":
        with contextlib.suppress(KtlsError):
            configured = gnutls_conf.asks(textfile.read(root, config) or "", config) is True
    return describe(backend, config, answer, configured)


def describe(
    backend: str, config: str, answer: ask.OpensslAnswer | ask.GnutlsAnswer, configured: bool
) -> dict[str, Any]:
    """Return plain JSON types. For OpenSSL ``ktls`` is read from a context, for GnuTLS from the file it accepted."""
    ktls = answer.ktls if isinstance(answer, ask.OpensslAnswer) else configured and answer.problem is None
    return {"backend": backend, "config": config, "ktls": ktls, "problem": answer.problem}


def clean(root: str = "/") -> None:
    """Remove candidates of a killed process. Only while holding the lock of the levers."""
    with contextlib.suppress(OSError):
        for name in os.listdir(textfile.under(root, services.DIRECTORY)):
            if name.endswith(_SUFFIX):
                os.unlink(textfile.under(root, f"{services.DIRECTORY}/{name}"))


def _ask(backend: str, config: str, runner: Runner, *, programs: bool = True) -> ask.OpensslAnswer | ask.GnutlsAnswer:
    """``programs``: not again for a file that differs from a tried one in its place alone."""
    if backend == "openssl":
        return ask.openssl(runner, config, programs=programs)
    return ask.gnutls(runner, config, programs=programs)


def _wrong(answer: ask.OpensslAnswer | ask.GnutlsAnswer, before: ask.OpensslAnswer | ask.GnutlsAnswer) -> str | None:
    if answer.problem is not None:
        return answer.problem
    if isinstance(answer, ask.OpensslAnswer) and isinstance(before, ask.OpensslAnswer):
        known = {_reason(text) for text in before.complaints}
        new = [text for text in answer.complaints if _reason(text) not in known]
        if new:
            return f"OpenSSL complains: {new[0]}"
        return None if answer.ktls else "a new SSL_CTX does not ask for kernel TLS"
    if isinstance(answer, ask.GnutlsAnswer) and isinstance(before, ask.GnutlsAnswer):
        return (
            None
            if before.problem is not None or answer.priorities == before.priorities
            else "other priority strings work than before"
        )
    return None


def _does_not_work(source: str, answer: ask.OpensslAnswer | ask.GnutlsAnswer) -> KtlsError:
    message = f"{source} does not work as it is: {answer.problem}; repair it first, nothing was changed"
    return KtlsError("malformed_config", message)


def _reason(complaint: str) -> str:
    return complaint.partition(":")[0]


@contextlib.contextmanager
def _private(text: str, root: str) -> Iterator[str]:
    path = os.path.join(services.private_directory(root), secrets.token_hex(8) + _SUFFIX)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise KtlsError("write_failed", f"cannot write {path} ({error.strerror}); nothing was changed") from error
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _missing(backend: str, name: str, library: str) -> KtlsError:
    message = f"there is no {name} on this host ({library}), so there is nothing to configure; install it, or leave it"
    return KtlsError(f"{backend}_missing", message)
