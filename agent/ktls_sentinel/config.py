# SPDX-License-Identifier: Apache-2.0
"""The configuration of the sentinel: /etc/ktls/sentinel.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ktls_host import configfile
from ktls_host.errors import KtlsError
from ktls_host.probe_object import PROBE_NAME, PROBE_SIZE

from .blocks import BLOCK

DEFAULT_PATH = "/etc/ktls/sentinel.json"
SOCKET = "/run/ktls-sentinel/sentinel.sock"
STATE_DIR = "/var/lib/ktls-sentinel"
MAX_TARGETS = 100
"""So that the status of all of them fits into one line of the socket."""
MIN_BYTES = 4096

_INTERFACE = re.compile(r"[!-.0-~]{1,15}\Z")  # IFNAMSIZ is 16 with the final zero; no slash
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:%_-]{0,252}\Z|::[0-9A-Fa-f:.]{0,40}\Z")
_SERVER_NAME = re.compile(r"[A-Za-z0-9*][A-Za-z0-9.:_-]{0,252}\Z")
_PATH = re.compile(r"/[!-~]{0,1023}\Z")
_MAX_WORDS, _MAX_WORD = 64, 4096


@dataclass(frozen=True)
class Target:
    """A host that is watched. ``name`` is its name in the inventory, and in the status."""

    name: str
    host: str
    port: int
    server_name: str
    path: str = f"/{PROBE_NAME}"


@dataclass(frozen=True)
class SentinelConfig:
    """What is watched, where, and how often. Times in seconds."""

    interface: str
    targets: tuple[Target, ...]
    ca: str | None = None
    """File with the authorities of the targets; ``None``: those of the system."""
    interval_s: float = 15.0
    """Between two downloads of a target, give or take a quarter."""
    timeout_s: float = 10.0
    """For one whole download."""
    bytes: int = PROBE_SIZE
    """Of the probe file for each download: all, or some with a range that is drawn anew each time."""
    tls: str = "1.2"
    """``1.2``: TLS 1.2 with AES-GCM only, which is what a card can take; ``any``: what both ends like best."""
    workers: int = 4
    """Downloads at the same time."""
    on_leak: tuple[str, ...] = ()
    """A command with its arguments, run once when a leak is found; empty: none."""
    socket: str = SOCKET
    state_dir: str = STATE_DIR


def load(path: str = DEFAULT_PATH) -> SentinelConfig:
    """Read the configuration at ``path``. Raises :class:`KtlsError`: bad_config."""
    return parse(configfile.read(path, "run playbook sentinel.yml"), path)


def parse(raw: Any, source: str) -> SentinelConfig:
    """Check ``raw``. Raises :class:`KtlsError`: bad_config, naming ``source`` and the key."""
    if not isinstance(raw, dict):
        raise _bad(source, "is not an object")
    raw = dict(raw)
    interface = raw.pop("interface", None)
    if not isinstance(interface, str) or not _INTERFACE.match(interface):
        raise _bad(source, "interface is not the name of one")
    given = raw.pop("targets", None)
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_TARGETS:
        raise _bad(source, f"targets is not a list of 1 to {MAX_TARGETS}; share more among several sentinels")
    targets = tuple(_target(source, f"targets[{index}]", each) for index, each in enumerate(given))
    if len({target.name for target in targets}) < len(targets):
        raise _bad(source, "targets has two of one name")
    more: dict[str, Any] = {}
    for key, low, high in (("interval_s", 1.0, 3600.0), ("timeout_s", 1.0, 120.0)):
        if key in raw:
            more[key] = float(_number(source, key, raw.pop(key), low, high))
    for key, low, high in (("bytes", MIN_BYTES, PROBE_SIZE), ("workers", 1, 16)):
        if key in raw:
            more[key] = _whole(source, key, raw.pop(key), low, high)
    if more.get("bytes", PROBE_SIZE) % BLOCK:
        raise _bad(source, f"bytes is not a multiple of {BLOCK}")
    if "tls" in raw:
        more["tls"] = raw.pop("tls")
        if more["tls"] not in ("1.2", "any"):
            raise _bad(source, 'tls is neither "1.2" nor "any"')
    for key in ("ca", "socket", "state_dir"):
        if key in raw:
            more[key] = raw.pop(key)
            if more[key] is None and key == "ca":
                continue
            if not isinstance(more[key], str) or not more[key].startswith("/") or "\0" in more[key]:
                raise _bad(source, f"{key} is not an absolute path")
    if "on_leak" in raw:
        more["on_leak"] = _command(source, raw.pop("on_leak"))
    if raw:
        raise _bad(source, f"unknown key {sorted(str(key) for key in raw)[0]}")
    return SentinelConfig(interface, targets, **more)


def _target(source: str, place: str, raw: Any) -> Target:
    if not isinstance(raw, Mapping):
        raise _bad(source, f"{place} is not an object")
    raw = dict(raw)
    texts: dict[str, str] = {}
    patterns = {"name": _NAME, "host": _HOST, "server_name": _SERVER_NAME, "path": _PATH}
    for key, pattern in patterns.items():
        if key == "path" and key not in raw:
            continue
        value = raw.pop(key, None)
        if not isinstance(value, str) or not pattern.match(value):
            raise _bad(source, f"{place}.{key} is missing or cannot be one")
        texts[key] = value
    port = _whole(source, f"{place}.port", raw.pop("port", None), 1, 65535)
    if raw:
        raise _bad(source, f"{place} has the unknown key {sorted(str(key) for key in raw)[0]}")
    return Target(port=port, **texts)


def _command(source: str, value: Any) -> tuple[str, ...]:
    words = value if isinstance(value, list) else None
    if words is None or len(words) > _MAX_WORDS:
        raise _bad(source, f"on_leak is not a list of up to {_MAX_WORDS} words")
    for word in words:
        if not isinstance(word, str) or len(word) > _MAX_WORD or "\0" in word:
            raise _bad(source, "on_leak has something that is no word of a command")
    if words and not words[0].startswith("/"):
        raise _bad(source, "on_leak does not begin with the absolute path of a program")
    return tuple(words)


def _whole(source: str, key: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int):
        raise _bad(source, f"{key} is not a whole number from {low} to {high}")
    return int(_number(source, key, value, low, high))


def _number(source: str, key: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _bad(source, f"{key} is not a number from {low:g} to {high:g}")
    return value


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart ktls-sentinel.service")
