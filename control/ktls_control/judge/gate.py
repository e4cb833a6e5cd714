# SPDX-License-Identifier: Apache-2.0
"""The gate of a wave: pass, fail or inconclusive for one host, from two status objects of its agent.

The two objects are the agent's answer right after the order took effect (``before``) and at the end of the soak
(``after``). Missing data is inconclusive, never pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ktls_host import datapath_status
from ktls_host.datapath_status import BOTH, Datapath

from . import hardware, moved
from .check import Check as Check
from .check import Outcome as Outcome

#: Which path the bytes of a phase have to take. Of ``hw`` that is the kernel; what the card did, :mod:`.hardware` asks.
PATH_OF_PHASE: Mapping[str, str] = {"userspace": "userspace", "tx": "ktls_tx", "rx": "ktls_tx_rx", "hw": "ktls_tx"}


@dataclass(frozen=True)
class GatePolicy:
    """What a host must show during the soak.

    :param min_share: smallest share of bytes that must take the phase's path, 0 to 1.
    :param min_bytes: application bytes that must have been served before the share means anything.
    :param card: what is asked of the card in phase ``hw``.
    """

    min_share: float = 0.99
    min_bytes: int = 1_000_000
    card: hardware.Margins = field(default_factory=hardware.Margins)


@dataclass(frozen=True)
class Verdict:
    """The gate's answer for one host, with every check behind it."""

    outcome: Outcome
    checks: tuple[Check, ...]
    share: float | None
    bytes_on_path: int
    bytes_total: int
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """One line: the checks that did not pass, or why it passed."""
        bad = [check for check in self.checks if check.outcome != "pass"]
        return "; ".join(f"{check.name}: {check.detail}" for check in bad) or "all checks passed"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for Ansible results and reports."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "reason": self.reason}


def judge_host(
    phase: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    policy: GatePolicy,
    outside: Mapping[str, Any] | None = None,
    settled: Mapping[str, Any] | None = None,
) -> Verdict:
    """Decide for one host.

    :param phase: the ordered phase, a key of :data:`PATH_OF_PHASE`.
    :param before: agent status after the order, or None when it could not be read.
    :param after: agent status at the end of the soak, or None when the host could not be read.
    :param outside: result of a download from outside the host (``{"ok", "error"}``), None when none was asked for.
    :param settled: of a datapath that does not tell connections apart: the first status that shows nothing any more of
        before the order. Its bytes count from there.
    :raises KeyError: for a phase that has no path.
    """
    path = PATH_OF_PHASE[phase]
    if before is None or after is None:
        check = Check("reachable", "fail", "the host did not answer during the soak")
        return Verdict("fail", (check,), None, 0, 0)
    datapath = datapath_status.of(after)
    sent = moved_bytes(phase, before, after, settled)
    presumed = 0 if datapath.is_sidecar else moved.presumed(path, settled or before, after)
    checks = [
        Check("reachable", "pass", "agent answered"),
        _order_check(phase, after),
        _phase_check(phase, after),
        _probe_check(phase, after),
        _errors_check(before, after, datapath),
        _share_check(path, sent, policy)
        if datapath.is_sidecar
        else _presuming(presumed, _seen_share(path, sent, policy, datapath, settled)),
    ]
    if phase != "userspace":
        checks.append(_kernel_check(phase, before, after, _trial(after)))
    if phase == "tx":
        checks.append(_receive_check(after, datapath))
    if phase == "hw":
        checks += hardware.checks(before, after, policy.card)
    if outside is not None:
        checks.append(
            Check("outside", "pass", "content hash matches")
            if outside.get("ok")
            else Check("outside", "fail", str(outside.get("error") or "no result"))
        )
    total = sum(sent.values()) if sent else 0
    on_path = sent.get(path, 0) if sent else 0
    return Verdict(
        _worst(checks),
        tuple(checks),
        on_path / total if total else None,
        on_path,
        total,
        {
            "epoch": after.get("epoch"),
            "tls_stat": after.get("tls_stat"),
            "sockets": after.get("sockets"),
            **({} if datapath.is_sidecar else {"datapath": datapath.kind, "means": datapath.means(phase)}),
            **({"hw": hardware.moved(before, after).as_dict()} if phase == "hw" else {}),
            **({"presumed": presumed} if presumed else {}),
        },
    )


def _worst(checks: list[Check]) -> Outcome:
    outcomes = {check.outcome for check in checks}
    if "fail" in outcomes:
        return "fail"
    return "inconclusive" if "inconclusive" in outcomes else "pass"


def moved_bytes(
    phase: str, before: Mapping[str, Any], after: Mapping[str, Any], settled: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Bytes by path between two readings; empty when a reading lacks them or the datapath restarted.

    :param settled: see :func:`judge_host`.
    """
    if not datapath_status.of(after).is_sidecar:
        return moved.by_kernel(PATH_OF_PHASE[phase], settled or before, after)
    first, last = _sidecar(before), _sidecar(after)
    if first is None or last is None or first.get("pid") != last.get("pid"):
        return {}
    trial = _trial(before) or _trial(after)
    earlier, later = _sent_under(phase, first, trial), _sent_under(phase, last, trial)
    if earlier is None or later is None:
        if phase == "rx":
            # The plain sums do not tell who received in the kernel.
            return {}
        earlier, later = first["bytes"], last["bytes"]
    grown = {key: count - earlier.get(key, 0) for key, count in later.items()}
    return {} if any(count < 0 for count in grown.values()) else grown


def _trial(status: Mapping[str, Any]) -> bool:
    """Whether the agent runs an experiment: then connections that draw userspace are meant to."""
    experiment = status.get("experiment")
    return isinstance(experiment, Mapping) and experiment.get("state") == "running"


def _sent_under(phase: str, sidecar: Mapping[str, Any], trial: bool) -> Mapping[str, int] | None:
    """Bytes by path of the connections that drew the phase's mode; None when that cannot be told.

    What was accepted before the order goes on as it began and says nothing about the phase. While the share is one,
    nothing that is accepted after the order draws another mode. A smaller one is accepted from an experiment alone.
    """
    rows = sidecar.get("by")
    if phase == "userspace" or not isinstance(rows, Sequence) or (sidecar.get("share") != 1 and not trial):
        return None
    path = PATH_OF_PHASE[phase]
    sent = {path: 0, "other": 0}
    for row in rows:
        if row["assigned"] == phase:
            # Receiving in the kernel as well is for _receive_check to complain of.
            sent[path if row["path"].startswith(path) else "other"] += row["bytes_total"]
    return sent


def _sidecar(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    sidecar = status.get("sidecar")
    return sidecar if isinstance(sidecar, Mapping) and isinstance(sidecar.get("bytes"), Mapping) else None


def _order_check(phase: str, after: Mapping[str, Any]) -> Check:
    state = after.get("order")
    if state in ("pending", "committed") and after.get("ordered_phase") == phase:
        return Check("order", "pass", f"{state}")
    return Check("order", "fail", f"order is {state}: {after.get('revert_reason') or 'no reason given'}")


def _phase_check(phase: str, after: Mapping[str, Any]) -> Check:
    seen, means = after.get("phase"), datapath_status.of(after).means(phase)
    # An agent may call what is in force by its full name.
    return Check("phase", "pass" if seen in (phase, means) else "fail", f"in force: {seen}, ordered: {means}")


def _probe_check(phase: str, after: Mapping[str, Any]) -> Check:
    probe = after.get("probe")
    if not isinstance(probe, Mapping):
        return Check("probe", "inconclusive", "the host has not downloaded from itself")
    content = probe.get("sha256_ok", False)
    if not probe.get("ok") or content not in (True, None):
        return Check("probe", "fail", str(probe.get("error") or "content hash differs"))
    if phase != "userspace" and probe.get("ktls_tx") is not True and not _trial(after):
        return Check("probe", "fail", "its own download was not sent through kTLS")
    if phase == "rx" and probe.get("ktls_rx") is not True and not _trial(after):
        return Check("probe", "fail", "its own download was not received through kTLS")
    if content is None:
        return Check("probe", "inconclusive", "its own connection is kTLS, and there was no content to compare")
    return Check("probe", "pass", "content hash matches")


def _errors_check(before: Mapping[str, Any], after: Mapping[str, Any], datapath: Datapath) -> Check:
    """Failures since the order. What our own server counts is wrong by itself; another's may be usual."""
    who = "sidecar" if datapath.is_sidecar else datapath.unit or datapath.kind
    first, last = (_served(status, datapath) for status in (before, after))
    if first is None or last is None:
        missing = f"the {who} did not answer" if datapath.is_sidecar else f"{who} did not answer"
        return Check("errors", "inconclusive", str(after.get("sidecar_error") or missing))
    if first.get("pid") != last.get("pid"):
        return Check("errors", "fail", f"the {who} restarted during the soak")
    earlier, later = first.get("errors"), last.get("errors")
    if not datapath.is_sidecar and not (isinstance(earlier, Mapping) and isinstance(later, Mapping)):
        return Check("errors", "inconclusive", f"{who} counts no failures: nobody can tell how many there were")
    earlier, later = earlier or {}, later or {}
    new = {name: count - earlier.get(name, 0) for name, count in later.items() if count > earlier.get(name, 0)}
    if new:
        words = ", ".join(f"{k} +{v}" for k, v in new.items())
        return Check("errors", "fail", f"new {who} errors: {words}")
    return Check("errors", "pass", f"no new {who} errors")


def _served(status: Mapping[str, Any], datapath: Datapath) -> Mapping[str, Any] | None:
    """What the datapath said; another server need not know of bytes."""
    if datapath.is_sidecar:
        return _sidecar(status)
    found = status.get("sidecar")
    return found if isinstance(found, Mapping) else None


def _seen_share(
    path: str, sent: Mapping[str, int], policy: GatePolicy, datapath: Datapath, settled: Mapping[str, Any] | None
) -> Check:
    """The share as the kernel saw it, never too high.

    A low one is no failure while connections of before the order count in it, or while what nobody could attribute
    would make the difference.
    """
    check = _share_check(path, sent, policy)
    if check.outcome != "fail":
        return check
    lost, total = sent.get(moved.LOST, 0), sum(sent.values())
    if sent.get(path, 0) + lost >= policy.min_share * total:
        return Check("share", "inconclusive", f"{check.detail}; {lost} of them nobody could attribute")
    if settled is not None:
        return check
    counts = (
        ("process", "processes", datapath.draining_processes),
        ("connection", "connections", datapath.draining_connections),
    )
    left = [f"{count} old {one if count == 1 else many}" for one, many, count in counts if count]
    why = f"{' with '.join(left)} still serve what they began" if left else "bytes of before the order are in it"
    return Check("share", "inconclusive", f"{check.detail}; {why}")


def _presuming(number: int, check: Check) -> Check:
    """Name what the share rests on beside what the kernel showed."""
    if not number:
        return check
    return Check(check.name, check.outcome, f"{check.detail}; {number} on the host presumed, of its own clients")


def _share_check(path: str, moved: Mapping[str, int], policy: GatePolicy) -> Check:
    if not moved:
        return Check("share", "inconclusive", "no byte counts over the whole soak")
    total = sum(moved.values())
    if total < policy.min_bytes:
        return Check(
            "share", "inconclusive", f"{total} bytes served during the soak, {policy.min_bytes} needed to judge"
        )
    share = moved.get(path, 0) / total
    # Floor, so that 98.999 % never reads as the 99 % it missed.
    text = f"{int(share * 10000) / 100:.2f} % of {total} bytes by {path}"
    return Check("share", "pass" if share >= policy.min_share else "fail", text)


def _kernel_check(phase: str, before: Mapping[str, Any], after: Mapping[str, Any], trial: bool) -> Check:
    """The kernel's own counters have to agree with what the sidecar says of itself."""
    first, last = before.get("tls_stat") or {}, after.get("tls_stat") or {}
    if phase == "hw":
        return _hw_kernel_check(first, last)
    wanted = {"TlsTxSw": "transmit"} if phase == "tx" else {"TlsTxSw": "transmit", "TlsRxSw": "receive"}
    if any(name not in last for name in wanted):
        return Check("kernel", "inconclusive", "/proc/net/tls_stat could not be read")
    errors = last.get("TlsDecryptError", 0) - first.get("TlsDecryptError", 0)
    if errors > 0:
        return Check("kernel", "fail", f"TlsDecryptError +{errors}")
    opened = {name: last[name] - first.get(name, 0) for name in wanted}
    for name, count in opened.items():
        if count <= 0 and trial:
            return Check("kernel", "inconclusive", f"{name} did not move, maybe for the experiment's sake")
        if count <= 0:
            return Check("kernel", "fail", f"{name} did not move: the kernel opened no {wanted[name]} session")
    return Check("kernel", "pass", ", ".join(f"{name} +{count}" for name, count in opened.items()))


def _hw_kernel_check(first: Mapping[str, Any], last: Mapping[str, Any]) -> Check:
    if "TlsTxSw" not in last or "TlsTxDevice" not in last:
        return Check("kernel", "inconclusive", "/proc/net/tls_stat could not be read")
    errors = last.get("TlsDecryptError", 0) - first.get("TlsDecryptError", 0)
    if errors > 0:
        return Check("kernel", "fail", f"TlsDecryptError +{errors}")
    opened = {name: last[name] - first.get(name, 0) for name in ("TlsTxDevice", "TlsTxSw")}
    if sum(opened.values()) <= 0:
        return Check("kernel", "inconclusive", "the kernel opened no transmit session")
    return Check("kernel", "pass", ", ".join(f"{name} +{count}" for name, count in opened.items()))


def _receive_check(after: Mapping[str, Any], datapath: Datapath) -> Check:
    """Transmit-only means that no socket of the datapath decrypts in the kernel; ``tx+rx`` means that they do."""
    sockets = after.get("sockets")
    if not isinstance(sockets, Mapping) or "ktls_rx" not in sockets:
        return Check("receive", "inconclusive", "sockets could not be read from the kernel")
    count = int(sockets["ktls_rx"])
    if datapath.means("tx") == BOTH:
        return Check("receive", "pass", f"{count} connections receive through kTLS, as {BOTH} means")
    return Check("receive", "pass" if count == 0 else "fail", f"{count} connections receive through kTLS")
