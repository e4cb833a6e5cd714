# SPDX-License-Identifier: Apache-2.0
"""Where a configuration is, and what it shall hold: the whole of each file, decided from what is in force now.

Nothing of ours counts as being in force, so that the system-wide setting and that of one service do not lean on each
other: each can be taken back alone.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from dataclasses import dataclass

from .. import originals, textfile
from ..errors import KtlsError
from ..files import FileSpec
from . import crypto_policies, gnutls_conf, openssl_conf, openssl_text, units
from .marks import HEADER, is_signed, signed

OWN_DIRECTORY = "/etc/ktls-fleet/policy"
VARIABLES = {"openssl": "OPENSSL_CONF", "gnutls": "GNUTLS_SYSTEM_PRIORITY_FILE"}
#: Debian's OPENSSLDIR holds a link to here: the one link that is followed.
_DEBIAN_OPENSSL_CNF = "/etc/ssl/openssl.cnf"
_LOCAL_PART = re.compile(
    "\n?" + re.escape(HEADER) + r"\n(?:.*\n)*?" + re.escape(openssl_conf.END) + r"\n", re.MULTILINE
)


@dataclass(frozen=True)
class Place:
    """``specs`` in the order in which they are to be written, the one that makes the rest visible last.

    ``config`` is what the library reads afterwards, ``source`` what it reads before. ``candidate`` is text to try
    beforehand, in which includes lead to real files. ``regenerate`` is our file's text in ``local.d``, or ``None``
    where crypto-policies has no part. ``satisfied``: somebody else asks for kernel TLS there already.
    """

    specs: tuple[FileSpec, ...]
    config: str
    source: str
    candidate: str
    local: str | None = None
    satisfied: bool = False


def openssl_system(directory: str, root: str = "/") -> Place:
    """Return the place for all programs, ``directory`` being OPENSSLDIR.

    Raises :class:`KtlsError`: ``malformed_config``, ``symlink_in_the_way``, ``not_a_file``, ``unsafe_directory``.
    """
    path = openssl_file(directory, root)
    text = _text(originals.read(path, root).content)
    openssl_conf.marked(text, path)
    config = _openssl(path, root)
    added = openssl_conf.addition(config)
    generated = crypto_policies.backend_file("openssl")
    if generated in config.files:
        local = crypto_policies.local_text(f"{added}{openssl_conf.END}\n")
        spec = _spec(crypto_policies.local_file("openssl"), local)
        candidate = f"{_include(textfile.under(root, path))}\n{added}"
        return Place((spec,), path, path, candidate, local)
    content = openssl_conf.with_block(text, added, path)
    return Place((_edited(path, content, root),), path, path, content)


def openssl_service(unit: str, source: str, root: str = "/") -> Place:
    """Return the place for one service that reads ``source`` now (empty: no file at all).

    Raises :class:`KtlsError` ``malformed_config`` and those of reading a file.
    """
    config = f"{OWN_DIRECTORY}/{unit}.openssl.cnf"
    added = openssl_conf.addition(_openssl(source, root))
    before, real = ("", "") if not source else (_include(source), _include(textfile.under(root, source)))
    specs = (_spec(config, signed(f"{before}\n{added}")), _drop_in(unit, "openssl", config))
    return Place(specs, config, source, f"{real}\n{added}")


def gnutls_system(source: str, root: str = "/") -> Place:
    """Return the place for all programs, ``source`` being where this build of GnuTLS looks.

    Raises :class:`KtlsError`: ``malformed_config`` and those of reading a file.
    """
    if source == crypto_policies.backend_file("gnutls"):
        text = _without_local(textfile.read(root, source) or "")
        asks = gnutls_conf.asks(text, source)
        local = crypto_policies.local_text(f"[global]\n{gnutls_conf.ASK}\n{openssl_conf.END}\n")
        spec = _spec(crypto_policies.local_file("gnutls"), local)
        return Place((spec,), source, source, text + local, local, asks is True)
    content = originals.read(source, root).content
    text = _text(content)
    if content is None or is_ours(content):
        wanted = signed(f"[global]\n{gnutls_conf.ASK}\n")
        return Place((_spec(source, wanted),), source, source, wanted)
    asks = gnutls_conf.asks(text, source)
    wanted = gnutls_conf.with_ktls(text, source)
    satisfied = asks is True and not gnutls_conf.ours(text)
    return Place((_edited(source, wanted, root),), source, source, wanted, satisfied=satisfied)


def gnutls_service(unit: str, source: str, root: str = "/") -> Place:
    """Return the place for one service that reads ``source`` now. GnuTLS has no include, so it gets a copy.

    Raises :class:`KtlsError` ``malformed_config``.
    """
    config = f"{OWN_DIRECTORY}/{unit}.gnutls.config"
    before = (textfile.read(root, source) or "") if source else ""
    before = "" if is_signed(before) else gnutls_conf.without_ours(_without_local(before))
    text = gnutls_conf.with_ktls(before, source, mark=False)
    wanted = signed(f"# A copy of {source or 'nothing'}\n{text}")
    specs = (_spec(config, wanted), _drop_in(unit, "gnutls", config))
    return Place(specs, config, source, wanted)


def openssl_file(directory: str, root: str = "/") -> str:
    """Return the system-wide openssl.cnf. Raises :class:`KtlsError` ``symlink_in_the_way`` for a link elsewhere."""
    path = f"{directory.rstrip('/')}/openssl.cnf"
    real = textfile.under(root, path)
    if not os.path.islink(real):
        return path
    leads = os.path.normpath(os.path.join(directory, os.readlink(real)))
    if leads != _DEBIAN_OPENSSL_CNF:
        message = f"{real} is a symbolic link to {leads}, which is not ours to follow; make it a file, then repeat"
        raise KtlsError("symlink_in_the_way", message)
    return leads


def openssl_default(directory: str, root: str = "/") -> str:
    """Return the file that OpenSSL reads, behind Debian's link where there is that one."""
    try:
        return openssl_file(directory, root)
    except KtlsError:
        return f"{directory.rstrip('/')}/openssl.cnf"


def is_ours(content: bytes | None) -> bool:
    """True for a file that this lever wrote from its first byte to its last, and that nobody has edited."""
    return content is not None and is_signed(_text(content))


def has_our_part(backend: str, content: bytes | None) -> bool:
    """True for a file of somebody else with lines of ours in it."""
    text = _text(content)
    return openssl_conf.marked(text, "openssl.cnf") is not None if backend == "openssl" else gnutls_conf.ours(text)


def service_files(unit: str, backend: str) -> tuple[str, str]:
    """Return our configuration file for a service, and our drop-in."""
    suffix = {"openssl": "openssl.cnf", "gnutls": "gnutls.config"}[backend]
    return f"{OWN_DIRECTORY}/{unit}.{suffix}", units.drop_in_path(unit, backend)


def _openssl(path: str, root: str) -> openssl_conf.Config:
    def read(name: str) -> bytes | None:
        try:
            with open(textfile.under(root, name), "rb") as stream:
                text = _text(stream.read())
        except OSError:
            return None
        return _bytes(_without_local(openssl_conf.without_block(text, name)))

    def listed(name: str) -> list[str] | None:
        try:
            return os.listdir(textfile.under(root, name))
        except OSError:
            return None

    return openssl_conf.parse(path, read, listed) if path else openssl_conf.Config({"default": {}})


def _without_local(text: str) -> str:
    return _LOCAL_PART.sub("", text)


def _include(path: str) -> str:
    return f".include {openssl_text.quoted(path)}\n"


def _drop_in(unit: str, backend: str, config: str) -> FileSpec:
    return _spec(units.drop_in_path(unit, backend), signed(units.drop_in_text(VARIABLES[backend], config)))


def _spec(path: str, text: str) -> FileSpec:
    """A file of our own. It belongs to who writes it, which is root, and the service must be able to read it."""
    return FileSpec(path, _bytes(text), 0o644, _user(os.geteuid()), _group(os.getegid()))


def _edited(path: str, text: str, root: str) -> FileSpec:
    """A file of somebody else keeps its mode and owner."""
    found = originals.read(path, root)
    if found.content is None:
        return _spec(path, text)
    return FileSpec(path, _bytes(text), found.mode, _user(found.uid), _group(found.gid))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _text(content: bytes | None) -> str:
    return (content or b"").decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
