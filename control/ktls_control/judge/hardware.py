# SPDX-License-Identifier: Apache-2.0
"""Whether a network card really encrypts, from two statuses of an agent. Pure.

What the kernel calls ``hw`` is where a connection began, not where it is: after a link went down it is encrypted in
software and still called so (net/tls/tls_device.c, tls_device_down). So nothing here is proved by a connection's name:
only bytes that the card's own counters say it has encrypted are.

All counts of key ``hw`` of a status grow since driver, kernel or agent were started; what is judged is how much they
grew. Bytes unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .check import Check

#: A card whose count stands still has to be seen to do so more than once: what connections sent is read by sampling,
#: and may arrive a little after the card's own count of it.
FROZEN_LOOKS = 3
FROZEN_BYTES = 1_000_000
#: What an agent may have downloaded from its own host: over loopback, which no card ever sees.
OWN_BYTES = 10 << 20
#: Counts of things that must not happen, beside errors of decryption: packets dropped, and searches for a record.
_ANOMALIES = ("drops", "resync")


@dataclass(frozen=True)
class Margins:
    """What is accepted of a card; shares from 0 to 1, see :class:`ktls_control.plan.model.Gates`.

    :param min_bytes: of connections called ``hw``, below which nothing can be said.
    """

    card_share: float = 0.8
    fallback: float = 0.1
    anomalies: float = 0.01
    min_bytes: int = 1_000_000


@dataclass(frozen=True)
class Moved:
    """What happened between two statuses; None: not known.

    :param encrypted: by the card's counters.
    :param hw: sent by connections that the kernel calls ``hw``; ``eligible``: by TLS 1.2 with AES-GCM, these
        included; ``total``: by all that serve.
    :param installed: transmit sessions that the card took; ``software``: those that the kernel encrypts.
    :param stale: connections called ``hw`` now although the card does not work for them; ``open_hw``: so called, all.
    """

    encrypted: int | None = None
    hw: int | None = None
    eligible: int | None = None
    total: int | None = None
    installed: int | None = None
    software: int | None = None
    stale: int | None = None
    open_hw: int | None = None
    decrypt: int | None = None
    drops: int | None = None
    resync: int | None = None
    ooo: int | None = None

    @property
    def fallback(self) -> float | None:
        """Share of transmit sessions that the card did not take."""
        if self.installed is None or self.software is None or self.installed + self.software == 0:
            return None
        return self.software / (self.installed + self.software)

    @property
    def soft_bytes(self) -> float | None:
        """Share of the bytes that a card could have encrypted and that did not go by its connections."""
        if self.hw is None or not self.eligible:
            return None
        return max(0.0, 1 - self.hw / self.eligible)

    def as_dict(self) -> dict[str, Any]:
        """As journals have it; what is not known is left out."""
        found = {name: value for name, value in vars(self).items() if value is not None}
        return {**found, **({} if self.fallback is None else {"fallback": round(self.fallback, 5)})}


def part(status: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Key ``hw`` of a status; None where it has none."""
    found = (status or {}).get("hw")
    return found if isinstance(found, Mapping) else None


def moved(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Moved:
    """How much the counts of two statuses differ."""
    first, last = part(before), part(after)
    if first is None or last is None:
        return Moved()
    now = _section(last, "open")
    return Moved(
        encrypted=_grown(first.get("encrypted_bytes"), last.get("encrypted_bytes")),
        **{ours: _grown(_section(first, "sent").get(key), _section(last, "sent").get(key))
           for ours, key in (("hw", "hw"), ("eligible", "tls12_gcm"), ("total", "total"))},
        installed=_grown(first.get("installed"), last.get("installed")),
        software=_grown(first.get("software"), last.get("software")),
        stale=_count(now.get("stale")),
        open_hw=_count(now.get("hw")),
        **{key: _grown(_section(first, "anomalies").get(key), _section(last, "anomalies").get(key))
           for key in ("decrypt", "drops", "resync", "ooo")},
    )  # fmt: skip


def checks(before: Mapping[str, Any], after: Mapping[str, Any], margins: Margins) -> list[Check]:
    """Everything that is asked of a card since the order. Missing data is inconclusive, never a pass."""
    if "hw" not in after:
        return [Check("card", "inconclusive", "its agent says nothing of cards: it is of another release")]
    if after["hw"] is None:
        return [Check("features", "fail", "nothing can be offloaded: no interface of this host offers it")]
    seen = moved(before, after)
    return [
        _features(after),
        _card(seen, margins),
        _fallback(seen, margins),
        _decrypt(seen),
        _anomalies(seen, margins),
    ]


def features_on(status: Mapping[str, Any] | None) -> bool:
    """Some interface has TLS transmit offload on. An agent may say so some seconds late."""
    found = (part(status) or {}).get("interfaces")
    return isinstance(found, list) and any(isinstance(each, Mapping) and each.get("tx_on") for each in found)


def standing_still(seen: Moved) -> bool:
    """Since a status of long ago a card has encrypted nothing at all of very much."""
    return seen.encrypted == 0 and (seen.hw or 0) >= 10 * FROZEN_BYTES


def _features(after: Mapping[str, Any]) -> Check:
    interfaces = (part(after) or {}).get("interfaces")
    if not isinstance(interfaces, list):
        return Check("features", "inconclusive", "its interfaces are not known")
    on = [str(each.get("name")) for each in interfaces if isinstance(each, Mapping) and each.get("tx_on")]
    if not on:
        names = ", ".join(str(each.get("name")) for each in interfaces if isinstance(each, Mapping)) or "no interface"
        return Check("features", "fail", f"TLS transmit offload is off: {names}")
    return Check("features", "pass", f"TLS transmit offload is on: {', '.join(on)}")


def _card(seen: Moved, margins: Margins) -> Check:
    if seen.hw is None or seen.installed is None:
        return Check("card", "inconclusive", "what connections of the card sent is not known over the whole soak")
    stale = (
        f"; {seen.stale} connections are stale: called hw, and the card does not work for them" if seen.stale else ""
    )
    if seen.hw == 0 and seen.installed == 0:
        if (seen.total or 0) < margins.min_bytes:
            return Check("card", "inconclusive", f"no session was offloaded, of {seen.total or 0} bytes{stale}")
        able = "how many of them a card could take is not known"
        if seen.eligible is not None:
            able = f"{seen.eligible} of them are TLS 1.2 with AES-GCM, the only ones that a card takes"
        return Check("card", "fail", f"nothing is offloaded: {seen.total} bytes sent, {able}{stale}")
    if seen.encrypted is None:
        return Check("card", "inconclusive", f"the card's driver counts no bytes, so nothing proves its work{stale}")
    if seen.hw < margins.min_bytes:
        return Check(
            "card", "inconclusive", f"{seen.hw} bytes by connections of the card, {margins.min_bytes} needed{stale}"
        )
    share = seen.encrypted / seen.hw
    text = f"the card encrypted {seen.encrypted} bytes, and connections called hw sent {seen.hw}"
    if share < margins.card_share:
        return Check("card", "fail", f"stale: {text}{stale}")
    return Check("card", "pass", f"{text}{stale}")


def _fallback(seen: Moved, margins: Margins) -> Check:
    if seen.fallback is None:
        return Check("fallback", "inconclusive", "no transmit session was opened, or they were not counted")
    text = f"{seen.software} of {(seen.installed or 0) + (seen.software or 0)} sessions are in software"
    if seen.fallback <= margins.fallback:
        return Check("fallback", "pass", text)
    # Downloads over loopback and TLS 1.3 are sessions of the kernel too, and no card ever refused them: only when the
    # bytes that it could have taken are missing as well has it.
    if seen.soft_bytes is None:
        return Check("fallback", "inconclusive", f"{text}; which of them a card could have taken is not known")
    text += f", with {100 * seen.soft_bytes:.1f} % of the bytes that a card could take"
    if seen.soft_bytes <= margins.fallback:
        return Check("fallback", "pass", text)
    if (seen.eligible or 0) - (seen.hw or 0) <= OWN_BYTES:
        return Check("fallback", "inconclusive", f"{text}: too few to tell them from the host's downloads from itself")
    return Check("fallback", "fail", f"{text}: more than {100 * margins.fallback:g} %: the card refuses sessions")


def _decrypt(seen: Moved) -> Check:
    if seen.decrypt is None:
        return Check("decrypt", "inconclusive", "errors of decryption are not counted")
    return Check("decrypt", "fail" if seen.decrypt else "pass", f"{seen.decrypt} errors of decryption")


def _anomalies(seen: Moved, margins: Margins) -> Check:
    counts = {name: getattr(seen, name) for name in _ANOMALIES}
    if any(value is None for value in counts.values()) or seen.installed is None:
        return Check("anomalies", "inconclusive", "drops and resyncs of the card are not counted")
    total = sum(counts.values())
    text = ", ".join(f"{name} {value}" for name, value in counts.items()) + f" in {seen.installed} sessions"
    limit = margins.anomalies * max(1, seen.installed, seen.open_hw or 0)
    return Check("anomalies", "fail" if total > limit else "pass", text)


@dataclass(frozen=True)
class Progress:
    """A card, looked at again and again: its count when it last grew, and what was sent by its connections then.

    :param last: what they had sent at the last look; ``looks``: at how many they had sent more since it last grew.
    """

    encrypted: int
    sent: int
    last: int
    looks: int = 0


def follow(known: Progress | None, status: Mapping[str, Any] | None) -> tuple[Progress | None, str | None]:
    """One more look; the second is why the card has failed, None while nothing says so."""
    found = part(status)
    encrypted = _count((found or {}).get("encrypted_bytes"))
    sent = _count(_section(found or {}, "sent").get("hw"))
    if encrypted is None or sent is None:
        return known, None
    if known is None or encrypted != known.encrypted or sent < known.last:
        return Progress(encrypted, sent, sent), None
    looks = known.looks + (sent > known.last)
    now = Progress(encrypted, known.sent, sent, looks)
    if looks < FROZEN_LOOKS or sent - known.sent < FROZEN_BYTES:
        return now, None
    stale = _count(_section(found or {}, "open").get("stale"))
    named = f", {stale} of them known to be stale" if stale else ""
    return now, (
        f"card: stale: its count of encrypted bytes stands still at {encrypted} while connections called hw{named} "
        f"sent {sent - known.sent} bytes"
    )


def eligible_share(status: Mapping[str, Any] | None) -> float | None:
    """Share of all bytes sent that a card can encrypt as they are negotiated now; None: nothing sent, or unknown."""
    sent = _section(part(status) or {}, "sent")
    eligible, total = _count(sent.get("tls12_gcm")), _count(sent.get("total"))
    if eligible is None or not total:
        return None
    return min(1.0, eligible / total)


def _section(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = found.get(name)
    return section if isinstance(section, Mapping) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _grown(first: object, last: object) -> int | None:
    before, after = _count(first), _count(last)
    # What went backwards was started anew in between.
    return None if before is None or after is None or after < before else after - before
