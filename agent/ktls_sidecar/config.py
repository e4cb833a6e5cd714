# SPDX-License-Identifier: Apache-2.0
"""The configuration file, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from ktls_host import configfile
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import RequestError

from .leave import MAX_S, seconds_of
from .web import settings
from .web.settings import Settings

CREDENTIAL_KEY = "tls.key"
_MAX_WORKERS = 512


@dataclass(frozen=True)
class Listen:
    """One address to accept on. Port 0 lets the kernel choose."""

    host: str
    port: int


@dataclass(frozen=True)
class Pair:
    """A certificate (path of PEM, leaf first) and its key: an absolute path, or the name of a systemd credential."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Config:
    """All settings. Times are seconds, sizes bytes."""

    listen: tuple[Listen, ...] = (Listen("0.0.0.0", 8443), Listen("::", 8443))
    root: str = "/srv/ktls"
    certificate: str = "/etc/ktls/tls/cert.pem"
    key: str | None = None
    """None: ``tls.key`` in $CREDENTIALS_DIRECTORY (systemd.exec(5), LoadCredential=)."""
    certificates: tuple[Pair, ...] = ()
    """More certificates, chosen by the name that the client asks for. In a file that has these and neither
    ``certificate`` nor ``key``, the first is the default one."""
    workers: int = 0
    """Processes that serve; 0: one for each CPU that this process may use."""
    control_socket: str = "/run/ktls-sidecar/control.sock"
    http_socket: str | None = "/run/ktls-sidecar/http.sock"
    """``/healthz`` and ``/metrics`` over HTTP; None: not served."""
    control_group: str | None = "ktls"
    """Of both sockets."""
    off_flags: tuple[str, ...] = ("/run/ktls/off", "/var/lib/ktls/off", "/run/ktls/lapsed")
    """Each by itself means off; the last one says that an order ran out before it was confirmed."""
    access_log: bool = True
    max_connections: int = 8192
    """Of all workers together; each takes its part."""
    header_limit: int = 16384
    uri_limit: int = 4096
    handshake_timeout_s: float = 10.0
    request_timeout_s: float = 15.0
    idle_timeout_s: float = 60.0
    send_timeout_s: float = 60.0
    drain_s: float = 10.0
    ktls_drain_s: float | None = 300.0
    """How long connections may go on whose kTLS is no longer ordered, by order or by flag; None: for ever."""
    ktls_max_age_s: float = 3600.0
    """A kTLS connection that is older ends after its response, where the stack cannot change keys."""
    ktls_max_bytes: int = 64 * 1024**3
    """The same by bytes sent."""
    key_update_memory_s: float = 3600.0
    """How long a client that changed its keys there is served from userspace."""
    zerocopy: bool = False
    """Let a NIC that encrypts send file pages uncopied, of files that are proved immutable (``ktls-publish``)."""
    files: Settings = field(default_factory=Settings)
    """How files are served: types, Cache-Control, precompressed siblings, listings."""

    def key_path(self) -> str:
        """Return the path of the default private key. Raises KtlsError ``bad_config``."""
        return key_path(CREDENTIAL_KEY if self.key is None else self.key)

    def pairs(self) -> tuple[Pair, ...]:
        """Return paths of all certificates and keys, the default first. Raises KtlsError ``bad_config``."""
        others = (Pair(pair.certificate, key_path(pair.key)) for pair in self.certificates)
        return (Pair(self.certificate, self.key_path()), *others)


def key_path(key: str) -> str:
    """Return ``key`` if it is a path, else where systemd put the credential ``key``. Raises KtlsError ``bad_config``.

    systemd.exec(5): LoadCredential=, $CREDENTIALS_DIRECTORY.
    """
    if key.startswith("/"):
        return key
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise KtlsError(
            "bad_config",
            f"there is no TLS key: start through ktls-sidecar.service (LoadCredential={key}:...), or set 'key'"
            " in the configuration to its path",
        )
    return os.path.join(directory, key)


def load(path: str) -> Config:
    """Read the JSON file ``path``. Raises KtlsError ``bad_config`` with the cure."""
    data = configfile.read(path, "write it, or name another with --config")
    try:
        return parse(data)
    except ValueError as error:
        raise KtlsError("bad_config", f"the configuration {path} is wrong: {error}") from error


def parse(data: Any) -> Config:
    """Check a decoded configuration. Raises ValueError that names the key."""
    if not isinstance(data, dict):
        raise ValueError("it must be an object")
    known = {field.name: field for field in fields(Config)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    found = {name: _check(name, value) for name, value in data.items()}
    if found.get("certificates") and not {"certificate", "key"} & set(found):
        first, *rest = found["certificates"]
        found.update(certificate=first.certificate, key=first.key, certificates=tuple(rest))
    return Config(**found)


def _check(name: str, value: Any) -> Any:
    if name == "listen":
        return _listen(value)
    if name == "certificates":
        return _certificates(value)
    if name == "files":
        try:
            return settings.parse(value)
        except ValueError as error:
            raise ValueError(f"in 'files', {error}") from error
    if name == "off_flags":
        if not isinstance(value, list) or not value:
            raise ValueError("'off_flags' must be a list of at least one path")
        return tuple(_path(name, item) for item in value)
    if name in ("key", "control_group", "http_socket", "ktls_drain_s") and value is None:
        return None
    if name == "control_group":
        if not isinstance(value, str) or not value:
            raise ValueError("'control_group' must be the name of a group, or null")
        return value
    if name in ("root", "certificate", "key", "control_socket", "http_socket"):
        return _path(name, value)
    if name in ("access_log", "zerocopy"):
        if not isinstance(value, bool):
            raise ValueError(f"{name!r} must be true or false")
        return value
    if name == "workers":
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_WORKERS:
            raise ValueError(f"'workers' must be a number from 0 (one for each CPU) to {_MAX_WORKERS}")
        return value
    if name in ("max_connections", "header_limit", "uri_limit", "ktls_max_bytes"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name!r} must be a whole number above 0")
        return value
    if name == "ktls_drain_s":
        try:
            return seconds_of(value)
        except RequestError as error:
            raise ValueError(f"'ktls_drain_s' must be a number of seconds from 0 to {MAX_S:g}, or null") from error
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 86400:
        raise ValueError(f"{name!r} must be a number of seconds, above 0 and below 86400")
    return float(value)


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"{name!r} must be an absolute path, not {value!r}")
    return value


def _certificates(value: Any) -> tuple[Pair, ...]:
    shape = '{"certificate": path, "key": path or name of a credential}'
    if not isinstance(value, list):
        raise ValueError(f"'certificates' must be a list of {shape}")
    found = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"certificate", "key"}:
            raise ValueError(f"'certificates' has {item!r}; each entry is {shape}")
        key = item["key"]
        if not isinstance(key, str) or not (key.startswith("/") or _is_name(key)) or "\0" in key:
            raise ValueError(f"'certificates' has key {key!r}; give an absolute path or the name of a credential")
        found.append(Pair(_path("certificate", item["certificate"]), key))
    return tuple(found)


def _is_name(text: str) -> bool:
    return bool(text) and "/" not in text and text not in (".", "..")


def _listen(value: Any) -> tuple[Listen, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('\'listen\' must be a list of at least one {"host": address, "port": number}')
    found = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"host", "port"}:
            raise ValueError(f"'listen' has {item!r}; each entry has exactly host and port")
        host, port = item["host"], item["port"]
        if not isinstance(host, str) or not host:
            raise ValueError(f"'listen' has host {host!r}; give an address such as 0.0.0.0 or ::")
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
            raise ValueError(f"'listen' has port {port!r}; give a number from 0 to 65535")
        found.append(Listen(host, port))
    return tuple(found)
