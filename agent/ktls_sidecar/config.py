# SPDX-License-Identifier: Apache-2.0
"""The configuration file, checked."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from typing import Any

from ktls_host.errors import KtlsError

CREDENTIAL_KEY = "tls.key"


@dataclass(frozen=True)
class Listen:
    """One address to accept on. Port 0 lets the kernel choose."""

    host: str
    port: int


@dataclass(frozen=True)
class Config:
    """All settings. Times are seconds, sizes bytes."""

    listen: tuple[Listen, ...] = (Listen("0.0.0.0", 8443), Listen("::", 8443))
    root: str = "/srv/ktls"
    certificate: str = "/etc/ktls/tls/cert.pem"
    key: str | None = None
    """None: ``tls.key`` in $CREDENTIALS_DIRECTORY (systemd.exec(5), LoadCredential=)."""
    control_socket: str = "/run/ktls-sidecar/control.sock"
    control_group: str | None = "ktls"
    off_flags: tuple[str, ...] = ("/run/ktls/off", "/var/lib/ktls/off")
    access_log: bool = True
    max_connections: int = 8192
    header_limit: int = 16384
    uri_limit: int = 4096
    handshake_timeout_s: float = 10.0
    request_timeout_s: float = 15.0
    idle_timeout_s: float = 60.0
    send_timeout_s: float = 60.0
    drain_s: float = 10.0
    ktls_max_age_s: float = 3600.0
    ktls_max_bytes: int = 1 << 36
    zerocopy: bool = False

    def key_path(self) -> str:
        """Return the path of the private key. Raises KtlsError ``bad_config``."""
        if self.key is not None:
            return self.key
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise KtlsError(
                "bad_config",
                "there is no TLS key: start through ktls-sidecar.service (LoadCredential=tls.key:...), or set 'key'"
                " in the configuration to its path",
            )
        return os.path.join(directory, CREDENTIAL_KEY)


def load(path: str) -> Config:
    """Read the JSON file ``path``. Raises KtlsError ``bad_config`` with the cure."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        message = f"cannot read the configuration {path} ({error.strerror}); write it, or name another with --config"
        raise KtlsError("bad_config", message) from error
    except ValueError as error:
        raise KtlsError("bad_config", f"the configuration {path} is not JSON: {error}") from error
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
    return Config(**{name: _check(name, value) for name, value in data.items()})


def _check(name: str, value: Any) -> Any:
    if name == "listen":
        return _listen(value)
    if name == "off_flags":
        if not isinstance(value, list) or not value:
            raise ValueError("'off_flags' must be a list of at least one path")
        return tuple(_path(name, item) for item in value)
    if name in ("key", "control_group") and value is None:
        return None
    if name == "control_group":
        if not isinstance(value, str) or not value:
            raise ValueError("'control_group' must be the name of a group, or null")
        return value
    if name in ("root", "certificate", "key", "control_socket"):
        return _path(name, value)
    if name == "access_log":
        if not isinstance(value, bool):
            raise ValueError("'access_log' must be true or false")
        return value
    if name in ("max_connections", "header_limit", "uri_limit"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name!r} must be a whole number above 0")
        return value
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 86400:
        raise ValueError(f"{name!r} must be a number of seconds, above 0 and below 86400")
    return float(value)


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"{name!r} must be an absolute path, not {value!r}")
    return value


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
