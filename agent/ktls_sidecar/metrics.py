# SPDX-License-Identifier: Apache-2.0
"""A report as Prometheus text, format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .faults import KERNEL_KINDS
from .mode import MODES
from .report import OK, Report, drain

_Sample = tuple[Mapping[str, str], float]


def render(report: Report) -> str:
    """Return the whole exposition."""
    counts, left = report["counts"], drain(report)
    rows = [
        ({"assigned": r["assigned"], "path": r["path"], "protocol": r["protocol"], "cipher": r["cipher"]}, r)
        for r in counts["rows"]
    ]
    about = {"version": report["version"], "openssl": report["openssl"]}
    modes: list[_Sample] = [({"mode": mode}, int(mode == report["effective_mode"])) for mode in MODES]
    families = [
        _family("info", "gauge", "What runs.", [(about, 1)]),
        _family("up", "gauge", "1 while new connections are served.", [({}, int(report["health"] == OK))]),
        _family(
            "workers", "gauge", "Worker processes that serve.", [({}, sum(w["serving"] for w in report["workers"]))]
        ),
        _family("mode", "gauge", "Mode for new connections.", modes),
        _family("share", "gauge", "Part of new connections that takes the mode.", [({}, report["share"])]),
        _family("off_flag", "gauge", "1 while an off flag exists.", [({}, int(report["off_flag"]))]),
        _family(
            "connections",
            "gauge",
            "Open connections, handshake done.",
            [(labels, row["connections"]) for labels, row in rows],
        ),
        _family(
            "connections_total",
            "counter",
            "Finished handshakes.",
            [(labels, row["connections_total"]) for labels, row in rows],
        ),
        _family(
            "bytes_total",
            "counter",
            "HTTP bytes handed to TLS for sending.",
            [(labels, row["bytes_total"]) for labels, row in rows],
        ),
        _family(
            "received_bytes_total",
            "counter",
            "HTTP bytes received through TLS.",
            [(labels, row["received_total"]) for labels, row in rows],
        ),
        _family(
            "drain_connections", "gauge", "Open connections whose kTLS is no longer ordered.", [({}, left["left"])]
        ),
        _family(
            "drain_deadline_seconds",
            "gauge",
            "Until the rest of those is cut; absent where there is no deadline.",
            [({}, left["deadline_left_s"])] if left["deadline_left_s"] is not None else [],
        ),
        _counted("fallbacks_total", "reason", "kTLS was wanted and not had.", counts["fallbacks"]),
        _counted("limited_total", "cause", "kTLS connections ended early by a limit.", counts["limited"]),
        _counted(
            "errors_total",
            "kind",
            "Faults of the server, TLS or the kernel.",
            {**dict.fromkeys(KERNEL_KINDS, 0), **counts["errors"]},
        ),
        _counted("client_aborts_total", "kind", "Connections that the client broke.", counts["client_aborts"]),
        _counted("requests_total", "code", "Responses by status.", counts["requests"]),
        _family(
            "rejected_connections_total",
            "counter",
            "Connections closed unanswered because too many were open.",
            [({}, counts["rejected"])],
        ),
    ]
    return "".join(families)


def _counted(name: str, label: str, text: str, counts: Mapping[str, int]) -> str:
    samples: list[_Sample] = [({label: key}, value) for key, value in sorted(counts.items())]
    return _family(name, "counter", text, samples)


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP ktls_sidecar_{name} {text}", f"# TYPE ktls_sidecar_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"ktls_sidecar_{name}{'{' + inside + '}' if inside else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
