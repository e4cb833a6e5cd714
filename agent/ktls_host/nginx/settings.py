# SPDX-License-Identifier: Apache-2.0
"""What role ktls_nginx leaves for root's helper and the watch: ``/etc/ktls/nginx.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .. import configfile
from ..errors import KtlsError
from .dropin import DIRECTORY, BaseSettings, Places

PATH = "/etc/ktls/nginx.json"
UNIT = "nginx.service"
PROGRAM = "/usr/sbin/nginx"
_UNIT = re.compile(r"[A-Za-z0-9_.@:\\-]{1,200}\.service\Z")
_PATH = re.compile(r"/[A-Za-z0-9_./@+-]{1,300}\Z")
_NAME = re.compile(r"[A-Za-z0-9_.*-]{1,253}\Z")


@dataclass(frozen=True)
class Settings:
    """``unit``, ``program`` and ``config`` (empty: its own default) are nginx's; the rest is of the drop-ins."""

    probe_port: int
    server_name: str
    unit: str = UNIT
    program: str = PROGRAM
    config: str = ""
    directory: str = DIRECTORY
    certificate: str = "/etc/ktls/tls/cert.pem"
    key: str = "/etc/ktls/tls/key.pem"
    log: bool = True

    @property
    def places(self) -> Places:
        """Return where the drop-ins are."""
        return Places(self.directory)

    def base(self, default_log: str) -> BaseSettings:
        """Return what goes into the base."""
        return BaseSettings(self.probe_port, self.server_name, self.certificate, self.key, self.log, default_log)


def load(path: str = PATH) -> Settings:
    """Read the file. Raises :class:`KtlsError`: bad_config."""
    return parse(configfile.read(path, "deploy role ktls_nginx"), path)


def parse(raw: Any, source: str) -> Settings:
    """Check ``raw``. Nothing of it can be more than a word in nginx's configuration. Raises bad_config."""
    if not isinstance(raw, dict):
        raise _bad(source, "is not an object")
    left = dict(raw)
    port = left.pop("probe_port", None)
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise _bad(source, "probe_port is not a port number")
    log = left.pop("log", True)
    if not isinstance(log, bool):
        raise _bad(source, "log is not true or false")
    found: dict[str, Any] = {"server_name": _match(source, left, "server_name", _NAME, None)}
    found["unit"] = _match(source, left, "unit", _UNIT, UNIT)
    for key, default in (
        ("program", PROGRAM),
        ("config", ""),
        ("directory", DIRECTORY),
        ("certificate", Settings.certificate),
        ("key", Settings.key),
    ):
        found[key] = _match(source, left, key, _PATH, default)
    if not found["directory"].startswith("/etc/nginx/") or "/../" in found["directory"] + "/":
        # The units that take the switch away may write there, and nowhere else.
        raise _bad(source, "directory is not below /etc/nginx")
    if left:
        raise _bad(source, f"unknown key {sorted(map(str, left))[0]}")
    return Settings(probe_port=port, log=log, **found)


def for_shell(raw: Any) -> bytes:
    """Return what `ktls-off` needs of it. Raises bad_config."""
    found = parse(raw, "nginx_config")
    lines = {
        "kind": "nginx",
        "unit": found.unit,
        "program": found.program,
        "config": found.config,
        "on": found.places.on,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items()).encode()


def _match(source: str, left: dict[str, Any], key: str, pattern: re.Pattern[str], default: str | None) -> str:
    value = left.pop(key, default)
    if isinstance(value, str) and (pattern.match(value) or (value == "" and default == "")):
        return value
    raise _bad(source, f"{key} is missing, or has signs that do not belong there")


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; deploy role ktls_nginx again")
