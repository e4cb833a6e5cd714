# SPDX-License-Identifier: Apache-2.0
"""Phase ``hw`` in words: what cards did, and what the machines that watch the wire saw. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..plan.model import Plan
from ..rollout.state import HostState, RunState, WaveState
from . import words

SIGHTS = ("clean", "leak", "blind", "none")
#: Of a sight: how it is shown, and whether an operator's eye is needed.
_STYLES = {"clean": "green", "leak": "bold red", "blind": "bold yellow", "none": "yellow"}


def of(host: HostState) -> Mapping[str, Any]:
    """What the card of a host did since its order; empty in every other phase."""
    found = host.seen.get("hw")
    return found if isinstance(found, Mapping) else {}


def ratio(card: Mapping[str, Any]) -> float | None:
    """Bytes that the card counted, by those that connections called ``hw`` sent; None: not known."""
    if not card.get("hw") or card.get("encrypted") is None:
        return None
    return float(card["encrypted"]) / float(card["hw"])


def chips(card: Mapping[str, Any]) -> list[str]:
    """A host's card in a few words."""
    if not card:
        return []
    told = [f"card {words.size(float(card['encrypted']))}" if card.get("encrypted") is not None else "card ?"]
    if card.get("hw") is not None:
        told[0] += f" of {words.size(float(card['hw']))}"
    if card.get("fallback") is not None:
        told.append(f"{words.percent(card['fallback'])} in software")
    if card.get("stale"):
        told.append(f"{card['stale']:,} stale")
    told += [f"{name} {card[name]:,}" for name in ("decrypt", "drops", "resync") if card.get(name)]
    return told


def sentinel(wave: WaveState) -> tuple[str, str] | None:
    """What the sentinels saw of a wave, and its style; None: nobody was asked."""
    said = wave.sentinel
    if not said:
        return None
    sight = str(said.get("sight"))
    text = f"sentinel {sight}" if sight != "none" else "no sentinel"
    if sight in ("leak", "blind"):
        text += f": {said.get('why')}"
    return text, _STYLES.get(sight, "")


@dataclass(frozen=True)
class WaveCards:
    """A wave in numbers, over its hosts; None: not known of any.

    :param least: least ratio of what a card counted to what its connections sent.
    :param fallback: largest share of sessions in software; ``stale``: connections, all hosts together.
    """

    least: float | None
    fallback: float | None
    encrypted: int
    stale: int


def summary(wave: WaveState) -> WaveCards | None:
    """None where no host of the wave has said anything of a card."""
    found = [card for host in wave.hosts.values() if (card := of(host))]
    if not found:
        return None
    ratios = [value for card in found if (value := ratio(card)) is not None]
    fallbacks = [float(card["fallback"]) for card in found if card.get("fallback") is not None]
    return WaveCards(
        min(ratios, default=None),
        max(fallbacks, default=None),
        sum(int(card.get("encrypted") or 0) for card in found),
        sum(int(card.get("stale") or 0) for card in found),
    )


def fleet_off(state: RunState) -> str | None:
    """What came of switching the whole fleet off; None: nobody had to."""
    done = state.fleet_off
    if done is None:
        return (
            None
            if state.owes_off is None
            else f"plaintext on the wire: {state.owes_off}: the fleet is being switched off"
        )
    hosts = done.get("hosts") or {}
    left = [name for name, one in hosts.items() if not one.get("off")]
    if done.get("ok"):
        return f"plaintext on the wire: {done['why']}: all {len(hosts):,} hosts of the fleet are off"
    named = f"NOT off: {', '.join(left[:8])}{'…' if len(left) > 8 else ''}" if left else str(done.get("error"))
    return f"plaintext on the wire: {done['why']}: {named}: run `ktls off` now"


def facts(plan: Plan | None) -> Iterable[tuple[str, str]]:
    """What phase ``hw`` of a plan rests on; nothing for every other phase."""
    if plan is None or plan.hardware is None:
        return
    alone = plan.hardware.without_sentinel
    yield "sentinel", "none: --without-sentinel" if alone else ", ".join(plan.hardware.sentinels)
    consent = sum(host.consent for host in plan.hosts.values())
    yield "TLS 1.2 consented to", f"{consent:,} of {len(plan.hosts):,} hosts"
    drivers = sorted({driver for host in plan.hosts.values() for driver in host.cards.values()})
    yield "cards", ", ".join(drivers)


@dataclass(frozen=True)
class Row:
    """One host's card in a table."""

    wave: int
    name: str
    cards: str
    encrypted: str
    sent: str
    ratio: str
    sessions: str
    software: str
    stale: str
    anomalies: str


def rows(state: RunState, plan: Plan | None) -> list[Row]:
    """Every host of which anything is known."""
    found = []
    for wave in state.waves:
        for name, host in wave.hosts.items():
            card = of(host)
            if not card:
                continue
            planned = plan.hosts.get(name) if plan else None
            cards = ", ".join(f"{nic} ({driver})" for nic, driver in planned.cards.items()) if planned else ""
            share = ratio(card)
            fallback = card.get("fallback")
            told = [f"{what} {card[what]:,}" for what in ("decrypt", "drops", "resync", "ooo") if card.get(what)]
            found.append(
                Row(
                    wave.number,
                    name,
                    cards,
                    _size(card.get("encrypted")),
                    _size(card.get("hw")),
                    "" if share is None else words.floor_percent(share),
                    "" if card.get("installed") is None else f"{card['installed']:,}",
                    "" if fallback is None else words.percent(fallback),
                    "" if card.get("stale") is None else f"{card['stale']:,}",
                    ", ".join(told),
                )
            )
    return found


def _size(value: int | None) -> str:
    return "not counted" if value is None else words.size(float(value))
