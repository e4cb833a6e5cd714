# SPDX-License-Identifier: Apache-2.0
"""Raises the off flag on every host at once, and reads back until old connections are gone."""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import openssh
from ..children import FULL, Child, Children
from ..inventory import Host
from .hear import Hearing
from .latency import drained
from .local import LocalHosts, socket_of
from .model import OffResult, unreached
from .pace import Pace

SCRIPT = Path(__file__).resolve().parents[1] / "templates" / "off_host.sh"
#: Most handshakes under way at the same time. A host leaves the pool when its flag is up, not when it has drained.
DEFAULT_POOL = 96
#: Sessions open at the same time; beyond it a host is told not to wait for its connections, and is asked again later.
MAX_OPEN = 400
#: Seconds from the start of a session until the flag is up.
TIMEOUT_S = 25.0
#: Seconds that an answer of the agent may take on top of the draining.
_ANSWER_S = 20.0
#: More tries at a host that turned us away because it had too many at once, each a second later than the one before.
#: One that only was too slow gets one more.
_TRIES = 3


class OffRun:
    """One off, over hosts that may still be added while it runs. Use as a context manager.

    :param started: control node's ``time.time()`` from which latencies count.
    :param drain_s: how long old connections are watched; the flag does not wait for that.
    :param progress: called with each host's result when it is final.
    """

    def __init__(
        self,
        *,
        reason: str,
        started: float,
        drain_s: float = 15.0,
        pool: int = DEFAULT_POOL,
        timeout_s: float = TIMEOUT_S,
        max_open: int = MAX_OPEN,
        progress: Callable[[OffResult], None] = lambda _result: None,
    ) -> None:
        self.results: dict[str, OffResult] = {}
        self.hosts: dict[str, Host] = {}
        self._reason = plain_reason(reason)
        self._started, self._drain_s = started, drain_s
        self._timeout_s, self._max_open = timeout_s, max_open
        self._pace = Pace(pool, max_open)
        self._asked_s: dict[str, float] = {}
        self._progress = progress
        self._waiting: deque[Host] = deque()
        self._again: list[tuple[float, str]] = []  # a heap: when, and who
        self._tries: dict[str, int] = {}
        self._hearings: dict[str, Hearing] = {}
        self._brief: set[str] = set()
        self._earlier: dict[str, OffResult] = {}
        self._children = Children(self._line, self._ended)
        self._local = LocalHosts(self._reason, started, self.drain_until)

    def __enter__(self) -> OffRun:
        return self

    def __exit__(self, *exc: object) -> None:
        self._children.__exit__(*exc)
        self._local.close()

    @property
    def reason(self) -> str:
        """One line, kept on the hosts with the flag."""
        return self._reason

    @property
    def drain_until(self) -> float:
        """Control node's ``time.time()`` until which old connections are watched."""
        return self._started + self._drain_s

    def add(self, hosts: Iterable[Host]) -> None:
        """Take hosts in; one whose name is known already is asked again only at another address."""
        for host in hosts:
            before = self.hosts.get(host.name)
            if before is not None and _same_place(before, host):
                continue
            self.hosts[host.name] = host
            if socket_of(host) is not None:
                self._local.add(host)
            else:
                self._waiting.append(host)

    @property
    def flags_up(self) -> int:
        """Hosts whose flag is known to be up."""
        return sum(hearing.flag_s is not None for hearing in self._hearings.values()) + self._local.flags_up

    @property
    def busy(self) -> bool:
        """Somebody is still being asked."""
        return bool(self._waiting or self._again or len(self._children) or self._local.busy)

    def step(self, timeout_s: float = 0.1) -> None:
        """Do what there is to do, waiting at most ``timeout_s`` seconds for something to happen."""
        while self._waiting and self._pace.room(time.monotonic()):
            self._start(self._waiting.popleft(), watch=len(self._children) < self._max_open)
        if not self._waiting:
            self._start_again(time.monotonic())
        self._children.step(timeout_s)
        for result in self._local.finished():
            self._done(result)

    def wait(self) -> list[OffResult]:
        """:returns: one result for each host, in the order in which they were added."""
        while self.busy:
            self.step()
        return [self.results[name] for name in self.hosts]

    def _start_again(self, now: float) -> None:
        while self._again and len(self._children) < self._max_open and self._pace.room(now):
            if self._again[0][0] > now:
                return
            self._start(self.hosts[heapq.heappop(self._again)[1]], watch=True)

    # --- over ssh ---------------------------------------------------------------------------------------------------

    def _start(self, host: Host, *, watch: bool) -> None:
        left_s = max(0, round(self.drain_until - time.time())) if watch else 0
        command = str(host.vars.get("ktls_off_command") or "")
        remote = ["sh", "-s", "--", command, str(left_s), self._reason]
        argv = remote if host.vars.get("ansible_connection") == "local" else openssh.argv(host, remote)
        script = -1
        try:
            script = os.open(SCRIPT, os.O_RDONLY | os.O_CLOEXEC)
            self._children.start(host.name, argv, time.monotonic() + self._timeout_s, script)
        except OSError as error:
            if error.errno in FULL and len(self._children):
                heapq.heappush(self._again, (time.monotonic() + 0.5, host.name))
                return
            self._done(unreached(host.name, f"{argv[0]} cannot be run here: {error.strerror}"))
            return
        finally:
            if script >= 0:
                os.close(script)
        self._hearings[host.name] = Hearing(host.name)
        self._asked_s[host.name] = time.monotonic()
        self._pace.asked(host.name, self._asked_s[host.name])
        if not watch:
            self._brief.add(host.name)

    def _line(self, child: Child, line: str) -> None:
        hearing = self._hearings[child.name]
        was_up = hearing.flag_s is not None
        try:
            hearing.feed(line, time.time() - self._started)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # One host's nonsense is its own: everybody else is still to be switched off.
            hearing.confused = f"{type(error).__name__}: {error}"
        if hearing.flag_s is not None and not was_up:
            self._pace.answered(child.name, time.monotonic() - self._asked_s[child.name])
            watch_s = max(0.0, self.drain_until - time.time()) if child.name not in self._brief else 0.0
            self._children.set_deadline(child, time.monotonic() + watch_s + _ANSWER_S)
        if line.startswith("@agent") and hearing.settled:
            self._children.stop(child)

    def _ended(self, child: Child) -> None:
        name = child.name
        self._pace.gone(name)
        hearing = self._hearings[name]
        result = hearing.result()
        if not result.reachable:
            turned_away = openssh.is_turned_away(child.stderr) and self._tries.get(name, 0) < _TRIES
            # Where everything is slow, it may be us: once more, when there are fewer at a time.
            too_slow = child.timed_out and self._pace.hurried and name not in self._tries
            if turned_away or too_slow:
                self._tries[name] = self._tries.get(name, 0) + 1
                heapq.heappush(self._again, (time.monotonic() + self._tries[name], name))
                return
            if child.timed_out:
                why = f"no answer within {self._timeout_s:g} s"
            elif child.status == openssh.FAILED:
                why = openssh.why(child.stderr, child.status)
            else:
                why = f"the host did not run the command: {openssh.why(child.stderr, child.status)}"
            result = unreached(name, why)
        elif not (hearing.ended or hearing.settled) and not result.off:
            # Flag raised, then silence.
            why = "no further answer" if child.timed_out else openssh.why(child.stderr, child.status)
            result = replace(result, error=f"{result.error or name}; then cut off: {why}")
        if name in self._brief:
            self._brief.discard(name)
            if result.flag and not hearing.settled and time.time() < self.drain_until:
                self._earlier[name] = result
                heapq.heappush(self._again, (0.0, name))
                return
        self._done(continued(self._earlier.pop(name, None), result))

    def _done(self, result: OffResult) -> None:
        self.results[result.host] = result
        self._progress(result)


def plain_reason(text: str) -> str:
    """One line that ``ktls-off`` cannot take for one of its options (``--status`` raises no flag). Pure."""
    return " ".join(text.split()).lstrip("- ") or "ktls off"


def continued(earlier: OffResult | None, result: OffResult) -> OffResult:
    """One result of two sessions with a host. Pure."""
    if earlier is None:
        return result
    if not result.reachable:
        return replace(earlier, note=f"not reached again: {result.error}")
    curve = (*earlier.curve, *result.curve)
    when = drained(curve, result.none_left_s) if result.off else None
    return replace(result, flag_s=earlier.flag_s, curve=curve, drained_90_s=when)


def switch_off(
    hosts: Sequence[Host],
    *,
    reason: str,
    drain_s: float = 15.0,
    pool: int = DEFAULT_POOL,
    progress: Callable[[OffResult], None] = lambda _result: None,
) -> list[OffResult]:
    """Off on ``hosts``, from now: see :class:`OffRun`."""
    with OffRun(reason=reason, started=time.time(), drain_s=drain_s, pool=pool, progress=progress) as run:
        run.add(hosts)
        return run.wait()


def _same_place(one: Host, other: Host) -> bool:
    return (one.address, one.port, one.user, socket_of(one)) == (
        other.address,
        other.port,
        other.user,
        socket_of(other),
    )
