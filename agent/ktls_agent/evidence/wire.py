# SPDX-License-Identifier: Apache-2.0
"""A snapshot as JSON, between the helper and the agent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import MAX_LINE

from .model import End, Ended, Kind, ProcessUse, Snapshot, Volume

_PLAIN = ("at_s", "since_s", "destroyed", "vanished", "lost_events", "scan_cpu_s", "kernel_warnings", "kernel_warning")
_LATER = ("clients", "ktls_clients", "judged_s")  # came after the first release
_VOLUMES = ("unattributed", "inferred", "held", "presumed")
_ROOM = 512  # for what is around it in an answer


def encode(snapshot: Snapshot) -> dict[str, Any]:
    """Return plain JSON types, short enough for one answer: without NIC counters where there are too many."""
    plain = _encode(snapshot)
    if len(json.dumps(plain)) > MAX_LINE - _ROOM:
        problems = (*snapshot.problems, "NIC counters are left out: the answer would be too long")
        plain = _encode(replace(snapshot, nic={}, problems=problems))
    return plain


def _encode(snapshot: Snapshot) -> dict[str, Any]:
    kinds = sorted({*snapshot.connections, *snapshot.volumes})
    nothing = Volume()
    return {
        **{name: getattr(snapshot, name) for name in (*_PLAIN, *_LATER)},
        **{name: _pair(getattr(snapshot, name)) for name in _VOLUMES},
        "namespaces": {name: dict(counters) for name, counters in snapshot.namespaces.items()},
        "kinds": [
            [
                *(kind.port, kind.process, kind.version, kind.cipher, kind.tx, kind.rx),
                snapshot.connections.get(kind, 0),
                *_pair(snapshot.volumes.get(kind, nothing)),
            ]
            for kind in kinds
        ],
        "ended": [
            [end.port, end.process, end.path, found.number, found.cut] for end, found in sorted(snapshot.ended.items())
        ],
        "tcp": {name: dict(counters) for name, counters in snapshot.tcp.items()},
        "processes": [[use.process, use.processes, use.cpu_s] for use in snapshot.processes],
        "nic": {name: dict(counters) for name, counters in snapshot.nic.items()},
        "problems": list(snapshot.problems),
    }


def decode(plain: Any) -> Snapshot:
    """Return the snapshot. Raises :class:`KtlsError`: protocol."""
    try:
        connections: dict[Kind, int] = {}
        volumes: dict[Kind, Volume] = {}
        for port, process, version, cipher, tx, rx, number, sent, received in plain["kinds"]:
            texts = (_text(process), _text(version), _text(cipher), _text(tx), _text(rx))
            kind = Kind(_number(port), *texts)
            if _number(number):
                connections[kind] = number
            volumes[kind] = _volume([sent, received])
        return Snapshot(
            at_s=_seconds(plain["at_s"]),
            since_s=_seconds(plain["since_s"]),
            scan_cpu_s=_seconds(plain["scan_cpu_s"]),
            destroyed=_number(plain["destroyed"]),
            vanished=_number(plain["vanished"]),
            ended={
                End(_number(port), _text(process), _text(path)): Ended(_number(number), _number(cut))
                for port, process, path, number, cut in plain["ended"]
            },
            tcp=_counters(plain["tcp"]),
            lost_events=_number(plain["lost_events"]),
            kernel_warnings=_number(plain["kernel_warnings"]),
            kernel_warning=_text(plain["kernel_warning"]),
            unattributed=_volume(plain["unattributed"]),
            inferred=_volume(plain["inferred"]),
            held=_volume(plain["held"]),
            # A helper of the version before, which may answer for a moment during an upgrade, has no such keys.
            presumed=_volume(plain.get("presumed", [0, 0])),
            judged_s=_seconds(plain.get("judged_s", 0)),
            clients=_number(plain.get("clients", 0)),
            ktls_clients=_number(plain.get("ktls_clients", 0)),
            namespaces=_counters(plain["namespaces"]),
            connections=connections,
            volumes=volumes,
            processes=tuple(
                ProcessUse(_text(name), _number(number), _seconds(cpu_s)) for name, number, cpu_s in plain["processes"]
            ),
            nic=_counters(plain["nic"]),
            problems=tuple(_text(problem) for problem in plain["problems"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"the helper sent evidence that cannot be read ({error}); restart ktls-diag.service"
        raise KtlsError("protocol", message) from error


def _pair(volume: Volume) -> list[int]:
    return [volume.sent, volume.received]


def _volume(pair: Any) -> Volume:
    sent, received = pair
    return Volume(_number(sent), _number(received))


def _counters(plain: Any) -> dict[str, dict[str, int]]:
    return {
        _text(name): {_text(key): _number(value) for key, value in counters.items()} for name, counters in plain.items()
    }


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"{value!r} is not a time")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value
