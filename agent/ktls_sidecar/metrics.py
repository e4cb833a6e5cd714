# SPDX-License-Identifier: Apache-2.0
"""The counters as Prometheus text, format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .counters import Counters
from .mode import MODES

_Sample = tuple[Mapping[str, str], float]


def render(counters: Counters, mode: str, off_flag: bool, version: str, openssl: str) -> str:
    """Return the whole exposition."""
    rows = [({"path": r.path, "protocol": r.protocol, "cipher": r.cipher}, r) for r in counters.rows()]
    families = [
        _family("info", "gauge", "What runs.", [({"version": version, "openssl": openssl}, 1)]),
        _family("mode", "gauge", "Mode for new connections.", [({"mode": m}, int(m == mode)) for m in MODES]),
        _family("off_flag", "gauge", "1 while an off flag exists.", [({}, int(off_flag))]),
        _family(
            "connections",
            "gauge",
            "Open connections, handshake done.",
            [(labels, row.connections) for labels, row in rows],
        ),
        _family(
            "connections_total",
            "counter",
            "Finished handshakes.",
            [(labels, row.connections_total) for labels, row in rows],
        ),
        _family(
            "bytes_total",
            "counter",
            "HTTP bytes handed to TLS for sending.",
            [(labels, row.bytes_total) for labels, row in rows],
        ),
        _counted("fallbacks_total", "reason", "kTLS TX was wanted and not had.", counters.fallbacks),
        _counted("errors_total", "kind", "Faults of the server, TLS or the kernel.", counters.errors),
        _counted("client_aborts_total", "kind", "Connections that the client broke.", counters.client_aborts),
        _counted("requests_total", "code", "Responses by status.", counters.requests),
        _family(
            "rejected_connections_total",
            "counter",
            "Connections closed unanswered because too many were open.",
            [({}, counters.rejected)],
        ),
    ]
    return "".join(families)


def _counted(name: str, label: str, text: str, counts: Mapping[str, int] | Mapping[int, int]) -> str:
    samples: list[_Sample] = [({label: str(key)}, value) for key, value in sorted(counts.items())]
    return _family(name, "counter", text, samples)


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP ktls_sidecar_{name} {text}", f"# TYPE ktls_sidecar_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"ktls_sidecar_{name}{'{' + inside + '}' if inside else ''} {value}")
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
