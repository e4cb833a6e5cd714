# SPDX-License-Identifier: Apache-2.0
"""A run as lines on a terminal of any size: the run, its waves, its hosts. Pure: from a state to styled text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..plan import datapaths
from ..plan.model import Plan
from ..rollout.state import HostState, RunState, WaveState
from . import cards, standing, verdicts, words

ICONS: Mapping[str, tuple[str, str]] = {
    "waiting": ("…", "dim"),
    "ordering": ("→", "cyan"),
    "soaking": ("◔", "cyan"),
    "judged": ("◕", "cyan"),
    "held": ("‖", "yellow"),
    "confirming": ("→", "cyan"),
    "confirmed": ("✔", "green"),
    "promoted": ("✔", "green"),
    "reverting": ("↩", "yellow"),
    "reverted": ("↩", "yellow"),
    "failed": ("✘", "red"),
    "unreachable": ("⚠", "red"),
    "running": ("⟳", "cyan"),
    "completed": ("✔", "green"),
    "aborted": ("✘", "red"),
    "off": ("✘", "yellow"),
}
_OUTCOMES = {
    "pass": ("PASS", "bold green"),
    "fail": ("FAIL", "bold red"),
    "inconclusive": ("INCONCLUSIVE", "bold yellow"),
}
#: A wave with more hosts than this shows only those that need an eye.
_FEW = 8


@dataclass(frozen=True)
class View:
    """All that a screen shows.

    :param alert: sentences that matter more than the rest: no controller, a broken chain.
    :param footer: last lines: keys, or the question that was asked.
    :param details: show the reasons in full (key ``e``).
    :param off: what ``ktls off`` said, when it was asked for here.
    """

    state: RunState
    plan: Plan | None
    now: float
    alert: Sequence[str] = ()
    footer: Sequence[Text] = ()
    details: bool = False
    off: Sequence[str] = ()


def lines(view: View, width: int, height: int | None = None) -> list[Text]:
    """The view, at most ``height`` lines of ``width`` columns. The head and the footer are always in it."""
    head = _head(view, width)
    plaintext = cards.fleet_off(view.state)
    for alert in (*([plaintext] if plaintext else []), *view.alert):
        head += _flow([Text(alert, "bold red")], width)
    foot = [line for told in view.off[-8:] for line in _flow([Text(told, "yellow")], width)]
    foot += view.footer
    room = None if height is None else max(1, height - len(head) - len(foot))
    body = _body(view, width, room)
    above = [*head, *body]
    found = [*(above if height is None else above[: max(1, height - len(foot))]), *foot]
    for line in found:
        line.truncate(width, overflow="ellipsis")
    return found


def _head(view: View, width: int) -> list[Text]:
    state = view.state
    icon, style = ICONS[state.outcome if state.outcome in ICONS else "running"]
    chips = [
        Text.assemble((f"{icon} ", style), ("ktls", "bold"), f" epoch {state.epoch}"),
        Text(f"phase {state.shown_phase}"),
    ]
    if state.datapaths:
        chips.append(Text(", ".join(f"{name} ×{count:,}" for name, count in state.datapaths.items()), "dim"))
    wave = standing.current(state)
    if state.ended is not None:
        chips.append(Text(state.outcome, f"bold {style}"))
        chips.append(Text(f"after {words.duration(state.ended - state.started)}"))
        if state.why:
            chips.append(Text(state.why))
    elif wave is not None:
        chips.append(Text(f"wave {wave.number}/{len(state.waves)}"))
        chips.append(_doing(wave, view.now))
        lease = standing.shortest_lease(wave, view.now)
        if lease is not None:
            chips.append(Text(f"lease {words.clock(lease)}", "red" if lease < 60 else ""))
    if state.paused and state.ended is None:
        chips.append(Text("paused", "bold yellow"))
    if state.aborting and state.ended is None:
        chips.append(Text(f"aborting: {state.aborting}", "bold red"))
    if view.plan is not None:
        chips.append(
            Text(
                f"failure budget {len(state.failed)}/{view.plan.failure_budget}",
                "dim",
            )
        )
    chips.append(Text(f"{state.fleet} {state.run}", "dim"))
    return _flow(chips, width)


def _doing(wave: WaveState, now: float) -> Text:
    doing = wave.state
    icon, style = ICONS[doing]
    if wave.waiting:
        why = words.WAITS.get(wave.waiting, (wave.waiting, True))[0]
        return Text(f"{icon} waiting {words.duration(now - wave.since)}: {why}", "yellow")
    if doing == "soaking" and wave.soak_started is not None:
        # The soak is over when min_s has passed and the traffic was there.
        spent = words.duration(min(now - wave.soak_started, wave.soak[1]))
        return Text(f"{icon} soaking {spent}/{words.duration(wave.soak[0])}", style)
    return Text(f"{icon} {doing} {words.duration(now - wave.since)}", style)


def _body(view: View, width: int, room: int | None) -> list[Text]:
    state = view.state
    active = standing.current(state)
    blocks: list[list[Text]] = []
    for wave in state.waves:
        last = wave is state.waves[-1]
        block = _wave(view, wave, width, last)
        if wave is active and wave.state != "promoted":
            block += _hosts(view, wave, width, last)
        else:
            # What went wrong in an earlier wave stays in sight.
            block += _hosts(view, wave, width, last, unwell_only=True)
        blocks.append(block)
    if not state.waves:
        return []
    return _fit(blocks, state.waves.index(active) if active else 0, room, width)


def _fit(blocks: Sequence[list[Text]], active: int, room: int | None, width: int) -> list[Text]:
    """As many blocks as there is room for: the active one first, then its neighbours; what is left out is said."""
    if room is None or sum(map(len, blocks)) <= room:
        return [line for block in blocks for line in block]
    first, last = active, active
    used = len(blocks[active]) + 2
    while True:
        grown = False
        for index in (first - 1, last + 1):
            if 0 <= index < len(blocks) and used + len(blocks[index]) <= room:
                first, last = min(first, index), max(last, index)
                used += len(blocks[index])
                grown = True
        if not grown:
            break
    shown = [line for block in blocks[first : last + 1] for line in block]
    before, after = first, len(blocks) - last - 1
    top = [Text(f"├─ … {_waves(before)} before", "dim")] if before else []
    bottom = [Text(f"└─ … {_waves(after)} after", "dim")] if after else []
    keep = max(1, room - len(top) - len(bottom))
    if len(shown) > keep:
        shown = [*shown[: keep - 1], Text("│  …", "dim")] if keep > 1 else shown[:1]
    return [*top, *shown, *bottom]


def _waves(count: int) -> str:
    return f"{count} wave{'s' * (count != 1)}"


def _wave(view: View, wave: WaveState, width: int, last: bool) -> list[Text]:
    doing = wave.state
    icon, style = ICONS[doing]
    done = sum(host.state in ("confirmed", "reverted") for host in wave.hosts.values())
    name = f"wave {wave.number}" if wave.name == f"wave {wave.number}" else f"wave {wave.number} {wave.name}"
    chips = [Text.assemble((name, "bold" if doing not in ("waiting",) else ""), " ", (icon, style))]
    if doing == "waiting":
        planned = standing.planned(view.plan, wave.number)
        chips.append(Text(f"{len(wave.hosts):,} hosts", "dim"))
        if planned and planned.approve:
            chips.append(Text("then a person has to promote it", "dim"))
    else:
        live = sum(host.state in ("soaking", "judged") and host.lost is None for host in wave.hosts.values())
        chips.append(Text(f"{done or live:,}/{len(wave.hosts):,} {doing}"))
    if wave.interim:
        word, _colour = _OUTCOMES[wave.interim["outcome"]]
        chips.append(Text(f"so far: {word}", "dim"))
        chips += [
            Text(number, "dim") for number in verdicts.numbers(wave.interim, verdicts.limit(wave.interim, view.plan))
        ]
    elif wave.verdicts:
        verdict = wave.verdicts[-1]
        word, colour = _OUTCOMES[verdict["outcome"]]
        chips.append(Text(word, colour))
        chips += [Text(number) for number in verdicts.numbers(verdict, verdicts.limit(verdict, view.plan))]
    if doing == "soaking" and (wanted := standing.needs(wave, standing.planned(view.plan, wave.number), view.now)):
        chips.append(Text(f"still needs {', '.join(wanted)}", "cyan"))
    if seen := cards.sentinel(wave):
        chips.append(Text(*seen))
    if wave.waiting == "approval":
        chips.append(Text("p promotes it", "bold yellow"))
    found = _flow(chips, width, "└─ " if last else "├─ ", "   " if last else "│  ")
    said = wave.interim or (wave.verdicts[-1] if wave.verdicts else None)
    if view.details and said:
        inner = "   " if last else "│  "
        for text in _explain(said):
            found += _flow([Text(text)], width, f"{inner}  · ", f"{inner}    ")
    return found


def _explain(verdict: verdicts.Verdict) -> list[str]:
    """Every number and reason behind a verdict."""
    found = verdicts.reasons(verdict) + [verdicts.explained(metric) for metric in verdicts.metrics(verdict)]
    if path := verdicts.path(verdict):
        found.append(f"E-value of errors: {' '.join(words.e_value(value) for value in path[-20:])}")
    found += [f"{host}: {'; '.join(why)}" for host, why in (verdict.get("hosts") or {}).items()]
    found += [f"earlier wave, {host}: {why}" for host, why in _pairs(verdict.get("recheck"))]
    return found


def _pairs(recheck: object) -> Iterable[tuple[str, str]]:
    if isinstance(recheck, Mapping):
        for host, why in recheck.items():
            yield str(host), "; ".join(map(str, why)) if isinstance(why, (list, tuple)) else str(why)
    elif isinstance(recheck, (list, tuple)):
        for one in recheck:
            yield str(one), ""


def _hosts(view: View, wave: WaveState, width: int, last: bool, *, unwell_only: bool = False) -> list[Text]:
    inner = "   " if last else "│  "
    bad = {name: host for name, host in wave.hosts.items() if standing.unwell(host)}
    every = not unwell_only and len(wave.hosts) <= _FEW
    shown = wave.hosts if every else dict(list(bad.items())[: _FEW if not view.details else None])
    rest = 0 if unwell_only else len(wave.hosts) - len(shown)
    found = []
    pad = max((cell_len(name) for name in shown), default=0)
    for index, (name, host) in enumerate(shown.items()):
        twig = "└─ " if index == len(shown) - 1 and not rest else "├─ "
        found.append(Text.assemble((inner + twig, "dim"), *_host(name, host, view.now, pad, _served(view, name))))
    hidden = len(bad) - len(shown) if not every else 0
    if hidden > 0:
        rest -= hidden
        found.append(Text(f"{inner}├─ ⚠ {hidden:,} more that are not well", "red"))
    if rest > 0:
        found.append(Text.assemble((f"{inner}└─ ", "dim"), (_summary(wave, view.now, rest), "dim")))
    return found


def _served(view: View, name: str) -> str:
    """What serves a host, where it is not the sidecar everywhere."""
    known = view.plan is not None and name in view.plan.hosts and bool(view.state.datapaths)
    return datapaths.title(view.plan.hosts[name].datapath) if known and view.plan else ""


def _host(name: str, host: HostState, now: float, pad: int, served: str = "") -> Iterable[tuple[str, str]]:
    icon, style = ICONS[host.state]
    if host.lost is not None:
        icon, style = ICONS["unreachable"]
    elif standing.unwell(host):
        icon, style = ICONS["failed"]
    yield f"{icon} ", style
    yield f"{name:<{pad}}", ""
    seen, lease = host.seen, standing.lease_left(host, now)
    parts = [] if host.state in ("soaking", "judged") else [host.state]
    if host.lost is not None:
        parts = [f"unreachable {words.duration(now - host.lost)}"]
        if host.holds == "yes":
            parts.append("confirmed before: it holds until ktls off reaches it")
        elif lease is not None:
            by_itself = f"reverts by itself in {words.clock(lease)}" if lease else "its lease is over: it has reverted"
            parts.append(by_itself + (", unless its confirmation arrived" if host.holds else ""))
    elif seen.get("share") is not None and host.state in ("soaking", "judged", "confirmed"):
        parts.append(f"kTLS {words.floor_percent(seen['share'])}")
        if seen.get("connections") is not None:
            parts.append(f"{words.count(float(seen['connections']))} conns")
        parts += cards.chips(cards.of(host))
    if served:
        parts.insert(0, served)
    if host.lost is None and lease is not None:
        parts.append(f"lease {words.clock(lease)}")
    said = host.info.removeprefix(name).removeprefix(":").strip().removeprefix("unreachable: ")
    if said and said not in ("pass", "fail", "inconclusive"):
        parts.append(said)
    yield "  " + " · ".join(parts), "red" if standing.unwell(host) else ""


def _summary(wave: WaveState, now: float, rest: int) -> str:
    well = [host for host in wave.hosts.values() if not standing.unwell(host)]
    states: dict[str, int] = {}
    for host in well:
        states[host.state] = states.get(host.state, 0) + 1
    parts = [f"{rest:,} hosts: " + ", ".join(f"{number:,} {state}" for state, number in states.items())]
    shares = [float(host.seen["share"]) for host in well if host.seen.get("share") is not None]
    if shares:
        parts.append(f"kTLS {words.floor_percent(min(shares))} to {words.floor_percent(max(shares))}")
        parts.append(f"{words.count(sum(float(host.seen.get('connections') or 0) for host in well))} conns")
    if found := cards.summary(wave):
        least = "" if found.least is None else f", {words.floor_percent(found.least)} or more of what was sent"
        worst = "" if found.fallback is None else f", at most {words.percent(found.fallback)} in software"
        parts.append(f"cards {words.size(float(found.encrypted))}{least}{worst}")
        if found.stale:
            parts.append(f"{found.stale:,} stale")
    leases = [left for host in well if (left := standing.lease_left(host, now)) is not None]
    if leases:
        parts.append(f"lease {words.clock(min(leases))} or more")
    return " · ".join(parts)


def _flow(chips: Sequence[Text], width: int, first: str = "", later: str = "  ") -> list[Text]:
    """Chips side by side, two columns apart; a new line where the next one does not fit. Long ones are wrapped."""
    found: list[Text] = []
    line = Text(first, "dim")
    empty = True
    for chip in chips:
        if not empty and line.cell_len + 2 + chip.cell_len > width:
            found.append(line)
            line, empty = Text(later, "dim"), True
        if not empty:
            line.append("  ")
        pieces = list(chip.wrap(Console(width=width), max(8, width - line.cell_len)))
        for piece in pieces[:-1]:
            piece.rstrip()
            found.append(Text.assemble(line, piece))
            line = Text(later, "dim")
        line = Text.assemble(line, pieces[-1])
        empty = False
    return [*found, line]
