# SPDX-License-Identifier: Apache-2.0
"""The configuration of the kill switch by pull: /etc/ktls/pull.json."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ktls_host import configfile
from ktls_host.errors import KtlsError

DEFAULT_PATH = "/etc/ktls/pull.json"
STATUS_PATH = "/run/ktls-pull/status.json"
_FLEET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TARGET = re.compile(r"[!-~]*\Z")
_MAX_ENDPOINTS = 8


@dataclass(frozen=True)
class Endpoint:
    """A web server and the path of the flag on it. ``url`` is what logs and metrics call it."""

    url: str
    tls: bool
    host: str
    port: int
    target: str


@dataclass(frozen=True)
class PullConfig:
    """Where flags come from, whose count, and where the effect goes. Times in seconds."""

    fleet: str
    endpoints: tuple[Endpoint, ...]
    ca: str | None = None
    """File with the authorities of the endpoints; ``None``: those of the system."""
    interval_s: float = 2.0
    timeout_s: float = 3.0
    """For one whole poll: connect, handshake, request, answer."""
    allowed_signers: str = "/etc/ktls/allowed_signers"
    run_flag: str = "/run/ktls/off"
    durable_flag: str = "/var/lib/ktls/off"
    agent_socket: str = "/run/ktls-agent/agent.sock"
    status: str = STATUS_PATH
    owed: str = "/var/lib/ktls-pull/owed.json"


def load(path: str = DEFAULT_PATH) -> PullConfig:
    """Read the configuration at ``path``. Raises :class:`KtlsError`: bad_config."""
    return parse(configfile.read(path, "run playbook pull.yml"), path)


def parse(raw: Any, source: str) -> PullConfig:
    """Check ``raw``. Raises :class:`KtlsError`: bad_config, naming ``source`` and the key."""
    if not isinstance(raw, dict):
        raise _bad(source, "is not an object")
    raw = dict(raw)
    fleet = raw.pop("fleet", None)
    if not isinstance(fleet, str) or not _FLEET.match(fleet):
        raise _bad(source, "fleet is not a name of up to 64 letters, digits and . _ -")
    urls = raw.pop("endpoints", None)
    several = isinstance(urls, list) and 1 <= len(urls) <= _MAX_ENDPOINTS
    if not several or len({str(url) for url in urls}) < len(urls):
        raise _bad(source, f"endpoints is not a list of 1 to {_MAX_ENDPOINTS} different URLs")
    endpoints = tuple(endpoint(url, source) for url in urls)
    ca = raw.pop("ca", None)
    if ca is not None and (not isinstance(ca, str) or not ca.startswith("/")):
        raise _bad(source, "ca is not the absolute path of a file, or null")
    numbers = {
        key: _number(source, key, raw.pop(key), low, high)
        for key, low, high in (("interval_s", 0.5, 3600.0), ("timeout_s", 0.5, 60.0))
        if key in raw
    }
    paths: dict[str, str] = {}
    for key in ("allowed_signers", "run_flag", "durable_flag", "agent_socket", "status", "owed"):
        if key in raw:
            value = raw.pop(key)
            if not isinstance(value, str) or not value.startswith("/"):
                raise _bad(source, f"{key} is not an absolute path")
            paths[key] = value
    if raw:
        raise _bad(source, f"unknown key {sorted(str(key) for key in raw)[0]}")
    return PullConfig(fleet, endpoints, ca, **numbers, **paths)  # type: ignore[arg-type]


def endpoint(url: object, source: str) -> Endpoint:
    """Return the endpoint at ``url``. Raises :class:`KtlsError`: bad_config."""
    if not isinstance(url, str) or not _TARGET.match(url):
        raise _bad(source, "an endpoint is not a URL in ASCII")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _bad(source, f"endpoint {url}: {error}") from error
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise _bad(source, f"endpoint {url}: use https://HOST/PATH")
    if parts.scheme == "http" and not _loopback(host):
        raise _bad(source, f"endpoint {url}: use https; plain http is for tests on the loopback address")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _bad(source, "an endpoint has a user, a password or a fragment; flags are public, give the URL alone")
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(url, tls, host, port or (443 if tls else 80), target)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _number(source: str, key: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _bad(source, f"{key} is not a number from {low:g} to {high:g}")
    return float(value)


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart ktls-pull.service")
