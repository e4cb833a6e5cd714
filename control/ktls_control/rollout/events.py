# SPDX-License-Identifier: Apache-2.0
"""The events of a rollout's journal: their names and what each carries.

A line of the journal is one JSON object: ``seq`` (from 1), ``at`` (seconds since the epoch, control node), ``event``,
the event's own keys, ``prev`` (``sha256`` of the line before, empty for the first) and ``sha256``.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Keys of each event. Those that end in ``?`` may be missing.
EVENTS: Mapping[str, tuple[str, ...]] = {
    # means?, datapaths?: where not the sidecar serves everywhere: what the phase is there; {datapath: number of hosts}
    "run_started": (
        "run",
        "fleet",
        "epoch",
        "phase",
        "plan_sha256",
        "operator",
        "hosts",
        "waves",
        "means?",
        "datapaths?",
    ),
    "run_resumed": ("operator", "epoch"),
    "wave_opened": ("wave", "name", "hosts", "attempt", "order_id", "epoch", "lease_s"),
    "host_ordered": ("wave", "host", "ok", "error?", "code?", "ordered_at_s?", "boot_id?"),
    "soak_started": ("wave", "min_s", "max_s"),
    # hosts: {name: {reachable, phase, lease_left_s, connections, sent, ktls, share, hw?, error?}}; hw: a
    # judge.hardware.Moved as a dict, since the order
    # failed?: {name: why}: hosts that count as failed from now on
    # interim?: what the judge said so far, as in verdict, without its hosts
    "observed": ("wave", "hosts", "interim?", "failed?"),
    # verdict: a judge.model.WaveVerdict as a dict; recheck: hosts of earlier waves that are not well, with why;
    # sentinel: of phase hw, sight and why
    "verdict": ("wave", "outcome", "verdict", "recheck", "sentinel?"),
    # Phase hw. sight: clean, leak, blind, or none where nobody watches; written when it is another than before
    "sentinel": ("wave", "sight", "why"),
    # The whole fleet was switched off, as `ktls off` does it, because of what a sentinel saw. hosts: {name: {off,
    # error?}}; times in seconds since it began
    "fleet_off": ("by", "why", "ok", "hosts", "error?", "last_new_s?", "drained_90_s?", "none_left_s?"),
    # on: approval, paused, inconclusive, freeze; until? seconds since the epoch
    "waiting": ("wave", "on", "until?"),
    "waited": ("wave", "on", "by?"),
    # verb: pause, resume, promote, abort, off
    "control": ("verb", "by", "why?"),
    "confirming": ("wave",),
    "host_confirmed": ("wave", "host", "ok", "error?", "code?"),
    "wave_promoted": ("wave",),
    "wave_reverting": ("wave", "why"),
    # A host that could not be reached, by itself: lease_left_s? says when its lease takes it back; holds? is "yes" when
    # its confirmation arrived, so that nothing does, and "unknown" when that may be.
    # failed?: of an earlier wave, which a later gate found not well: why; it counts against the failure budget
    "host_reverted": ("wave", "host", "ok", "error?", "lease_left_s?", "holds?", "failed?"),
    "wave_reverted": ("wave", "why"),
    # to?: host of the receiver; of?: seq of the event that it was told of
    "notified": ("trigger", "ok", "error?", "to?", "of?"),
    # outcome: completed, failed, aborted, off
    "run_ended": ("outcome", "why?"),
}

#: Keys that the journal itself gives to every event.
OWN = ("seq", "at", "event", "prev", "sha256")


def problem(name: str, keys: Mapping[str, object]) -> str | None:
    """What is wrong with an event before it is written; None when nothing is."""
    if name not in EVENTS:
        return f"there is no event {name!r}"
    wanted = {key for key in EVENTS[name] if not key.endswith("?")}
    allowed = wanted | {key.rstrip("?") for key in EVENTS[name]}
    missing, unknown = sorted(wanted - set(keys)), sorted(set(keys) - allowed)
    if missing or unknown:
        return f"event {name}: missing keys {missing}, unknown keys {unknown}"
    return None
