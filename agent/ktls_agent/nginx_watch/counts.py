# SPDX-License-Identifier: Apache-2.0
"""What nginx's log lines add up to. Pure. The format is that of :mod:`ktls_host.nginx.dropin`.

A request is counted when it ends: that is when nginx logs it. Which mode its worker was started with is in the line.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ktls_host.nginx.dropin import FIELDS, MARK, TAG

_LINE = re.compile(rb"\A<\d+>[A-Z][a-z]{2} [ \d]\d [\d:]{8} (?:[^ ]+ )?" + TAG.encode() + rb": (.+)\Z", re.DOTALL)
_MODES = ("userspace", "tx", "rx")
_MAX_ROWS = 64
_OTHER = "other"
_CLOSED_EARLY = 499  # of nginx: the client has closed the connection (ngx_http_request.h)
_OWN_FAULT = 500
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


@dataclass
class Row:
    """Requests of one (mode ordered for the worker, protocol, cipher). Bytes are of HTTP, headers included."""

    connections_total: int = 0
    bytes_total: int = 0
    received_total: int = 0
    requests_total: int = 0
    seconds: float = 0.0


@dataclass
class Counts:
    """Everything since the start of the watch. ``strange``: lines that nobody here can read."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    errors_by_mode: Counter[str] = field(default_factory=Counter)
    aborts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    strange: int = 0

    def take(self, datagram: bytes) -> None:
        """Count one log line, as syslog(3) frames it. Never raises."""
        values = fields(datagram)
        if values is None:
            self.strange += 1
            return
        try:
            status, sent, received = (int(values[name]) for name in ("status", "bytes_sent", "request_length"))
            seconds, number = float(values["request_time"]), int(values["connection_requests"])
        except ValueError:
            self.strange += 1
            return
        mode = values["ktls_mode"]
        row = self._row(mode, values["ssl_protocol"], values["ssl_cipher"])
        row.connections_total += number == 1
        row.bytes_total += sent
        row.received_total += received
        row.requests_total += 1
        row.seconds += seconds
        self.statuses[f"{status // 100}xx"] += 1
        if status == _OWN_FAULT:
            self.errors["http_500"] += 1
            self.errors_by_mode[mode] += 1
        if status == _CLOSED_EARLY:
            self.aborts["closed_early"] += 1
        elif values["request_completion"] != "OK":
            self.aborts["incomplete"] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "rows": [
                {
                    "assigned": mode,
                    "protocol": protocol,
                    "cipher": cipher,
                    "connections_total": row.connections_total,
                    "bytes_total": row.bytes_total,
                    "received_total": row.received_total,
                    "requests_total": row.requests_total,
                    "request_seconds_total": round(row.seconds, 3),
                }
                for (mode, protocol, cipher), row in sorted(self.rows.items())
            ],
            "errors": dict(self.errors),
            "errors_by_mode": dict(self.errors_by_mode),
            "client_aborts": dict(self.aborts),
            "requests": dict(self.statuses),
            "strange": self.strange,
        }

    def _row(self, mode: str, protocol: str, cipher: str) -> Row:
        key = (mode, protocol, cipher)
        if key not in self.rows and len(self.rows) >= _MAX_ROWS:
            key = (mode, _OTHER, _OTHER)
        return self.rows.setdefault(key, Row())


def fields(datagram: bytes) -> dict[str, str] | None:
    """Return the values of a line by name; None for a line that is not ours."""
    found = _LINE.match(datagram)
    if found is None:
        return None
    words = found[1].decode("ascii", "replace").rstrip("\n").split(" ")
    if len(words) != len(FIELDS) + 1 or words[0] != MARK:
        return None
    values = dict(zip(FIELDS, words[1:]))
    names = (values["ssl_protocol"], values["ssl_cipher"])
    return values if values["ktls_mode"] in _MODES and all(map(_NAME.match, names)) else None
