# SPDX-License-Identifier: Apache-2.0
"""Where webhooks go: a YAML file, named by ``--notify`` or ``KTLS_NOTIFY``.

::

    endpoints:
      - url: https://hooks.example.com/ktls
        secret_file: /etc/ktls/hook.secret    # one line, whsec_ and base64; readable by its owner only
        events: [gate_failed, rollout_aborted]  # all nine when left out
        ca_file: /etc/ktls/company-ca.pem       # the system's authorities when left out
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ..errors import ControlError
from .triggers import TRIGGERS

VARIABLE = "KTLS_NOTIFY"
_PREFIX = "whsec_"
#: Bytes of a secret, as the Standard Webhooks specification has it.
_SHORTEST, _LONGEST = 24, 64
_KEYS = {"url", "secret_file", "events", "ca_file"}
_HOW = "make one: (umask 077; echo whsec_$(openssl rand -base64 32) > FILE)"


@dataclass(frozen=True)
class Endpoint:
    """One receiver. ``secret`` is never shown."""

    url: str
    secret: bytes
    events: frozenset[str]
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    @property
    def name(self) -> str:
        """Host and port alone: paths of webhooks are often secrets."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


@dataclass(frozen=True)
class Config:
    """All receivers."""

    endpoints: tuple[Endpoint, ...] = ()


def place(given: str | None = None, environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that was named, if any was."""
    named = given or (os.environ if environment is None else environment).get(VARIABLE)
    return Path(named) if named else None


def load(path: Path) -> Config:
    """:raises ControlError: ``bad_notify``; what is wrong, and where."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ControlError("bad_notify", f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    rows = found.get("endpoints") if isinstance(found, dict) else None
    if not isinstance(rows, list) or set(found) != {"endpoints"}:
        raise ControlError("bad_notify", f"{path}: has to hold a list named endpoints and nothing else")
    return Config(tuple(_endpoint(row, f"{path}: endpoint {number}") for number, row in enumerate(rows, 1)))


def _endpoint(row: Any, where: str) -> Endpoint:
    if not isinstance(row, dict) or not {"url", "secret_file"} <= set(row) <= _KEYS:
        raise ControlError("bad_notify", f"{where}: needs url and secret_file, may have events and ca_file")
    try:
        parts = urlsplit(str(row["url"]))
        usable = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise ControlError("bad_notify", f"{where}: url has to begin with https://, without a user in it")
    events = row.get("events")
    names = list(TRIGGERS) if events is None else events
    if not isinstance(names, list) or not set(map(str, names)) <= set(TRIGGERS):
        raise ControlError("bad_notify", f"{where}: events has to be a list out of {', '.join(TRIGGERS)}")
    ca_file = row.get("ca_file")
    if ca_file is not None and not os.access(str(ca_file), os.R_OK):
        raise ControlError("bad_notify", f"{where}: ca_file {ca_file} cannot be read")
    secret = read_secret(Path(str(row["secret_file"])), where)
    return Endpoint(str(row["url"]), secret, frozenset(map(str, names)), str(ca_file) if ca_file else None)


def read_secret(path: Path, where: str) -> bytes:
    """The key in a secret file, which nobody but its owner may be able to read."""
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ControlError("bad_notify", f"{where}: secret_file {path}: {reason}; {_HOW}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ControlError("bad_notify", f"{where}: others can read secret_file {path}: chmod 600 {path}")
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(_PREFIX) or not _SHORTEST <= len(secret) <= _LONGEST:
        size = f"{_SHORTEST} to {_LONGEST} bytes in base64 after {_PREFIX}"
        raise ControlError("bad_notify", f"{where}: secret_file {path} does not hold {size}; {_HOW}")
    return secret
