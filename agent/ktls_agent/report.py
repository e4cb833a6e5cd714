# SPDX-License-Identifier: Apache-2.0
"""``ktls-agent report``: the evidence of this host, as the agent's metrics socket has it, for people and programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.exchange import exchange

UNKNOWN = "unknown"  # what the kernel does not tell of userspace TLS; metrics/kernel.py
LIMIT = 16 * 1024 * 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_PATHS = ("ktls", "userspace", "unknown")
_SHOWN = 20  # rows of a table: the rest is in the JSON


def fetch(path: str, timeout_s: float) -> dict[str, Any]:
    """Return the document of the agent that listens at ``path``.

    Raises :class:`KtlsError`: unreachable, timeout, protocol.
    """
    request = b"GET /report.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(path, request, LIMIT, timeout_s)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].split(b" ")[1:2]
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status != [b"200"] or not isinstance(document, dict) or "schema" not in document:
        raise KtlsError("protocol", f"{path} answered without a report; see the log of ktls-agent")
    return document


def render(report: Mapping[str, Any]) -> str:
    """Return the page for a terminal."""
    lines = ("".join(char if char.isprintable() else "?" for char in line) for line in _page(report))
    return "\n".join(lines)


def _page(report: Mapping[str, Any]) -> Iterator[str]:
    host, agent = report["host"], report["agent"]
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report["at"]))
    yield f"{host['name']}  {at}  ktls-agent {report['version']}"
    yield f"Linux {host['kernel']}, {host['openssl']}"
    yield ""
    yield from _state(report)
    evidence = report["evidence"]
    yield from _shares(report["shares"])
    if evidence is None:
        yield from ("", "Kernel: no evidence yet")
    else:
        yield from _connections(evidence["connections"], evidence["age_s"])
        yield from _cpu(report["cpu"])
    yield from _activation(report["activation"])
    yield from _counts(report)
    yield ""
    memory = "not known" if agent["resident_bytes"] is None else _bytes(agent["resident_bytes"])
    yield f"Agent: {memory} resident, {agent['cpu_s']:.1f} s of CPU in {_age(agent['uptime_s'])}"
    for problem in report["problems"]:
        yield f"PROBLEM: {problem}"


def _state(report: Mapping[str, Any]) -> Iterator[str]:
    phase, order, off, probe = report["phase"], report["order"], report["off"], report["probe"]
    observed = phase["observed"] or "not known"
    yield f"Phase   ordered {phase['ordered']}, observed {observed}{', DRIFT' if phase['drift'] else ''}"
    words = f"Order   {order['order']}"
    if order["order_id"]:
        words += f" ({order['order_id']}, epoch {order['epoch']})"
    if order["lease_left_s"] is not None:
        words += f", reverts in {order['lease_left_s']:.0f} s unless confirmed"
    if order["order"] == "reverted" and order["revert_reason"]:
        words += f": {order['revert_reason']}"
    yield words
    if off["flag"]:
        since = "" if off["age_s"] is None else f" for {_age(off['age_s'])}"
        yield f"Off     LATCHED{since}: {off['reason'] or 'no reason given'}"
    else:
        yield "Off     not set"
    if probe:
        path = {True: "kTLS", False: "userspace", None: "path not known"}[probe["ktls_tx"]]
        what = "ok" if probe["ok"] else f"FAILED: {probe['error']}"
        yield f"Probe   {what} ({path}, {probe['protocol']} {probe['cipher']}), {_age(probe['at_age_s'])} ago"
    else:
        yield "Probe   none yet"


def _shares(shares: Mapping[str, Any]) -> Iterator[str]:
    rows: list[Sequence[str]] = []
    for witness in ("kernel", "sidecar"):
        found = shares[witness]
        if found is None:
            continue
        for direction in ("sent", "received"):
            share = found[direction]
            lost = share.get("unattributed_bytes")
            rest = "" if lost is None else _bytes(lost)
            whole = _bytes(share["ktls_bytes"] + share["userspace_bytes"] + (lost or 0))
            rows.append((witness, direction, "all", _percent(share["ktls_ratio"]), whole, rest))
            rows.extend(("", "", _kind(one), _percent(one["ktls_ratio"]), _total(one), "") for one in share["by"])
    yield ""
    yield "Bytes by kTLS"
    head = ("witness", "direction", "protocol and cipher", "kTLS", "of", "unattributed")
    yield from _table(head, rows, right=(3, 4, 5))


def _connections(rows: Sequence[Mapping[str, Any]], age_s: float) -> Iterator[str]:
    yield ""
    yield f"Connections, as the kernel had them {_age(age_s)} ago"
    head = ("port", "process", "version", "cipher", "tx", "rx", "open")
    ordered = sorted(rows, key=lambda row: -int(row["connections"]))
    body = [
        (str(r["port"]), r["process"], r["version"] or "-", r["cipher"] or "-", r["tx"], r["rx"], str(r["connections"]))
        for r in ordered
    ]
    yield from _table(head, body, right=(0, 6))


def _cpu(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "Cost of serving"
    body = [
        (
            row["process"],
            str(row["processes"]),
            f"{row['cpu_s']:.2f} s",
            _bytes(row["bytes"]),
            "-" if row["ns_per_byte"] is None else f"{row['ns_per_byte']:.2f} ns",
        )
        for row in rows
    ]
    yield from _table(("process", "processes", "CPU", "bytes", "CPU a byte"), body, right=(1, 2, 3, 4))


def _activation(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "Connections that were to use kTLS, and did"
    body = [(r["direction"], _kind(r), str(r["attempted"]), str(r["active"]), _percent(r["ratio"])) for r in rows]
    yield from _table(("direction", "protocol and cipher", "attempted", "active", ""), body, right=(2, 3, 4))


def _counts(report: Mapping[str, Any]) -> Iterator[str]:
    sidecar, evidence = report["sidecar"], report["evidence"]
    yield ""
    if not sidecar["up"]:
        yield f"Sidecar NOT SERVING: {sidecar.get('error') or sidecar.get('health')}"
    for title, key in (("Errors", "errors"), ("Fallbacks", "fallbacks"), ("Client aborts", "client_aborts")):
        if sidecar.get(key) is not None:
            yield f"{title}: {_listed(sidecar[key])}"
    if evidence is not None:
        stats: dict[str, int] = {}
        for counters in evidence["namespaces"].values():
            for name, value in counters.items():
                stats[name] = stats.get(name, 0) + value
        bad = {name: value for name, value in stats.items() if value and ("Error" in name or "Resync" in name)}
        yield f"Kernel errors: {_listed(bad)}"
        ended = sum(row["ended"] for row in evidence["ended"])
        cut = {path: sum(row["cut"] for row in evidence["ended"] if row["path"] == path) for path in _PATHS}
        yield f"Connections ended: {ended}; cut under way: {_listed(cut)}"
        yield f"Lost events: {evidence['lost_events']}; kernel warnings: {evidence['kernel_warnings']}"
        if evidence["kernel_warning"]:
            yield f"  last: {evidence['kernel_warning']}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int]) -> Iterator[str]:
    """Columns as wide as they must be; a long table is cut, and says so."""
    if not rows:
        yield "  none"
        return
    shown = [head, *rows[:_SHOWN]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    flush = set(right)
    for row in shown:
        cells = (
            cell.rjust(width) if column in flush else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        yield "  " + "  ".join(cells).rstrip()
    if len(rows) > _SHOWN:
        yield f"  and {len(rows) - _SHOWN} more: see --json"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "none"


def _kind(row: Mapping[str, Any]) -> str:
    return "not known" if row["protocol"] == UNKNOWN else f"{row['protocol']} {row['cipher']}"


def _total(share: Mapping[str, Any]) -> str:
    return _bytes(share["ktls_bytes"] + share["userspace_bytes"])


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f} %"


def _bytes(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
