# SPDX-License-Identifier: Apache-2.0
"""What the recorded series say of each host before, without and with kTLS. For pictures: the judge judges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

_FILE = re.compile(r"wave-(\d+)-(.+)\.json")
#: A series is drawn with at most this many points.
_POINTS = 160


@dataclass(frozen=True)
class Levels:
    """What a host needed and did over some samples; None: not known.

    :param cpu: CPU seconds of the serving processes per GB sent.
    :param probe_s: median of its self-probes, seconds.
    :param rate: bytes sent per second.
    """

    cpu: float | None
    probe_s: float | None
    rate: float | None
    samples: int


@dataclass(frozen=True)
class HostEvidence:
    """One host of one wave: before the order, and during the soak without (``off``) and with (``on``) kTLS.

    :param over_time: (seconds since the order, arm, CPU seconds per GB); the arm before the order is ``before``.
    """

    wave: int
    host: str
    before: Levels
    off: Levels
    on: Levels
    over_time: tuple[tuple[float, str, float], ...] = ()

    def change(self, metric: str) -> float | None:
        """Effect of kTLS as a share, positive is more: against ``off`` where the soak had it, else against before."""
        base = getattr(self.off, metric) or getattr(self.before, metric)
        value = getattr(self.on, metric)
        return None if not base or value is None else float(value) / float(base) - 1


def files(run_dir: Path) -> list[tuple[int, str, Path]]:
    """(wave, host, file), in order of waves, then by name."""
    found = []
    for path in (run_dir / "evidence").glob("wave-*.json"):
        match = _FILE.fullmatch(path.name)
        if match:
            found.append((int(match[1]), match[2], path))
    return sorted(found)


def read(run_dir: Path) -> Iterator[HostEvidence]:
    """The evidence of a run, one host at a time; files that hold no series are passed over."""
    for wave, host, path in files(run_dir):
        found = _read(wave, host, path)
        if found is not None:
            yield found


def _read(wave: int, host: str, path: Path) -> HostEvidence | None:
    try:
        series = json.loads(path.read_bytes())
        return reduce(wave, str(series.get("host") or host), series)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def reduce(wave: int, host: str, series: Mapping[str, Any]) -> HostEvidence:
    """:param series: a ``judge.model.HostSeries`` as a dict."""
    ordered = series.get("ordered_at_s")
    arms: dict[str, list[Mapping[str, Any]]] = {"before": [], "off": [], "on": []}
    over_time = []
    for sample in series["samples"]:
        arm = "before" if ordered is None or sample["at_s"] <= ordered else str(sample["arm"])
        if sample.get("washout") or arm not in arms:
            continue
        arms[arm].append(sample)
        if sample.get("cpu_s") is not None and sample.get("sent"):
            at = float(sample["at_s"]) - float(ordered if ordered is not None else series["samples"][-1]["at_s"])
            over_time.append((at, arm, sample["cpu_s"] / sample["sent"] * 1e9))
    return HostEvidence(wave, host, levels(arms["before"]), levels(arms["off"]), levels(arms["on"]), tuple(over_time))


def levels(samples: Sequence[Mapping[str, Any]]) -> Levels:
    """Sums over sums, so that a sample without traffic does not count like one with."""
    both = [one for one in samples if one.get("cpu_s") is not None and one.get("sent") is not None]
    sent = sum(one["sent"] for one in both)
    told = [one for one in samples if one.get("sent") is not None]
    seconds = sum(one["seconds"] for one in told)
    probes = [value for one in samples for value in one.get("probe_s") or ()]
    return Levels(
        cpu=sum(one["cpu_s"] for one in both) / sent * 1e9 if sent else None,
        probe_s=median(probes) if probes else None,
        rate=sum(one["sent"] for one in told) / seconds if seconds else None,
        samples=len(samples),
    )


@dataclass(frozen=True)
class Course:
    """CPU per GB over time as a change against before the order, median over hosts, one point a step.

    :param points: by arm, as in :class:`HostEvidence`.
    """

    points: Mapping[str, tuple[tuple[float, float], ...]]
    step_s: float


def course(hosts: Iterable[HostEvidence]) -> Course:
    """One course out of those of many hosts; one without a level before it takes none from it."""
    every = [
        (at, arm, value / host.before.cpu - 1) for host in hosts if host.before.cpu for at, arm, value in host.over_time
    ]
    if not every:
        return Course({}, 0.0)
    first, last = min(point[0] for point in every), max(point[0] for point in every)
    step = max(5.0, (last - first) / _POINTS)
    bins: dict[tuple[str, int], list[float]] = {}
    for at, arm, value in every:
        bins.setdefault((arm, int(at // step)), []).append(value)
    points: dict[str, list[tuple[float, float]]] = {}
    for (arm, index), values in sorted(bins.items()):
        points.setdefault(arm, []).append(((index + 0.5) * step, median(values)))
    return Course({arm: tuple(found) for arm, found in points.items()}, step)
