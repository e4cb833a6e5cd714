# SPDX-License-Identifier: Apache-2.0
"""Status of a fleet and the kill switch by push, over the fan-out."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .fanout import DEFAULT_POOL, UNREACHABLE, Answer, _close, ask, each, run, unreached
from .inventory import Host
from .ssh import connect

AGENT = "/usr/local/bin/ktls-agent"
OFF = "/usr/local/sbin/ktls-off"
#: Seconds between looks while old connections drain.
_LOOK_AGAIN_S = 0.5


def read_status(hosts: Sequence[Host], pool: int = DEFAULT_POOL) -> dict[str, Any]:
    """The fleet as one object, keyed by host name in the order given (see ``ktls status --json``)."""
    answers = {answer.host.name: answer for answer in run(hosts, f"{AGENT} status --json", pool=pool)}
    return {"hosts": {host.name: host_status(answers[host.name]) for host in hosts}}


def host_status(answer: Answer) -> dict[str, Any]:
    """One host's entry: what its agent said, or ``reachable: false`` and why."""
    status = answer.json()
    if not answer.reached:
        return {"reachable": False, "error": answer.error}
    if status is None or not status.get("ok"):
        return {"reachable": True, "error": f"{answer.host.name}: {answer.complaint}"}
    keep = ("phase", "order", "epoch", "tls_stat", "connections", "bytes")
    more = ("order_id", "ordered_phase", "lease_left_s", "revert_reason", "off", "sockets", "probe", "host", "version")
    entry = {"reachable": True, **{key: status.get(key) for key in keep + more}}
    if status.get("sidecar_error"):
        entry["error"] = f"{answer.host.name}: {status['sidecar_error']}"
    return entry


@dataclass(frozen=True)
class OffResult:
    """What off did on one host, read back from it.

    :param flag: the off flag is up on the host.
    :param off: read back: userspace is in force.
    :param last_new_s: seconds from the start of off to the last new kTLS connection; 0 when there was none after it.
    :param none_left_s: seconds from the start of off until no kTLS connection was left; None while some are.
    :param left: kTLS connections still open at the last look.
    """

    host: str
    reachable: bool
    flag: bool
    off: bool
    last_new_s: float | None
    none_left_s: float | None
    left: int | None
    error: str | None

    @property
    def ok(self) -> bool:
        """The host is back on userspace TLS, and it said so itself."""
        return self.off


def switch_off(
    hosts: Sequence[Host],
    *,
    reason: str,
    drain_s: float = 15.0,
    pool: int = DEFAULT_POOL,
    progress: Callable[[OffResult], None] = lambda _result: None,
) -> list[OffResult]:
    """Raise the off flag on every host at once, then read back until old connections are gone.

    :param drain_s: how long to watch old connections drain; the flag itself does not wait for that.
    :returns: one result for each host, in the order given.
    """
    started = time.time()
    results: dict[str, OffResult] = {}

    def work(host: Host) -> Answer:
        result = _off_one(host, reason, started, drain_s)
        results[host.name] = result
        progress(result)
        return Answer(host, result.reachable, 0, "", "", result.error, time.time())

    for _answer in each(hosts, work, pool):
        pass
    return [results[host.name] for host in hosts]


def _off_one(host: Host, reason: str, started: float, drain_s: float) -> OffResult:
    flag = False
    connection = None
    try:
        connection = connect(host)
        raised = ask(connection, host, f"{OFF} {shlex.quote(reason)}")
        flag = raised.ok
        if not flag:
            return OffResult(host.name, True, False, False, None, None, None, f"{host.name}: {raised.complaint}")
        return _watch_drain(connection, host, started, drain_s)
    except UNREACHABLE as error:
        return OffResult(host.name, False, flag, False, None, None, None, unreached(host, error).error)
    finally:
        if connection is not None:
            _close(connection)


def _watch_drain(connection: Any, host: Host, started: float, drain_s: float) -> OffResult:
    while True:
        answer = ask(connection, host, f"{AGENT} status --json")
        result = off_result(host.name, answer.json(), answer.at, started)
        if (result.off and result.left == 0) or time.time() - started > drain_s:
            if result.error is None and not result.off:
                return OffResult(
                    host.name, True, True, False, None, None, result.left,
                    f"{host.name}: flag is up, but the agent did not confirm: {answer.complaint}",
                )  # fmt: skip
            return result
        time.sleep(_LOOK_AGAIN_S)


def off_result(name: str, status: Mapping[str, Any] | None, at: float, started: float) -> OffResult:
    """Turn a host's status after the flag into an :class:`OffResult`. Pure.

    Ages are the host's own, so clocks need not agree: an age of 2 s in an answer that arrived 5 s after the start
    means 3 s. The way back adds to the figure, so it errs on the late side.

    :param at: control node's time when the answer arrived.
    :param started: control node's time when off began.
    """
    if not status or not status.get("ok"):
        return OffResult(name, True, True, False, None, None, None, None)
    sidecar = status.get("sidecar") or {}
    left = int((status.get("connections") or {}).get("ktls_tx", 0))
    return OffResult(
        host=name,
        reachable=True,
        flag=bool((status.get("off") or {}).get("flag")),
        off=status.get("phase") == "userspace" and bool((status.get("off") or {}).get("flag")),
        last_new_s=_since(sidecar.get("last_ktls_tx_established_age_s"), at, started, never=0.0),
        none_left_s=None if left else _since(sidecar.get("ktls_tx_zero_age_s"), at, started, never=0.0),
        left=left,
        error=None,
    )


def _since(age_s: float | None, at: float, started: float, *, never: float) -> float:
    return never if age_s is None else max(0.0, at - float(age_s) - started)
