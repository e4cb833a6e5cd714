# SPDX-License-Identifier: Apache-2.0
"""The rules, and when one of them has seen enough. Pure: readings go in, trips come out.

A rule compares the newest reading with the one that is ``window_s`` older. It is *over* when at least ``events`` things
happened in that window, and they were at least ``ratio`` of what could have gone wrong. It *trips* when it was over, at
every look, for ``windows`` windows on end: after that time nothing of what was seen first is in the window any more.
Looks at which the rule is *blind*, because what it needs was not read lately, neither trip it nor count as healthy. A
rule is *absent* on a kernel that does not have its counters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from .model import KERNEL, LOG, NIC, PROBE, SIDECAR, Reading

OK, OVER, BLIND, ABSENT, TRIPPED, DISABLED = "ok", "over", "blind", "absent", "tripped", "disabled"
STATES = (OK, OVER, BLIND, ABSENT, TRIPPED, DISABLED)


@dataclass(frozen=True)
class Setting:
    """When a rule trips. Times are in seconds.

    ``events``: at least so many in a window. ``ratio``: at least this part of what they are compared with; 0: any.
    ``windows``: on end. ``cooldown_s``: after a trip, before the rule may trip again. ``stale_s``: what was read longer
    ago does not count.
    """

    events: float
    ratio: float = 0.0
    window_s: float = 60.0
    windows: int = 1
    cooldown_s: float = 300.0
    stale_s: float = 60.0
    enabled: bool = True


@dataclass(frozen=True)
class Rule:
    """``counts`` are the totals whose growth is counted, against the growth of ``among`` (which includes them or not).

    ``less`` are totals whose growth is taken away from that: work that was done. A host that does not have all of them
    has no such rule. ``phase``: the rule is about that phase alone.

    With ``gauge``, ``counts`` is one number that is compared as it is. ``outside``: a client can cause such events,
    which is why they are weighed. ``own``: counted by ourselves, so that what was not read did not happen. ``unit``:
    what is counted, in words.
    """

    name: str
    group: str
    counts: tuple[str, ...]
    default: Setting
    unit: str
    among: tuple[str, ...] = ()
    gauge: bool = False
    outside: bool = False
    own: bool = False
    less: tuple[str, ...] = ()
    phase: str = ""


MIB = float(1 << 20)

RULES = (
    Rule(
        "probe_damaged",
        PROBE,
        ("probe_damaged",),
        Setting(1, stale_s=180.0),
        "self-probes that arrived damaged",
        own=True,
    ),
    Rule(
        "probe_failed",
        PROBE,
        ("probe_failed_in_row",),
        Setting(3, stale_s=180.0),
        "self-probes that failed in a row",
        gauge=True,
    ),
    Rule("kernel_warning", LOG, ("kernel_warnings",), Setting(1), "kernel warnings that name tls"),
    Rule(
        "rekey_error",
        KERNEL,
        ("TlsRxRekeyError", "TlsTxRekeyError"),
        Setting(5, ratio=0.05),
        "failed changes of keys in the kernel",
        ("TlsRxRekeyError", "TlsTxRekeyError", "TlsRxRekeyOk", "TlsTxRekeyOk"),
    ),
    Rule(
        "decrypt_error",
        KERNEL,
        ("TlsDecryptError",),
        Setting(20, ratio=0.1, windows=2),
        "records that the kernel could not decrypt",
        ("TlsRxSw", "TlsRxDevice"),
        outside=True,
    ),
    Rule(
        "bad_record",
        SIDECAR,
        ("sidecar_bad_record",),
        Setting(20, ratio=0.1, windows=2),
        "connections that ended on a bad record (EBADMSG, bad_record_mac)",
        ("ktls_connections",),
        outside=True,
    ),
    Rule(
        "key_expired",
        SIDECAR,
        ("sidecar_key_expired",),
        Setting(20, ratio=0.1, windows=2),
        "connections that ended on an expired key (EKEYEXPIRED)",
        ("ktls_connections",),
        outside=True,
    ),
    Rule(
        "too_big",
        SIDECAR,
        ("sidecar_too_big",),
        Setting(20, ratio=0.1, windows=2),
        "connections that ended on a record that is too long (EMSGSIZE)",
        ("ktls_connections",),
        outside=True,
    ),
    Rule(
        "key_update",
        SIDECAR,
        ("sidecar_key_update",),
        Setting(20, ratio=0.1, windows=2),
        "connections that ended because the kernel takes no second key",
        ("ktls_connections",),
        outside=True,
    ),
    Rule(
        "ktls_share",
        SIDECAR,
        ("ordered_fallback_bytes",),
        Setting(32 * MIB, ratio=0.5, windows=3),
        "bytes from userspace on connections that were ordered kTLS",
        ("ordered_fallback_bytes", "ordered_ktls_bytes"),
        outside=True,
    ),
    Rule(
        "hw_frozen",
        NIC,
        ("hw_sent_bytes",),
        Setting(16 * MIB, ratio=0.5, windows=2),
        "bytes of connections called hw that no card encrypted",
        ("hw_sent_bytes",),
        less=("nic_encrypted_bytes",),
        phase="hw",
    ),
    Rule(
        "hw_fallback",
        SIDECAR,
        ("hw_eligible_connections",),
        Setting(50, ratio=0.5, windows=3),
        "connections that a card could take and that stayed in software",
        ("hw_eligible_connections",),
        outside=True,
        less=("TlsTxDevice",),
        phase="hw",
    ),
    Rule(
        "hw_drops",
        NIC,
        ("nic_drops",),
        Setting(100, ratio=0.001, windows=2),
        "packets that a card or its driver dropped",
        ("nic_encrypted_packets",),
        outside=True,
        phase="hw",
    ),
    Rule(
        "hw_resync",
        NIC,
        ("nic_ooo", "TlsRxDeviceResync"),
        Setting(1000, ratio=0.1, windows=3),
        "packets out of order for a card, and resyncs",
        ("nic_encrypted_packets",),
        outside=True,
        phase="hw",
    ),
)


@dataclass(frozen=True)
class Judgement:
    """What one look gave. ``events`` and ``ratio`` are None when the rule is blind; ``ratio`` also when it has none."""

    state: str
    events: float | None = None
    ratio: float | None = None
    over_s: float | None = None
    """Since when it is over, CLOCK_BOOTTIME."""


@dataclass(frozen=True)
class Trip:
    """A rule that has seen enough."""

    rule: Rule
    setting: Setting
    detail: str
    at_s: float


def weigh(rule: Rule, setting: Setting, old: Reading, new: Reading) -> tuple[bool, float, float | None]:
    """Return (over, events, ratio) of what happened between two readings."""
    events = sum(_moved(rule, old, new, name) for name in rule.counts)
    events = max(0.0, events - sum(_moved(rule, old, new, name) for name in rule.less))
    ratio: float | None = None
    if rule.among:
        # Never more than all: a late error belongs to a connection of an earlier window.
        whole = max(events, sum(_moved(rule, old, new, name) for name in rule.among))
        ratio = events / whole if whole else 0.0
    over = events >= setting.events and events > 0 and (ratio is None or ratio >= setting.ratio)
    return over, events, ratio


class Watcher:
    """One rule over time."""

    def __init__(self, rule: Rule, setting: Setting) -> None:
        """Start with nothing seen."""
        self.rule = rule
        self.setting = setting
        self.judgement = Judgement(DISABLED if not setting.enabled else BLIND)
        self._series: deque[Reading] = deque()
        self._over_s: float | None = None
        self._tripped_s: float | None = None

    def restart(self) -> None:
        """Forget what was seen: it belongs to another order."""
        self._series.clear()
        self._over_s = None
        if self.setting.enabled:
            self.judgement = Judgement(BLIND)

    def rest(self) -> None:
        """There is nothing to watch: another phase is in force."""
        self.restart()
        if self.setting.enabled:
            self.judgement = Judgement(ABSENT)

    def look(self, new: Reading) -> Trip | None:
        """Take the next reading; return a trip if this one was the last that it took."""
        if not self.setting.enabled:
            return None
        setting, series = self.setting, self._series
        seen = new.seen_s.get(self.rule.group)
        if seen is None or new.at_s - seen > setting.stale_s:
            self.judgement = Judgement(BLIND, over_s=self._over_s)
            if self.rule.own and not series:
                series.append(new)
            return None
        if not any(name in new.values for name in self.rule.counts) or set(self.rule.less) - set(new.values):
            self.judgement = Judgement(ABSENT)
            return None
        series.append(new)
        while len(series) > 1 and series[1].at_s <= new.at_s - setting.window_s:
            series.popleft()
        over, events, ratio = weigh(self.rule, setting, series[0], new)
        if not over:
            self._over_s = None
            self.judgement = Judgement(OK, events, ratio)
            return None
        if self._over_s is None:
            self._over_s = new.at_s
        self.judgement = Judgement(OVER, events, ratio, self._over_s)
        if new.at_s - self._over_s < (setting.windows - 1) * setting.window_s:
            return None
        if self._tripped_s is not None and new.at_s - self._tripped_s < setting.cooldown_s:
            return None
        self._tripped_s = new.at_s
        self.judgement = Judgement(TRIPPED, events, ratio, self._over_s)
        return Trip(self.rule, setting, self._detail(new.at_s - series[0].at_s), new.at_s)

    def _detail(self, seconds: float) -> str:
        setting, found = self.setting, self.judgement
        text = f"{found.events:.0f} {self.rule.unit}"
        if not self.rule.gauge:
            text += f" in {seconds:.0f} s"
        limits = f"limit {setting.events:.0f}"
        if found.ratio is not None and setting.ratio:
            text += f", {100 * found.ratio:.1f} % of {_among(self.rule)}"
            limits += f" and {100 * setting.ratio:.1f} %"
        if setting.windows > 1:
            limits += f", for {setting.windows} windows of {setting.window_s:.0f} s"
        return f"{text} ({limits})"


class Watch:
    """All rules together."""

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        """``settings`` by name of the rule; a rule that has none takes its default."""
        self.watchers = tuple(Watcher(rule, settings.get(rule.name, rule.default)) for rule in RULES)

    def restart(self) -> None:
        """Forget what was seen before."""
        for watcher in self.watchers:
            watcher.restart()

    def look(self, reading: Reading, phase: str = "") -> list[Trip]:
        """Show them a reading, taken in ``phase``; return those that trip, the gravest first."""
        trips = []
        for watcher in self.watchers:
            if watcher.rule.phase in ("", phase):
                trips.append(watcher.look(reading))
            else:
                watcher.rest()
        return [trip for trip in trips if trip is not None]


def _among(rule: Rule) -> str:
    return {
        "decrypt_error": "new receiving connections",
        "rekey_error": "changes of keys",
        "ktls_share": "their bytes",
        "hw_frozen": "their bytes",
        "hw_fallback": "them",
        "hw_drops": "packets that cards encrypted",
        "hw_resync": "packets that cards encrypted",
    }.get(rule.name, "new kTLS connections")


def _moved(rule: Rule, old: Reading, new: Reading, name: str) -> float:
    value = new.values.get(name, 0.0)
    return value if rule.gauge else max(0.0, value - old.values.get(name, value))
