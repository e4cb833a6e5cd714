# SPDX-License-Identifier: Apache-2.0
"""What a report says, worked out of a run's directory, ready to be put into the page."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..plan import datapaths
from ..plan import file as plan_file
from ..plan.model import Plan
from ..rollout.state import HostState, RunState, WaveState, fold
from . import cards, charts, drain, evidence, journal, standing, story, verdicts, words

#: Rows of hosts that a table shows unasked.
_ROWS = 60
#: Raw data larger than this (bytes, packed) stays beside the report: a page has to open at once.
_EMBED_BYTES = 6_000_000
_EVENT_ROWS = 600

_TITLES = {
    "completed": "every wave passed its gate and was confirmed",
    "failed": "it failed, and went back",
    "aborted": "aborted by an operator",
    "off": "switched off",
    "running": "still under way",
}


@dataclass(frozen=True)
class Download:
    """Raw data in the page: ``href`` is a data URI; None: too large, ``where`` says where it is."""

    name: str
    what: str
    href: str | None
    where: str
    size: int


@dataclass
class WavePage:
    """One wave's section."""

    number: int
    title: str
    state: WaveState
    verdict: Mapping[str, Any] | None
    looks: list[tuple[str, str, str]]
    forest: str
    e_path: str
    overlay: str
    slopes: list[tuple[str, str]]
    spread: str
    times: list[tuple[str, str]]
    took: str
    waited: str
    rollback_s: float | None
    recheck: list[tuple[str, str]]
    planned: str
    detectable: str
    unwell: list[HostRow]

    @property
    def tells(self) -> bool:
        """There is more to it than its row in the table of waves."""
        said = self.verdict is not None and self.verdict["outcome"] != "pass"
        return bool(said or self.forest or self.e_path or self.overlay or self.slopes or self.unwell or self.recheck)


@dataclass(frozen=True)
class HostRow:
    """One host in a table."""

    wave: int
    name: str
    state: str
    bad: bool
    share: str
    connections: str
    before: str
    off: str
    on: str
    change: str
    info: str
    served: str = ""


@dataclass
class Page:
    """All that the template reads."""

    run_dir: Path
    state: RunState
    plan: Plan | None
    plan_note: str
    title: str
    now: float
    facts: list[tuple[str, str]] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    timeline: str = ""
    kinds: list[tuple[str, str, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    waves: list[WavePage] = field(default_factory=list)
    hosts: list[HostRow] = field(default_factory=list)
    off: dict[str, Any] | None = None
    refusals: list[dict[str, Any]] = field(default_factory=list)
    cards: list[cards.Row] = field(default_factory=list)
    sentinels: list[tuple[str, str, str]] = field(default_factory=list)
    plaintext: str = ""
    chain: str = ""
    chain_ok: bool = True
    controls: list[tuple[str, str, str, str]] = field(default_factory=list)
    notified: list[tuple[str, str, str, bool, str]] = field(default_factory=list)
    not_delivered: int = 0
    events: list[tuple[str, str, str]] = field(default_factory=list)
    events_cut: int = 0
    downloads: list[Download] = field(default_factory=list)


def build(run_dir: Path, now: float, off: Mapping[str, Any] | None = None) -> Page:
    """Read everything there is of a run.

    :param off: what ``ktls off --json`` said; None: the last ``off*.json`` in the run's directory.
    :raises ControlError: ``no_journal``.
    """
    log = journal.load(run_dir / "journal.jsonl")
    state, told = fold(log.events), story.tell(log.events)
    for wave in state.waves:
        wave.verdicts = [verdicts.whole(verdict) for verdict in wave.verdicts]
    plan, plan_note = _plan(run_dir, state)
    until = state.ended if state.ended is not None else now
    page = Page(run_dir, state, plan, plan_note, _TITLES.get(state.outcome, state.outcome), now)
    found = list(evidence.read(run_dir))
    by_wave: dict[int, dict[str, evidence.HostEvidence]] = {}
    for one in found:
        by_wave.setdefault(one.wave, {})[one.host] = one
    names = {wave.number: _name(wave) for wave in state.waves}
    page.timeline = charts.timeline(told, names, now) if told.spans else ""
    page.kinds = _kinds(told, until)
    reach = charts.reach_of([wave.verdicts[-1] for wave in state.waves if wave.verdicts])
    page.columns = _columns(state)
    for wave in state.waves:
        rows = [
            _row(wave, name, host, by_wave.get(wave.number, {}).get(name), _served(plan, state, name))
            for name, host in wave.hosts.items()
        ]
        page.hosts += rows
        if wave.state != "waiting":
            page.waves.append(_wave(wave, told, until, plan, by_wave.get(wave.number, {}), reach, rows))
    page.hosts.sort(key=lambda row: not row.bad)
    page.facts, page.tiles = _facts(page, until), _tiles(page, told, until)
    page.off = _off(off if off is not None else _last_off(run_dir))
    page.refusals = _refusals(plan)
    page.cards, page.plaintext = cards.rows(state, plan), cards.fleet_off(state) or ""
    page.sentinels = [
        (names[wave.number], str(wave.sentinel["sight"]), str(wave.sentinel["why"]))
        for wave in state.waves
        if wave.sentinel
    ]
    page.chain_ok, page.chain = _chain(log)
    page.controls = [
        (words.moment(event["at"]), str(event["verb"]), str(event["by"]), str(event.get("why") or ""))
        if event["event"] == "control"
        else (words.moment(event["at"]), "resume", str(event["operator"]), "the controller was started again")
        for event in log.events
        if event["event"] in ("control", "run_resumed")
    ]
    page.notified = [
        (
            words.moment(event["at"]),
            str(event["trigger"]),
            str(event.get("to") or ""),
            bool(event["ok"]),
            str(event.get("error") or ""),
        )
        for event in log.events
        if event["event"] == "notified"
    ]
    page.not_delivered = sum(not ok for _at, _trigger, _to, ok, _error in page.notified)
    lines = list(_condensed(log.events))
    page.events, page.events_cut = lines[:_EVENT_ROWS], max(0, len(lines) - _EVENT_ROWS)
    page.downloads = _downloads(run_dir, found, page.hosts)
    return page


def _plan(run_dir: Path, state: RunState) -> tuple[Plan | None, str]:
    try:
        plan = plan_file.load(run_dir / "plan.yml")
    except ControlError as error:
        return None, error.message
    if plan.sha256 != state.plan_sha256:
        return plan, "the plan beside the journal is not the one that the run was started with"
    return plan, ""


def _columns(state: RunState) -> list[str]:
    """Metrics for the table of all waves: those with an interval anywhere, as the judge orders them."""
    found: dict[str, None] = {}
    for wave in state.waves:
        for one in verdicts.shown(wave.verdicts[-1]) if wave.verdicts else ():
            if one.get("effect") is not None and not one["name"].partition("@")[0].endswith(("_worst_host", "_tail")):
                found[str(one["name"])] = None
    return list(found)[:4]


def _name(wave: WaveState) -> str:
    return wave.name if wave.name == f"wave {wave.number}" else f"wave {wave.number}: {wave.name}"


def _last_off(run_dir: Path) -> Mapping[str, Any] | None:
    """What the last off of the run said that said anything."""
    for path in sorted(run_dir.glob("off*.json"), reverse=True):
        found = _json(path)
        if drain.read(found):
            return found
    return None


def _json(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _facts(page: Page, until: float) -> list[tuple[str, str]]:
    state, plan = page.state, page.plan
    facts = [
        ("run", state.run),
        ("fleet", state.fleet),
        ("phase", state.shown_phase),
        ("epoch", str(state.epoch)),
        ("operator", state.operator),
        ("started", words.moment(state.started)),
        ("ended", words.moment(state.ended) if state.ended is not None else "under way"),
        ("plan", state.plan_sha256[:12]),
    ]
    if state.datapaths:
        facts.append(("served by", ", ".join(f"{name} ×{count:,}" for name, count in state.datapaths.items())))
    if plan:
        expected = f", {words.duration(plan.expected_s)} planned" if plan.expected_s else ""
        facts += cards.facts(plan)
        facts.append(("took", f"{words.duration(until - state.started)}{expected}"))
    return facts


def _tiles(page: Page, told: story.Story, until: float) -> list[tuple[str, str, str]]:
    state = page.state
    counted = standing.counted(state)
    total = sum(counted.values())
    promoted = sum(wave.state == "promoted" for wave in state.waves)
    tiles = [
        ("hosts confirmed", f"{counted.get('confirmed', 0):,} of {total:,}", ""),
        ("waves promoted", f"{promoted} of {len(state.waves)}", ""),
    ]
    bad = len(state.failed)
    if bad or page.plan:
        budget = f"budget {page.plan.failure_budget}" if page.plan else ""
        tiles.append(("hosts failed or lost", str(bad), budget))
    judged = [wave.verdicts[-1] for wave in state.waves if wave.verdicts]
    for metric in verdicts.shown(judged[-1]) if judged else ():
        name = {"cpu": "CPU per byte", "latency": "latency"}.get(metric["name"])
        if name and metric.get("effect") is not None:
            told_of = words.interval(metric.get("low"), metric.get("high"))
            tiles.append((name, words.percent(metric["effect"], sign=True), told_of))
    by_person = sum(
        seconds
        for wave in state.waves
        for kind, seconds in told.seconds(wave.number, until).items()
        if kind in story.BY_PERSON
    )
    if by_person:
        tiles.append(("waited for people", words.duration(by_person), ""))
    if told.rollbacks:
        tiles.append(("going back took", words.duration(max(told.rollbacks.values())), "longest wave"))
    return tiles


def _kinds(told: story.Story, until: float) -> list[tuple[str, str, str]]:
    total: dict[str, float] = {}
    for wave in {span.wave for span in told.spans}:
        for kind, seconds in told.seconds(wave, until).items():
            total[kind] = total.get(kind, 0.0) + seconds
    return [(kind, charts.kind_name(kind), words.duration(total[kind])) for kind in story.KINDS if kind in total]


def _wave(
    wave: WaveState,
    told: story.Story,
    until: float,
    plan: Plan | None,
    found: Mapping[str, evidence.HostEvidence],
    reach: tuple[float, float],
    rows: Sequence[HostRow],
) -> WavePage:
    planned = standing.planned(plan, wave.number)
    gates = plan.gates if plan else None
    verdict = wave.verdicts[-1] if wave.verdicts else None
    hosts = list(found.values())
    changes = [(one.host, change) for one in hosts if (change := one.change("cpu")) is not None]
    pictures = [
        (name, drawn)
        for name, metric, unit, factor in (
            ("CPU", "cpu", "CPU s per GB", 1.0),
            ("Self-probe", "probe_s", "ms, median self-probe", 1000.0),
            ("Throughput", "rate", "MB/s sent", 1e-6),
        )
        if (drawn := charts.slopes(hosts, metric, unit, factor))
    ]
    spent = told.seconds(wave.number, until)
    waits = [
        (kind, seconds) for kind, seconds in spent.items() if kind in story.BY_PERSON or kind in ("freeze", "absent")
    ]
    detectable = ""
    if planned:
        known = [
            f"{words.metric(name)} {words.percent(value)}"
            for name, value in planned.detectable.items()
            if value is not None
        ]
        detectable = ", ".join(known)
    return WavePage(
        number=wave.number,
        title=_name(wave),
        state=wave,
        verdict=verdict,
        looks=[
            (words.moment(one["at"]), str(one["outcome"]), "; ".join(one.get("reasons") or ()))
            for one in wave.verdicts[:-1]
        ],
        forest=charts.forest(verdict, reach) if verdict and verdicts.shown(verdict) else "",
        e_path=charts.e_path(path, verdicts.limit(verdict, plan))
        if verdict and (path := verdicts.path(verdict))
        else "",
        overlay=charts.overlay(evidence.course(hosts)) or "",
        slopes=pictures,
        spread=charts.spread(changes, gates.cpu_margin if gates else 0.03) if len(changes) > 1 else "",
        times=[(charts.kind_name(kind), words.duration(seconds)) for kind, seconds in spent.items()],
        took=words.duration(sum(spent.values())),
        waited=", ".join(f"{charts.kind_name(kind)} {words.duration(seconds)}" for kind, seconds in waits),
        rollback_s=told.rollbacks.get(wave.number),
        recheck=list(_pairs(verdict.get("recheck") if verdict else None)),
        planned=_soak_words(planned.soak) if planned else "",
        detectable=detectable,
        unwell=[row for row in rows if row.bad],
    )


def _soak_words(soak: Any) -> str:
    wanted = [f"{words.duration(soak.min_s)} to {words.duration(soak.max_s)}"]
    if soak.min_connections:
        wanted.append(f"{soak.min_connections:,} connections")
    wanted.append(f"{words.size(soak.min_bytes)} from each host")
    return ", ".join(wanted)


def _pairs(found: object) -> Iterable[tuple[str, str]]:
    if isinstance(found, Mapping):
        for host, why in found.items():
            yield str(host), "; ".join(map(str, why)) if isinstance(why, (list, tuple)) else str(why)
    elif isinstance(found, (list, tuple)):
        for one in found:
            yield str(one), ""


def _served(plan: Plan | None, state: RunState, name: str) -> str:
    """By what a host is served, where that is not the same everywhere."""
    return datapaths.title(plan.hosts[name].datapath) if state.datapaths and plan and name in plan.hosts else ""


def _row(wave: WaveState, name: str, host: HostState, found: evidence.HostEvidence | None, served: str = "") -> HostRow:
    def cpu(levels: evidence.Levels | None) -> str:
        return f"{levels.cpu:.3f}" if levels and levels.cpu is not None else ""

    change = found.change("cpu") if found else None
    share, connections = host.seen.get("share"), host.seen.get("connections")
    judged = (wave.verdicts[-1].get("hosts") or {}).get(name, ()) if wave.verdicts else ()
    said = [] if host.info in ("pass", "fail", "inconclusive") else [host.info.removeprefix(f"{name}: ")]
    if host.seen.get("presumed") and not judged:
        said.append(f"{words.size(float(host.seen['presumed']))} presumed, of clients on the host itself")
    info = "; ".join(dict.fromkeys(text for text in (*said, *map(str, judged)) if text))
    return HostRow(
        wave=wave.number,
        name=name,
        state=host.state,
        bad=standing.unwell(host) or bool(judged),
        share=words.floor_percent(share) if share is not None else "",
        connections=f"{connections:,}" if isinstance(connections, int) else "",
        before=cpu(found.before if found else None),
        off=cpu(found.off if found else None),
        on=cpu(found.on if found else None),
        change=words.percent(change, sign=True) if change is not None else "",
        info=info,
        served=served,
    )


def _off(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The three latencies, the curve, and who is not off."""
    found = drain.read(said)
    if found is None:
        return None

    def last(values: Sequence[float]) -> str:
        return f"{values[-1]:.1f} s" if len(values) == found.off and values else "not known"

    return {
        "tiles": [
            ("read back as userspace", f"{found.off:,} of {found.hosts:,}"),
            ("last new kTLS connection", last(found.last_new)),
            ("90 % drained", "not yet" if found.drained_90_s is None else f"{found.drained_90_s:.1f} s"),
            ("none left", last(found.done)),
        ],
        "curve": charts.drain(found),
        "connections": bool(found.open),
        "bad": found.not_off[:_ROWS],
    }


def _refusals(plan: Plan | None) -> list[dict[str, Any]]:
    """Refused hosts by the code of the reason, the commonest first."""
    found: dict[str, dict[str, Any]] = {}
    for host, reasons in plan.refused.items() if plan else ():
        for reason in reasons:
            one = found.setdefault(
                reason.code, {"code": reason.code, "message": reason.message, "cure": reason.cure, "hosts": []}
            )
            one["hosts"].append(host)
    return sorted(found.values(), key=lambda one: -len(one["hosts"]))


def _chain(log: journal.Reader) -> tuple[bool, str]:
    if log.broken:
        return False, f"broken: {log.broken}. What follows it cannot be trusted."
    torn = "; the last line is not whole: its writer was stopped there" if log.torn else ""
    return True, f"whole: {len(log.events):,} lines, each holds the hash of the one before, last {log.head[:16]}…{torn}"


_QUIET = ("host_ordered", "host_confirmed", "host_reverted")


def _condensed(events: Sequence[journal.Event]) -> Iterable[tuple[str, str, str]]:
    """Events as rows; hosts to which the same happened well, one after the other, are one row."""
    run: list[journal.Event] = []

    def flush() -> Iterable[tuple[str, str, str]]:
        if run:
            hosts = [str(event["host"]) for event in run]
            told = hosts[0] if len(hosts) == 1 else f"{len(hosts):,} hosts, {hosts[0]} to {hosts[-1]}"
            yield words.moment(run[0]["at"]), str(run[0]["event"]), f"wave {run[0]['wave']}: {told}"
            run.clear()

    for event in events:
        name = event["event"]
        well = name in _QUIET and event.get("ok") is True
        if run and (not well or name != run[0]["event"]):
            yield from flush()
        if well:
            run.append(event)
        else:
            yield words.moment(event["at"]), str(name), _event(event)
    yield from flush()


def _event(event: Mapping[str, Any]) -> str:
    name = event["event"]
    if name == "observed":
        lost = [host for host, seen in event["hosts"].items() if not seen.get("reachable", True)]
        if so_far := event.get("interim"):
            return f"wave {event['wave']}: so far {'; '.join([so_far['outcome'], *verdicts.numbers(so_far)])}"
        told = f", not reached: {', '.join(lost[:8])}{'…' if len(lost) > 8 else ''}" if lost else ""
        return f"wave {event['wave']}: {len(event['hosts']):,} hosts{told}"
    if name == "verdict":
        sight = f", sentinel {event['sentinel']['sight']}" if event.get("sentinel") else ""
        return f"wave {event['wave']}: {event['outcome']}{sight}"
    if name == "fleet_off":
        left = [host for host, one in event["hosts"].items() if not one["off"]]
        return f"by {event['by']}: {event['why']}: {len(event['hosts']) - len(left):,} hosts off, {len(left):,} not"
    if name == "run_started":
        phase = event.get("means") or event["phase"]
        return f"phase {phase}, {event['hosts']:,} hosts in {len(event['waves'])} waves, by {event['operator']}"
    keys = {key: value for key, value in event.items() if key not in ("seq", "at", "event", "prev", "sha256")}
    if name == "wave_opened":
        keys["hosts"] = f"{len(event['hosts']):,}"
    return ", ".join(f"{key} {value}" for key, value in keys.items())


def _downloads(run_dir: Path, found: Sequence[evidence.HostEvidence], rows: Sequence[HostRow]) -> list[Download]:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("wave", "host", "state", "cpu_s_per_gb_before", "cpu_s_per_gb_userspace", "cpu_s_per_gb_ktls",
                     "probe_s_before", "probe_s_userspace", "probe_s_ktls", "bytes_per_s_before",
                     "bytes_per_s_userspace", "bytes_per_s_ktls", "info"))  # fmt: skip
    measured = {(one.wave, one.host): one for one in found}
    for row in sorted(rows, key=lambda one: (one.wave, one.name)):
        one = measured.get((row.wave, row.name))
        arms = (one.before, one.off, one.on) if one else ()
        numbers = [getattr(arm, metric) for metric in ("cpu", "probe_s", "rate") for arm in arms] or [None] * 9
        writer.writerow(
            (row.wave, row.name, row.state, *("" if value is None else f"{value:.6g}" for value in numbers), row.info)
        )
    downloads = [_pack("hosts.csv", "one row a host", table.getvalue().encode(), "")]
    log = run_dir / "journal.jsonl"
    downloads.append(_pack("journal.jsonl", "the journal, line by line", log.read_bytes(), str(log)))
    if (run_dir / "plan.yml").is_file():
        plan = run_dir / "plan.yml"
        downloads.append(_pack("plan.yml", "the plan as applied", plan.read_bytes(), str(plan)))
    paths = evidence.files(run_dir)
    # Ten to one is what such numbers pack to.
    if paths and sum(path.stat().st_size for _wave, _host, path in paths) < _EMBED_BYTES * 12:
        series = b"".join(path.read_bytes().strip() + b"\n" for _wave, _host, path in paths)
        downloads.append(_pack("evidence.jsonl", "the series that the gates were judged by, one host a line", series,
                               str(run_dir / "evidence")))  # fmt: skip
    elif paths:
        size = sum(path.stat().st_size for _wave, _host, path in paths)
        downloads.append(Download("evidence", f"{len(paths):,} series", None, str(run_dir / "evidence"), size))
    return downloads


def _pack(name: str, what: str, data: bytes, where: str) -> Download:
    """Small data as it is, larger data packed, what is too large left where it is."""
    kind = "text/plain"
    packed = data
    if len(data) > 100_000:
        packed, kind, name = gzip.compress(data, 4, mtime=0), "application/gzip", f"{name}.gz"
    if len(packed) > _EMBED_BYTES:
        return Download(name.removesuffix(".gz"), what, None, where, len(data))
    return Download(name, what, f"data:{kind};base64,{base64.b64encode(packed).decode()}", where, len(packed))
