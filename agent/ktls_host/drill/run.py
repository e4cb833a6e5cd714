# SPDX-License-Identifier: Apache-2.0
"""The procedure. Whatever happens on the way, the host ends in userspace TLS, and an off flag of others stays.

On is an order like any other, with a lease of its own, so a drill that dies takes itself back. Off is the way of last
resort, ``ktls-off`` typed on the host: that is the one that has to work when nothing else does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .. import datapath_status
from ..datapath_status import Datapath
from ..errors import KtlsError
from ..proof.openssl import Proof
from ..tls_stat import open_contexts as _open
from . import card, served
from .model import DrillError, Result, Wish
from .snapshot import Snapshot, differences
from .updates import BREAKS, summary

_USERSPACE, _HW = "userspace", "hw"
_ORDER_S = 90.0  # helpers have to start, and the agent tests itself; slow on an emulated host
_OFF_S, _UNDONE_S, _QUIET_S = 90.0, 120.0, 15.0
#: What the shell alone notes when it was the lease that ended.
_LEASE_STEPS = frozenset({"order", "flag", "lease"})
_QUICK_S, _POLL_S = 0.05, 0.2
_RECORDS = "/var/lib/ktls-levers"
_PLAN = "0" * 64  # no plan ordered it
_TRACES = (
    "/run/ktls/off", "/run/ktls/stuck", "/var/lib/ktls/off", "/var/lib/ktls/lease", "/var/lib/ktls/intent.json",
)  # fmt: skip


class Process(Protocol):
    """``ktls-off``, running."""

    def wait(self, timeout: float) -> int:
        """Return its exit status. Raises subprocess.TimeoutExpired."""


class Host(Protocol):
    """What a drill needs of a host; see :mod:`.host`."""

    def agent(self, timeout_s: float = ..., **request: Any) -> dict[str, Any]: ...
    def sidecar(self) -> dict[str, Any]: ...
    def restore_cards(self) -> None: ...
    def start_off(self, reason: str, unload: bool) -> Process: ...
    def tls_stat(self) -> dict[str, int]: ...
    def snapshot(self, places: Sequence[str] = ...) -> Snapshot: ...
    def there(self, paths: Sequence[str]) -> list[str]: ...
    def prove(self) -> Proof: ...
    def stack(self) -> dict[str, str]: ...
    def time(self) -> float: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


def drill(host: Host, wish: Wish) -> Result:
    """Carry it out. Never raises: what went wrong is the result."""
    run = _Run(host, wish)
    started = host.monotonic()
    try:
        run.all()
        run.result.ok = True
    except KtlsError as error:
        run.result.why, run.result.step, run.result.code = error.message, run.step, error.code
        run.result.refused = run.step == "look"
        if run.step not in ("look", "keyupdate"):
            run.back()
    run.result.durations["total_s"] = round(host.monotonic() - started, 3)
    run.result.at = host.time()
    run.tell()
    return run.result


class _Run:
    def __init__(self, host: Host, wish: Wish) -> None:
        self.result = Result(wish.id, phase=wish.phase)
        self.step = "look"
        self._host = host
        self._wish = wish
        self._reason = f"ktls drill {wish.id}"
        self._before: Snapshot = {}
        self._others = False  # the kernel had TLS contexts before
        self._off_at = 0.0
        self._ordered: Mapping[str, Any] = {}
        self._datapath = Datapath()

    def all(self) -> None:
        """Raises :class:`KtlsError`; :attr:`step` says where."""
        status = self._look()
        if self._wish.keyupdate:
            self.step = "keyupdate"
            self._new_keys()
        self.step = "look"
        self._before = self._snapshot()
        self._others = _open(self._host.tls_stat()) > 0
        self.step = "enable"
        if self._wish.phase == _HW:
            self.result.protocol = self._protocol()
        self._enable(status)
        if self._wish.phase == _HW:
            self.step = "card"
            self._card()
        self.step = "off"
        self._switch_off()
        self.step = "drain"
        self._drain()
        self.step = "undone"
        self._undone()
        self.step = "probe"
        self._probe()
        self.step = "clear"
        self._clear()
        self.step = "compare"
        self._compare()

    def _look(self) -> dict[str, Any]:
        status = self._host.agent(verb="status")
        sidecar = status.get("sidecar")
        self._datapath = datapath_status.of(status)
        ours = self._datapath.is_sidecar and isinstance(sidecar, dict)
        self.result.host = {
            **self._host.stack(),
            "agent": status.get("version"),
            "sidecar": sidecar.get("version") if ours and sidecar else None,
            "boot_id": status.get("boot_id"),
            **served.named(self._datapath),
        }
        self.result.means = self._datapath.means(self._wish.phase)
        order, phase = status.get("order"), status.get("ordered_phase")
        if (status.get("off") or {}).get("flag"):
            raise DrillError("off_latched", "the off flag is set: find out why, and clear it (`ktls-agent clear`)")
        if status.get("stuck") or order == "stuck":
            raise DrillError("stuck", "a revert is stuck: repair it, then `ktls-agent clear` as root")
        if not isinstance(sidecar, dict):
            who = "the sidecar" if self._datapath.is_sidecar else self._datapath.unit or self._datapath.kind
            raise DrillError("sidecar_unreachable", f"{who} does not answer: {status.get('sidecar_error')}")
        served.refuse(self._datapath, self._wish.phase)
        if self._wish.phase == _HW and not card.interfaces(status):
            raise DrillError("drill_card", "no interface of this host can offload TLS: see preflight for phase hw")
        held = order == "pending" or (order == "committed" and phase != _USERSPACE) or status.get("phase") != _USERSPACE
        if held and not self._wish.force:
            what = f"order {status.get('order_id')} ({phase}) is {order}"
            raise DrillError(
                "in_use", f"{what}: a drill would take it away; drill before a rollout, or say so (force, --force)"
            )
        if held:
            self.result.left = f"userspace; {phase} was {order} before: order it again"
        return status

    def _new_keys(self) -> None:
        found = self.result.keyupdate = summary(self._host.prove())
        if not found["done"]:
            raise DrillError("drill_keyupdate", f"the KeyUpdate matrix could not be made: {found['why']}")
        if not found["ciphers"]:
            raise DrillError(
                "drill_keyupdate", "this kernel and OpenSSL transmit by kTLS with no cipher: see preflight"
            )
        # What a phase needs is for preflight to say. Data that breaks without any KeyUpdate being asked for is more.
        if found["tx"] is not None and found["tx"]["peer"] == BREAKS:
            raise DrillError("drill_keyupdate", "a peer's new keys break connections that only transmit by kTLS")

    def _enable(self, status: Mapping[str, Any]) -> None:
        held = status.get("order") == "pending"
        # The host's own number: a rollout that is planned or under way is not fenced off by a drill.
        epoch = max(1, int(status.get("epoch") or 0) + held)
        phase = self._wish.phase
        lease_s = self._wish.lease_s + (self._wish.card_s if phase == _HW else 0.0)
        order = {"id": self._wish.id, "epoch": epoch, "phase": phase, "lease_s": lease_s, "plan_sha256": _PLAN}
        sessions = self._sessions()
        started = self._host.monotonic()
        answer = self._host.agent(_ORDER_S, verb="order", order=order)
        self._took("enable_s", started)
        self._ordered = answer
        probe = answer.get("probe") or {}
        in_force = answer.get("phase") in (phase, self._datapath.means(phase))
        if not in_force or (answer.get("order"), answer.get("tested")) != ("pending", True):
            raise DrillError("drill_enable", f"the order is {answer.get('order')}, the phase {answer.get('phase')}")
        if not (probe.get("ok") and probe.get("sha256_ok") is not False and probe.get("ktls_tx") is True):
            raise DrillError("drill_enable", f"the self-test does not prove kTLS: {probe.get('error') or 'userspace'}")
        if self._sessions() <= sessions:
            raise DrillError("drill_enable", "TlsTxSw did not move: the kernel opened no transmit session")

    def _sessions(self) -> int:
        found = self._host.tls_stat()
        return found.get("TlsTxSw", 0) + found.get("TlsTxDevice", 0)

    def _card(self) -> None:
        """Not what connections are called, but what the card says that it has encrypted."""
        started = self._host.monotonic()

        def worked() -> bool:
            status = self._host.agent(verb="status")
            found = card.seen(self._ordered, status)
            self.result.card = found.as_dict()
            off = [name for name, on in card.interfaces(status).items() if not on]
            told.append(found.words + (f"; TLS transmit offload is off on {', '.join(off)}" if off else ""))
            return found.proved

        told = [""]
        try:
            self._until(self._wish.card_s, _POLL_S, f"the card encrypts {card.ENOUGH_BYTES} bytes", worked)
        except DrillError as error:
            if not told[-1]:
                raise
            raise DrillError(
                error.code,
                f"{error.message}; seen: {told[-1]}; somebody has to download by TLS 1.2 with AES-GCM meanwhile: "
                "clients, a sentinel, or the control node (ktls_probe_url)",
            ) from error
        self._took("card_s", started)

    def _protocol(self) -> str:
        probe = self._host.agent(_ORDER_S, verb="probe").get("probe") or {}
        return str(probe.get("protocol") or "")

    def _switch_off(self) -> None:
        started = self._off_at = self._host.monotonic()
        process = self._host.start_off(self._reason, False)
        self._until(
            _OFF_S, _QUICK_S, "new connections are userspace", lambda: self._sidecar("effective_mode") == _USERSPACE
        )
        self._took("off_s", started)
        self._ended(process)

    def _ended(self, process: Process) -> None:
        try:
            code = process.wait(_OFF_S)
        except subprocess.TimeoutExpired as error:
            raise DrillError("drill_off", f"ktls-off did not end within {_OFF_S:g} s") from error
        if code != 0:
            raise DrillError("drill_off", f"ktls-off ended with status {code}: see /run/ktls/revert")

    def _undone(self) -> None:
        def done() -> bool:
            status = self._host.agent(verb="status")
            steps = status.get("revert") or []
            failed = [f"{step['step']}: {step.get('detail')}" for step in steps if step["result"] == "failed"]
            if status.get("stuck"):
                raise DrillError("drill_undone", f"the revert is stuck: {'; '.join(failed)}")
            # The shell has taken its steps at once; the agent's own may need a helper, and another try.
            # Of a datapath the shell's own step is the one that counts: it is what works without an agent.
            # On a slow host the lease ends meanwhile, and its timer does the same once more: that is noted too.
            shells = _LEASE_STEPS if self._datapath.is_sidecar else {*_LEASE_STEPS, "datapath"}
            own = [step for step in steps if step["step"] not in shells]
            mine = bool(own) and not failed and all(step["by"] == "agent" for step in own)
            flag = bool((status.get("off") or {}).get("flag"))
            return mine and flag and (status.get("order"), status.get("phase")) == ("reverted", _USERSPACE)

        self._until(_UNDONE_S, _POLL_S, "the agent has taken the order back", done)

    def _probe(self) -> None:
        probe = self._host.agent(_ORDER_S, verb="probe").get("probe") or {}
        if not (probe.get("ok") and probe.get("sha256_ok") is not False):
            raise DrillError("drill_probe", f"a download after off failed: {probe.get('error')}")
        if probe.get("ktls_tx") is not False:
            raise DrillError("drill_probe", "a download after off is not shown to be userspace TLS")
        if self.result.protocol and probe.get("protocol") != self.result.protocol:
            raise DrillError(
                "drill_probe",
                f"versions are not as they were: {self.result.protocol} before, {probe.get('protocol')} now",
            )

    def _drain(self) -> None:
        def gone() -> bool:
            if not self._datapath.is_sidecar:
                return self._drained()
            status = self._host.sidecar()
            left = int(status["connections"]["ktls_tx"]) + int((status.get("ktls_rx") or {}).get("connections", 0))
            # Where others have kTLS too, theirs come and go: then the sidecar's own count has to do.
            return left == 0 and (self._others or not _open(self._host.tls_stat()))

        self._until(self._wish.drain_s, _POLL_S, "every kTLS connection has gone", gone)
        self._took("drained_s", self._off_at)

    def _drained(self) -> bool:
        """Of another datapath: no old process, and no connection in the kernel, by whoever can tell."""
        status = self._host.agent(verb="status")
        open_now = _open(self._host.tls_stat())
        left = served.kernel_connections(status.get("sidecar") or {})
        if left is None and self._others and open_now:
            raise DrillError("drill_drain", "nobody can tell its kTLS connections from those of other programs")
        old = datapath_status.of(status).draining_processes or 0
        # What the kernel told the agent is some seconds old; none in the kernel at all is none here either.
        return not old and (not open_now or (self._others and left == 0))

    def _clear(self) -> None:
        if self._before.get("module tls") == "not loaded":
            self._ended(self._host.start_off(self._reason, True))
        self._clear_ours()
        self._until(_QUIET_S, _POLL_S, "flags, marks and lease have gone", lambda: not self._host.there(_TRACES))

    def _clear_ours(self) -> None:
        off = self._host.agent(verb="status").get("off") or {}
        if off.get("flag") and off.get("reason") != self._reason:
            self.result.left = f"userspace; off is set by others ({off.get('reason') or 'no reason given'}) and stays"
            raise DrillError("drill_clear", "somebody else switched this host off during the drill")
        status = self._host.agent(verb="clear")
        if (status.get("off") or {}).get("flag") or status.get("phase") != _USERSPACE:
            raise DrillError("drill_clear", f"after clear the host is {status.get('phase')}, and the flag may be there")

    def _compare(self) -> None:
        after = self._snapshot()
        if _left_by_off(self._before, after):
            self._host.restore_cards()
            after = self._snapshot()
        self.result.compared = len(self._before)
        self.result.differences = differences(self._before, after)
        if self.result.differences:
            more = len(self.result.differences) - 1
            # What is there says more than our records of it.
            worst = min(self.result.differences, key=lambda line: line.startswith(_RECORDS))
            first = worst + (f", and {more} more" if more else "")
            raise DrillError("drill_compare", f"not as it was: {first}")

    def back(self) -> None:
        """After a failure: userspace TLS, by whichever way works, read back."""
        problems: list[str] = []
        try:
            status = self._host.agent(_ORDER_S, verb="revert", reason=f"{self._reason} failed at {self.step}")
            if status.get("phase") == _USERSPACE and isinstance(status.get("sidecar"), dict):
                if (status.get("off") or {}).get("flag") and not self.result.left:
                    self._clear_ours()
                self.result.left = self.result.left or "userspace"
                return
            problems.append(f"after a revert the phase is {status.get('phase')}")
        except KtlsError as error:
            problems.append(error.message)
        try:
            self._ended(self._host.start_off(f"{self._reason} failed at {self.step}", False))
            self.result.left = "userspace; the off flag is set: look at the host, then `ktls-agent clear` as root"
        except KtlsError as error:
            problems.append(error.message)
            self.result.left = f"NOT SHOWN to be userspace ({'; '.join(problems)}): run ktls-off on the host"

    def tell(self) -> None:
        """Let the agent keep it: in its trail, its status and its metrics. One that cannot is no failure of a drill."""
        if self.result.refused:
            return
        found = self.result
        kept = {
            "id": found.id, "ok": found.ok, "at": round(found.at, 3), "step": found.step, "why": found.why[:500],
            "left": found.left[:500], "durations": found.durations, "host": dict(found.host),
        }  # fmt: skip
        try:
            self._host.agent(verb="drilled", drill=kept)
        except KtlsError as error:
            self.result.left = self.result.left or f"the agent did not keep the result: {error.message}"

    def _snapshot(self) -> Snapshot:
        places = served.places(self._datapath)
        return self._host.snapshot(places) if places else self._host.snapshot()

    def _sidecar(self, key: str) -> Any:
        try:
            if not self._datapath.is_sidecar:
                return (self._host.agent(verb="status").get("sidecar") or {}).get(key)
            return self._host.sidecar().get(key)
        except KtlsError:
            return None  # asked again until the time is over

    def _until(self, limit_s: float, every_s: float, what: str, done: Callable[[], bool]) -> None:
        deadline = self._host.monotonic() + limit_s
        while True:
            try:
                if done():
                    return
                why = ""
            except DrillError:
                raise
            except KtlsError as error:
                why = f": {error.message}"
            if self._host.monotonic() >= deadline:
                raise DrillError(f"drill_{self.step}", f"not within {limit_s:g} s: {what}{why}")
            self._host.sleep(every_s)

    def _took(self, name: str, since: float) -> None:
        self.result.durations[name] = round(self._host.monotonic() - since, 3)


def _left_by_off(before: Snapshot, after: Snapshot) -> bool:
    """Whether cards differ by what off leaves on purpose: features off, what they were first on record. Pure.

    One that is on and was not is none of that: nothing here may hide it.
    """
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    features = [name for name in changed if " tls-hw-" in name]
    stays_on = any(after.get(name, "").startswith("on") for name in features)
    return not stays_on and any(name in features or name.startswith(_RECORDS) for name in changed)
