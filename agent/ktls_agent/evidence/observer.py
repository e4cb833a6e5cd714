# SPDX-License-Identifier: Apache-2.0
"""Looks at the host again and again, with the rights of the helper, and keeps the sums.

Three things happen, each at its own pace: notices of ended connections are taken twice a second; a full scan of every
namespace comes at the configured interval; in between, small scans see short connections, as long as there are any
and as they cost no more than the configured share of one core.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from ktls_host.errors import KtlsError

from .config import EvidenceConfig
from .kernel_log import KernelLog
from .ledger import GRACE_S, Ledger
from .model import End, Ended, Kind, Snapshot, Volume
from .namespace import Namespace
from .nic import NicCounters
from .serving import Process, Processes, choose, namespace_of
from .usage import Usage

DRAIN_S = 0.5
MOST_NAMESPACES = 64
_NEVER = float("inf")


def boottime() -> float:
    """Return CLOCK_BOOTTIME, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Observer:
    """What the helper keeps while evidence is asked for."""

    def __init__(
        self,
        config: EvidenceConfig,
        processes: Processes | None = None,
        nic: NicCounters | None = None,
        log: KernelLog | None = None,
        clock: Callable[[], float] = boottime,
        probe_port: int | None = None,
    ) -> None:
        """Look for the first time. Raises :class:`KtlsError` when the host's own namespace cannot be looked at.

        ``probe_port``: where the agent downloads its probe object from.
        """
        self._config = config
        self._clock = clock
        self._processes = processes or Processes(config)
        self._usage = Usage()
        self._nic = nic or NicCounters()
        self._log = log or KernelLog()
        self._cpu_s = 0.0
        self._problems: list[str] = []
        self._failed: KtlsError | None = None
        self._gone = Ledger(lambda port, family, source: None)  # of namespaces that are looked at no longer
        self._gone_lost = 0
        self._serving: list[Process] = []
        self._empty: dict[int, tuple[int, ...]] = {}  # namespaces where nobody of these processes listens
        self._host = Namespace(namespace_of("/proc/self/ns/net") or 0, None, probe_port)
        self._namespaces = {self._host.inode: self._host}
        self.since_s = clock()
        self._settle_at = self._sample_at = _NEVER
        self._drain_at = self._full_at = self.since_s
        self._snapshot = Snapshot(at_s=self.since_s, since_s=self.since_s)
        self.step()
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Let go of everything."""
        for namespace in self._namespaces.values():
            namespace.close()

    def step(self) -> float:
        """Do what is due; return in how many seconds to call again."""
        began = time.process_time()
        now = self._clock()
        # In this order, for a full scan needs the judgement of the one before.
        if now >= self._settle_at:
            self._settle_at = _NEVER
            self._each(lambda namespace: namespace.settle(now))
        if now >= self._full_at:
            self._full(now)
        elif now >= self._sample_at:
            self._sample(now)
        elif now >= self._drain_at:
            self._each(lambda namespace: namespace.drain(now))
        if now >= self._drain_at:
            self._drain_at = now + DRAIN_S
            self._log.read()
        self._cpu_s += time.process_time() - began
        return max(0.0, min(self._settle_at, self._full_at, self._sample_at, self._drain_at) - self._clock())

    def snapshot(self) -> Snapshot:
        """Return what is known now. Raises :class:`KtlsError` when the last scan of the host failed."""
        began = time.process_time()
        if self._failed is not None:
            raise self._failed
        self._each(lambda namespace: namespace.drain(self._clock()))
        connections: dict[Kind, int] = defaultdict(int)
        volumes: dict[Kind, Volume] = defaultdict(Volume)
        held = unattributed = inferred = presumed = Volume()
        clients = ktls_clients = 0
        ended: dict[End, Ended] = defaultdict(Ended)
        destroyed = vanished = 0
        for ledger in (self._gone, *(namespace.ledger for namespace in self._namespaces.values())):
            for kind, number in ledger.connections().items():
                connections[kind] += number
            for kind, volume in ledger.volumes().items():
                volumes[kind] = _sum(volumes[kind], volume)
            held = _sum(held, ledger.held())
            unattributed = _sum(unattributed, ledger.unattributed)
            inferred = _sum(inferred, ledger.inferred)
            presumed = _sum(presumed, ledger.presumed)
            clients, ktls_clients = clients + ledger.clients[0], ktls_clients + ledger.clients[1]
            destroyed += ledger.destroyed
            for key, (number, cut) in ledger.ends.items():
                before = ended[End(*key)]
                ended[End(*key)] = Ended(before.number + number, before.cut + cut)
            vanished += ledger.vanished
        namespaces = {namespace.name: namespace.stat() or {} for namespace in self._namespaces.values()}
        nic = self._nic.read()
        problems = [*self._problems, *([self._nic.problem] if self._nic.problem else [])]
        if not self._log.readable:
            problems.append("kernel warnings: standard input of the helper is not /dev/kmsg, so none are counted")
        self._cpu_s += time.process_time() - began
        return Snapshot(
            at_s=self._clock(),
            since_s=self.since_s,
            namespaces=namespaces,
            connections=dict(connections),
            volumes=dict(volumes),
            unattributed=unattributed,
            inferred=inferred,
            held=held,
            presumed=presumed,
            judged_s=min(namespace.ledger.judged_s for namespace in self._namespaces.values()),
            clients=clients,
            ktls_clients=ktls_clients,
            processes=self._usage.measure(self._serving),
            nic=nic,
            destroyed=destroyed,
            ended=dict(ended),
            tcp={namespace.name: namespace.tcp() for namespace in self._namespaces.values()},
            vanished=vanished,
            lost_events=self._gone_lost + sum(namespace.lost for namespace in self._namespaces.values()),
            scan_cpu_s=self._cpu_s,
            kernel_warnings=self._log.count,
            kernel_warning=self._log.last,
            problems=tuple(problems),
        )

    def _full(self, now: float) -> None:
        self._full_at = now + self._config.interval_s
        self._problems = []
        self._failed = None
        self._discover()
        churn = any(namespace.ledger.unseen for namespace in self._namespaces.values())
        before = time.process_time()
        self._each(lambda namespace: namespace.scan(self._clock(), full=True))
        # No longer on a slow host: more of what ends meanwhile would be in doubt than notices are late.
        self._settle_at = self._clock() + GRACE_S
        self._sample_at = _NEVER
        if churn and self._config.sample_s:
            self._next_sample(time.process_time() - before)

    def _sample(self, now: float) -> None:
        before = time.process_time()
        self._each(lambda namespace: namespace.scan(now, full=False))
        self._next_sample(time.process_time() - before)

    def _next_sample(self, cost_s: float) -> None:
        self._sample_at = self._clock() + max(self._config.sample_s, cost_s / self._config.sample_share)

    def _each(self, action: Callable[[Namespace], None]) -> None:
        """Do ``action`` to every namespace."""
        for namespace in list(self._namespaces.values()):
            self._try(namespace, action)

    def _try(self, namespace: Namespace, action: Callable[[Namespace], None]) -> None:
        """One that fails is a problem, and the host's own is a failure."""
        try:
            action(namespace)
        except KtlsError as error:
            if namespace is self._host:
                self._failed = error
            else:
                self._problem(f"network namespace {namespace.name}: {error.message}")

    def _problem(self, line: str) -> None:
        if line not in self._problems:
            self._problems.append(line)

    def _discover(self) -> None:
        """Find who serves, and where."""
        found = self._processes.look()
        for inode, namespace in list(self._namespaces.items()):
            if inode not in found and namespace is not self._host:
                self._leave(namespace)
        serving: dict[tuple[int, int], Process] = {}
        for inode, place in found.items():
            pids = tuple(process.pid for process in place.processes)
            if inode not in self._namespaces and self._empty.get(inode) == pids:
                continue
            try:
                namespace = self._enter(inode, place.processes)
                owners = self._listeners(namespace, place.processes)
            except KtlsError as error:
                self._problem(f"network namespace {inode}: {error.message}")
                continue
            if not owners and namespace is not self._host:
                self._leave(namespace)
                self._empty[inode] = pids
                continue
            serving.update({(process.pid, process.start): process for process in owners})
        self._empty = {inode: pids for inode, pids in self._empty.items() if inode in found}
        self._serving = list(serving.values())
        if self._processes.unreadable:
            self._problem(f"{self._processes.unreadable} files in /proc cannot be read; CAP_SYS_PTRACE is needed")

    def _enter(self, inode: int, processes: list[Process]) -> Namespace:
        namespace = self._namespaces.get(inode)
        if namespace is None:
            if len(self._namespaces) >= MOST_NAMESPACES:
                raise KtlsError("namespace", f"more than {MOST_NAMESPACES} namespaces serve; this one is left out")
            namespace = self._namespaces[inode] = Namespace(inode, processes[0].pid)
        namespace.processes = processes
        return namespace

    def _listeners(self, namespace: Namespace, processes: list[Process]) -> list[Process]:
        """Return the processes that serve there, workers that share a socket among them."""
        listening = namespace.listening()
        candidates = (listening, processes)
        if candidates == namespace.candidates and namespace.owners is not None:
            return namespace.owners
        chosen = choose(listening, processes, self._config, self._processes.inodes)
        places = [(port, address, process.name) for port, address, process in chosen]
        if namespace.listeners.set(places, [socket.port for socket in listening.values()]):
            namespace.ledger.reassign()
        names = {process.name for _, _, process in chosen}
        namespace.candidates = candidates
        namespace.owners = [process for process in processes if process.name in names]
        return namespace.owners

    def _leave(self, namespace: Namespace) -> None:
        del self._namespaces[namespace.inode]
        namespace.close()
        self._gone_lost += namespace.lost
        self._gone.absorb(namespace.ledger)


def _sum(one: Volume, other: Volume) -> Volume:
    return Volume(one.sent + other.sent, one.received + other.received)
