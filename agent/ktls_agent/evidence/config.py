# SPDX-License-Identifier: Apache-2.0
"""The section ``evidence`` of the agent's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ktls_host.errors import KtlsError

_LIST_LIMIT = 256


@dataclass(frozen=True)
class EvidenceConfig:
    """How often the host is looked at, and what for.

    ``interval_s``: seconds between full scans. ``sample_s``: least seconds between the small ones in between, which see
    short connections; 0 for none. ``sample_share``: most of one core that these take, as a fraction; where a look is
    dear, they are fewer. Who serves is found by the TLS library that listening processes map. ``ports`` and
    ``processes`` (units without ``.service``, or programs) serve whatever they map: a program with its library linked
    in shows none.
    """

    interval_s: float = 10.0
    sample_s: float = 1.0
    sample_share: float = 0.0015
    ports: tuple[int, ...] = ()
    processes: tuple[str, ...] = ()


def parse(raw: Any, source: str) -> EvidenceConfig:
    """Check ``raw``; an empty object is the default. Raises :class:`KtlsError`: bad_config."""
    if not isinstance(raw, dict):
        raise _bad(source, "evidence is not an object")
    raw = dict(raw)
    default = EvidenceConfig()
    found = EvidenceConfig(
        interval_s=_seconds(raw.pop("interval_s", default.interval_s), 1, source, "interval_s"),
        sample_s=_seconds(raw.pop("sample_s", default.sample_s), 0.2, source, "sample_s", zero=True),
        sample_share=_share(raw.pop("sample_share", default.sample_share), source, "sample_share"),
        ports=tuple(_list(raw.pop("ports", []), _is_port, "port numbers", source, "ports")),
        processes=tuple(_list(raw.pop("processes", []), _is_name, "names", source, "processes")),
    )
    for key in raw:
        raise _bad(source, f"unknown key evidence.{key}")
    return found


def _seconds(value: Any, least: float, source: str, key: str, zero: bool = False) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (least <= value <= 3600 or (zero and value == 0)):
        raise _bad(
            source, f"evidence.{key} is not a number of seconds from {least:g} to 3600{', or 0' if zero else ''}"
        )
    return float(value)


def _share(value: Any, source: str, key: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0001 <= value <= 0.5:
        raise _bad(source, f"evidence.{key} is not a fraction from 0.0001 to 0.5")
    return float(value)


def _list(value: Any, good: Any, what: str, source: str, key: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > _LIST_LIMIT or not all(good(item) for item in value):
        raise _bad(source, f"evidence.{key} is not a list of at most {_LIST_LIMIT} {what}")
    return value


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 255 and value.isprintable()


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart the agent")
