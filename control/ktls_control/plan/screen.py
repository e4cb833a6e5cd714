# SPDX-License-Identifier: Apache-2.0
"""A plan as a tree on the operator's screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from ..preflight_names import fold
from ..screen import size
from . import datapaths
from .model import Plan, Refusal, Soak, Wave

_METRICS = {"cpu": "CPU", "latency": "p99", "throughput": "throughput"}
_LABELS = {"kernel": "kernel", "nic_model": "NIC", "rack": "rack"}
_NAMES = 70
_KINDS = 4


def draw(console: Console, plan: Plan, *, hosts: bool = False, written: Path | None = None) -> None:
    """Print the tree.

    :param hosts: every name, however many.
    :param written: where the plan is, for the last line.
    """
    console.print(tree(plan, None if hosts else _NAMES))
    total = len(plan.hosts) + len(plan.refused)
    if not plan.waves:
        console.print(Text(f"0 of {total:,} hosts can take {plan.phase}: no plan was written", "bold red"))
    elif written:
        console.print(
            Text(f"{written}: {len(plan.hosts):,} of {total:,} hosts in {_waves(plan)}", "bold green"), soft_wrap=True
        )
        console.print(Text(f"next: ktls apply {written}"), soft_wrap=True)


def tree(plan: Plan, budget: int | None = _NAMES) -> Tree:
    """The whole plan.

    :param budget: characters that a list of names may take; None for all of them.
    """
    phase = datapaths.phase_words(plan, plan.phase)
    top = Tree(Text.assemble(("ktls plan ", "bold"), (plan.id, "bold cyan"), f"   phase {phase}   fleet {plan.fleet}"))
    for wave in plan.waves:
        _wave(top, plan, wave, budget)
    if plan.refused:
        _refused(top, plan, budget)
    if plan.waves:
        branch = top.add(Text("run", "bold"))
        for label, text in _run(plan):
            branch.add(_row(label, text))
    if plan.notes:
        branch = top.add(Text("good to know", "bold yellow"))
        for note in plan.notes:
            branch.add(Text(note))
    return top


def _wave(top: Tree, plan: Plan, wave: Wave, budget: int | None) -> None:
    title = wave.name if wave.name == f"wave {wave.number}" else f"wave {wave.number} {wave.name}"
    branch = top.add(
        Text.assemble(
            (title, "bold"),
            f"   {_count(len(wave.hosts))}   {_span(wave.expected_s)}   ",
            (fold(wave.hosts, budget), "cyan"),
            ("   a person promotes it", "yellow") if wave.approve else "",
        )
    )
    served = _served(plan, wave)
    for label, text in (
        ("hosts", _kinds(plan, wave)),
        ("served by", served),
        ("soak", _own_soak(plan, wave)),
        ("sees", _sees(wave)),
    ):
        if text:
            branch.add(_row(label, text))


def _served(plan: Plan, wave: Wave) -> str:
    """By which datapaths, where it is not the sidecar everywhere; with the names of those that are fewer."""
    if not datapaths.mixed(plan):
        return ""
    found = datapaths.counted(plan, wave.hosts)
    return "; ".join(f"{title} ×{count}" if count > 1 else title for title, count in found)


def _own_soak(plan: Plan, wave: Wave) -> str:
    """Nothing where all waves soak alike: the run says it then."""
    return "" if len({each.soak for each in plan.waves}) == 1 else _soak(wave.soak)


def _soak(soak: Soak) -> str:
    needs = [f"{size(soak.min_bytes)} from each host"] if soak.min_bytes else []
    needs += [f"{soak.min_connections:,} connections"] if soak.min_connections else []
    return f"{_span(soak.min_s)} to {_span(soak.max_s)}" + (f", with {' and '.join(needs)}" if needs else "")


def _sees(wave: Wave) -> str:
    """Smallest harm that the gate can tell from noise."""
    told = [
        f"{_METRICS[name]} worse by {_percent(value, 2)}"
        for name, value in wave.detectable.items()
        if value is not None and name in _METRICS
    ]
    failures = wave.detectable.get("errors")
    if failures is not None:
        told.append(f"failures of {_percent(failures, 2)} of connections")
    blind = [word for name, word in _METRICS.items() if wave.detectable.get(name, 0.0) is None]
    return ", ".join(told) + ("; " if told and blind else "") + (f"cannot judge {', '.join(blind)}" if blind else "")


def _kinds(plan: Plan, wave: Wave) -> str:
    """How many of each kernel, NIC model and rack, where hosts of the plan differ in it."""
    told = []
    for label, word in _LABELS.items():
        if len(_values(plan, label)) < 2:
            continue
        counts = Counter(plan.hosts[name].labels.get(label, "") or "unknown" for name in wave.hosts)
        shown = [f"{value} ×{count}" if count > 1 else value for value, count in counts.most_common(_KINDS)]
        more = len(counts) - len(shown)
        told.append(f"{word} {', '.join(shown)}" + (f" and {more} more" if more else ""))
    return "; ".join(told)


def _alike(plan: Plan) -> str:
    """What all hosts of the plan have in common."""
    values = {word: _values(plan, label) for label, word in _LABELS.items()}
    same = {word: next(iter(found)) for word, found in values.items() if len(found) == 1}
    return ", ".join(f"{word} {value}" for word, value in same.items() if value)


def _values(plan: Plan, label: str) -> set[str]:
    return {host.labels.get(label, "") for host in plan.hosts.values()}


def _refused(top: Tree, plan: Plan, budget: int | None) -> None:
    groups: dict[str, dict[Refusal, list[str]]] = {}
    for name, reasons in plan.refused.items():
        for why in reasons:
            groups.setdefault(why.code, {}).setdefault(why, []).append(name)
    branch = top.add(Text(f"refused   {_count(len(plan.refused))}", "bold red"))
    for code, wordings in sorted(groups.items(), key=lambda item: -sum(len(names) for names in item[1].values())):
        names = {name for each in wordings.values() for name in each}
        leaf = branch.add(Text.assemble((code, "bold"), f"   {_count(len(names))}   ", (fold(names, budget), "cyan")))
        cures: dict[str, None] = {}
        for why, hosts in sorted(wordings.items(), key=lambda item: -len(item[1]))[:_KINDS]:
            many = f"   [{_count(len(hosts))}]" if len(wordings) > 1 else ""
            leaf.add(_row("because", why.message + many))
            cures[why.cure] = None
        if len(wordings) > _KINDS:
            leaf.add(_row("", f"and {len(wordings) - _KINDS} other messages"))
        for cure in cures:
            leaf.add(_row("cure", cure, "green"))


def _run(plan: Plan) -> Iterator[tuple[str, str]]:
    gates = plan.gates
    alike = _alike(plan)
    if alike:
        yield "hosts", f"all with {alike}"
    yield "expected", f"{_span(plan.expected_s)} if every wave passes as soon as it may, in {_waves(plan)}"
    yield (
        "gate",
        f"{_percent(gates.min_share)} of bytes on the path; CPU no worse than {_percent(gates.cpu_margin)}, "
        f"p99 {_percent(gates.latency_margin)}, throughput {_percent(gates.throughput_margin)}; "
        f"false alarms {_percent(gates.alpha)}",
    )
    yield from _hw(plan)
    soaks = {wave.soak for wave in plan.waves}
    if len(soaks) == 1:
        yield "soak", _soak(next(iter(soaks)))
    if not any(wave.detectable for wave in plan.waves):
        yield "sees", "what harm a wave can tell from noise is not known: no host has recorded series"
    blocks = f", blocks of {_span(gates.block_s)}" if gates.method == "switchback" else ""
    yield "compared", f"{gates.method}{blocks}{_otherwise(plan)}; where it cannot tell: {gates.on_inconclusive}"
    if plan.phase != "userspace" and len(plan.waves) > 1:
        becomes = {"revert": "goes back as one, and the run ends", "hold": "is named and holds, and the run ends"}
        yield "earlier", f"a wave in which a later gate finds a host that is not well {becomes[plan.earlier]}"
    yield "caps", _caps(plan.caps)
    yield "budget", _budget(plan.failure_budget)
    yield "lease", f"{_span(plan.lease_s)}: a host that is not confirmed by then takes itself back"
    yield "off", _headroom(plan)
    for freeze in plan.freezes:
        reason = f" ({freeze.reason})" if freeze.reason else ""
        yield "freeze", f"{_moment(freeze.start)} to {_moment(freeze.end)}{reason}; never stops off"
    yield "digest", plan.sha256[:16]


def _otherwise(plan: Plan) -> str:
    """How hosts are judged whose datapath cannot deal connections by chance."""
    names = sorted({host.datapath.name for host in plan.hosts.values() if not host.datapath.experiments})
    if not names or plan.gates.method not in ("switchback", "connections"):
        return ""
    how = {
        "difference": "difference in differences against later waves of their own kind",
        "none": "failures against their own past alone",
    }[plan.gates.otherwise]
    return f"; {' and '.join(names)}: {how}"


def _hw(plan: Plan) -> Iterator[tuple[str, str]]:
    """Who watches, who consents, and which cards there are: what phase hw rests on."""
    if plan.hardware is None:
        return
    if plan.hardware.without_sentinel:
        yield "sentinel", "none, as was said: nobody watches the wire for plaintext"
    else:
        names = fold(plan.hardware.sentinels, _NAMES)
        yield "sentinel", f"{names}: plaintext on the wire switches the whole fleet off; blind, the gate cannot tell"
    yield "consent", _consent(plan)
    counts = Counter(f"{name} ({driver})" for host in plan.hosts.values() for name, driver in host.cards.items())
    shown = [f"{card} ×{count}" if count > 1 else card for card, count in counts.most_common(_KINDS)]
    more = len(counts) - len(shown)
    yield "cards", ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    yield (
        "card",
        f"its counters show {_percent(plan.gates.card_share)} or more of what its connections sent; "
        f"at most {_percent(plan.gates.fallback_margin)} in software; drops and resyncs in at most "
        f"{_percent(plan.gates.anomaly_margin)} of sessions",
    )


def _consent(plan: Plan) -> str:
    consent = sum(host.consent for host in plan.hosts.values())
    if plan.hardware is None or consent == len(plan.hosts):
        return "TLS 1.2 for new connections of every host, while the phase lasts"
    share = plan.hardware.eligible
    least = "" if share is None else f"; TLS 1.2 with AES-GCM is {_percent(share)} of bytes or more as it is"
    if not consent:
        return f"none: versions stay as they are negotiated{least}"
    return f"TLS 1.2 for new connections of {consent:,} of {_count(len(plan.hosts))}, while the phase lasts{least}"


def _caps(caps: Mapping[str, str]) -> str:
    words = {"rack": "a rack", "nic_model": "a NIC model", "kernel": "a kernel"}
    told = ", ".join(f"{share} of {words.get(label, label)}" for label, share in caps.items())
    return f"at most {told} in one wave" if told else "none"


def _budget(budget: int) -> str:
    if budget == 0:
        return "no host may fail: the first one ends the run"
    return f"{_count(budget)} may fail; the next one ends the run"


def _headroom(plan: Plan) -> str:
    room = plan.headroom
    if room.worst is None:
        return f"CPU with everything back in userspace is not known (limit {_percent(room.limit)})"
    rest = f"; {_count(room.unknown)} unknown" if room.unknown else ""
    worst = f"{_percent(room.worst)} of CPU on {room.worst_host}, the worst"
    return f"everything back in userspace takes {worst}; limit {_percent(room.limit)}{rest}"


def _row(label: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{label:<9} ", "dim"), (text, style))


def _waves(plan: Plan) -> str:
    return "1 wave" if len(plan.waves) == 1 else f"{len(plan.waves)} waves"


def _count(hosts: int) -> str:
    return "1 host" if hosts == 1 else f"{hosts:,} hosts"


def _percent(share: float, digits: int = 3) -> str:
    """A few digits are enough, and none before the point is rounded away: 0.1 %, 7.5 %, 99 %, 1234 %."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10**digits else f"{percent:.{digits}g} %"


def _span(seconds: float) -> str:
    """``45 s``, ``10 min``, ``1 h 30 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _moment(time: str) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M %z")
