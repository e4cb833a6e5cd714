# SPDX-License-Identifier: Apache-2.0
"""Who serves TLS on this host, and in which network namespace.

A process serves if it holds a listening TCP socket and maps libssl or libgnutls, or if it or its port is named in the
configuration. Whose socket it is, its control group tells, which sock_diag names (INET_DIAG_CGROUP_ID): /proc/PID/fd is
closed to all but the process's own user and CAP_DAC_READ_SEARCH, which would open every file of the host, keys too. The
descriptors are looked at where they may be, and where several programs of one group are in question.

What is slow to read is remembered: a process keeps its maps, but one that is young may load the library yet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ktls_host.processes import parse_cgroup

from .config import EvidenceConfig

_LIBRARIES = ("/libssl.so", "/libgnutls.so")
_YOUNG_LOOKS = 5  # looks at a process without the library before it is believed
_LOOK_AGAIN = 12  # and then one in so many


@dataclass(frozen=True)
class Process:
    """One running process.

    ``start`` is in clock ticks since boot, and tells it from a later one with the same id. ``cgroup`` is the path of
    its unit's group, None for a process of no service; ``groups`` are the ids of those whose sockets may be its.
    """

    pid: int
    start: int
    name: str
    cgroup: str | None
    namespace: int
    maps_tls: bool
    groups: frozenset[int] = frozenset()


class Listening(NamedTuple):
    """A listening socket; ``address`` is all zero for any, ``cgroup`` 0 where it is not known."""

    port: int
    address: bytes
    cgroup: int


@dataclass
class Found:
    """The processes of one network namespace that may serve."""

    namespace: int
    processes: list[Process] = field(default_factory=list)


@dataclass
class _Known:
    start: int
    name: str
    cgroup: str | None
    groups: frozenset[int]
    tls: bool
    looks: int


class Processes:
    """Finds processes, and remembers what does not change."""

    def __init__(self, config: EvidenceConfig, root: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> None:
        """``root`` and ``cgroups``: where proc(5) and cgroup v2 are mounted."""
        self._config = config
        self._root = root
        self._cgroups = cgroups
        self._known: dict[int, _Known] = {}
        self._held: dict[int, tuple[int, frozenset[int], frozenset[int]]] = {}
        self.unreadable = 0
        """Processes of the last look whose maps or namespace could not be read."""

    def look(self) -> dict[int, Found]:
        """Return, by network namespace, the processes that map a TLS library or are named.

        With configured ports every process may be one that serves there.
        """
        found: dict[int, Found] = {}
        alive: dict[int, _Known] = {}
        self.unreadable = 0
        for pid in self._pids():
            known = self._known.get(pid)
            if known is not None and self._is_of_no_interest(pid, known):
                alive[pid] = known
                continue
            start = self._start(pid)
            if start is None:
                continue
            if known is None or known.start != start:
                known = _Known(start, *self._name(pid), tls=False, looks=0)
            alive[pid] = known
            known.tls = known.tls or self._maps_tls(pid)
            known.looks += 1
            if not (known.tls or self._config.ports or known.name in self._config.processes):
                continue
            namespace = self._namespace(pid)
            if namespace is not None:
                process = Process(pid, start, known.name, known.cgroup, namespace, known.tls, known.groups)
                found.setdefault(namespace, Found(namespace)).processes.append(process)
        self._known = alive
        self._held = {pid: held for pid, held in self._held.items() if pid in alive}
        return found

    def _is_of_no_interest(self, pid: int, known: _Known) -> bool:
        """Most processes are: they are left alone, and looked at now and then, for another may have the id by now."""
        if known.tls or self._config.ports or known.name in self._config.processes or known.looks < _YOUNG_LOOKS:
            return False
        known.looks += 1
        return (known.looks + pid) % _LOOK_AGAIN != 0

    def inodes(self, process: Process, wanted: frozenset[int]) -> frozenset[int]:
        """Return which of the sockets ``wanted`` the process holds. Asked again for the same, it remembers."""
        known = self._held.get(process.pid)
        if known is None or known[:2] != (process.start, wanted):
            known = self._held[process.pid] = (process.start, wanted, self._inodes(process.pid, wanted))
        return known[2]

    def _inodes(self, pid: int, wanted: frozenset[int]) -> frozenset[int]:
        held = set()
        base = f"{self._root}/{pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(base):
                try:
                    target = os.readlink(f"{base}/{name}")
                except OSError:
                    continue
                if target.startswith("socket:[") and int(target[8:-1]) in wanted:
                    held.add(int(target[8:-1]))
                    if len(held) == len(wanted):
                        break
        return frozenset(held)

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._root) if name.isdigit() and int(name) not in (1, os.getpid())]

    def _read(self, pid: int, name: str) -> str | None:
        try:
            with open(f"{self._root}/{pid}/{name}", "rb", buffering=0) as stream:
                return stream.readall().decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            return None  # it has ended
        except OSError:
            self.unreadable += 1
            return None

    def _start(self, pid: int) -> int | None:
        fields = parse_stat(self._read(pid, "stat") or "")
        return fields[4] if fields else None

    def _name(self, pid: int) -> tuple[str, str | None, frozenset[int]]:
        text = self._read(pid, "cgroup") or ""
        unit = parse_cgroup(text)
        own = unit_cgroup(text, unit) if unit is not None else None
        groups = frozenset(filter(None, map(self._group_id, socket_groups(text, own))))
        if unit is not None:
            return unit.removesuffix(".service"), own, groups
        try:
            program = os.path.basename(os.readlink(f"{self._root}/{pid}/exe").removesuffix(" (deleted)"))
        except OSError:
            program = (self._read(pid, "comm") or "").strip()
        return program or "unknown", None, groups

    def _group_id(self, path: str) -> int | None:
        """Return the id of a control group: the inode number of its directory."""
        try:
            return os.stat(self._cgroups + path).st_ino
        except OSError:
            return None

    def _maps_tls(self, pid: int) -> bool:
        maps = self._read(pid, "maps") or ""
        return any(library in maps for library in _LIBRARIES)

    def _namespace(self, pid: int) -> int | None:
        return namespace_of(f"{self._root}/{pid}/ns/net")


class Listeners:
    """Who serves which local port of one namespace."""

    def __init__(self) -> None:
        """Nobody, yet."""
        self._ports: dict[int, list[tuple[bytes, str]]] = {}
        self._idle: frozenset[int] = frozenset()

    def harmless(self, port: int) -> bool:
        """Return whether only programs without TLS listen on ``port``."""
        return port in self._idle

    def owner(self, port: int, family: int, source: bytes) -> str | None:
        """Return who serves a connection to ``source``; None if nobody that we look at does."""
        places = self._ports.get(port)
        if places is None:
            return None
        if len(places) == 1:
            return places[0][1]
        address = plain_address(family, source)
        for bound, process in places:
            if bound == address:
                return process
        for bound, process in places:
            if not bound.strip(b"\0"):
                return process
        return None

    def set(self, places: Iterable[tuple[int, bytes, str]], listening: Iterable[int] = ()) -> bool:
        """Take ports, addresses (all zero for any) and processes; return whether anything changed.

        ``listening``: all ports that somebody listens on, whoever it is.
        """
        ports: dict[int, list[tuple[bytes, str]]] = {}
        for port, address, process in places:
            found = ports.setdefault(port, [])
            if (address, process) not in found:
                found.append((address, process))
        for found in ports.values():
            if len({process for _, process in found}) == 1:
                del found[1:]
        changed = ports != self._ports
        self._ports = ports
        self._idle = frozenset(listening) - frozenset(ports)
        return changed


def choose(
    listening: Mapping[int, Listening],
    processes: Sequence[Process],
    config: EvidenceConfig,
    held: Callable[[Process, frozenset[int]], frozenset[int]],
) -> list[tuple[int, bytes, Process]]:
    """Return who serves each listening socket: port, address, process.

    ``held``: which sockets of some a process is known to hold. One that several hold belongs to the first of those that
    map a TLS library: the others, like the one that opened it for them, only keep it.
    """
    ordered = sorted(processes, key=lambda process: (not process.maps_tls, process.pid))
    able: dict[int, list[Process]] = {}
    chosen: dict[int, Process] = {}
    undecided: set[int] = set()
    for inode, socket in listening.items():
        able[inode] = [
            process
            for process in ordered
            if process.maps_tls or process.name in config.processes or socket.port in config.ports
        ]
        here = [process for process in able[inode] if socket.cgroup in process.groups]
        if here:
            chosen[inode] = here[0]
        if len({process.name for process in here}) != 1:
            undecided.add(inode)  # no group tells, or there is more than one program in it
    wanted = frozenset(undecided)
    for process in reversed(ordered) if wanted else ():
        for inode in held(process, wanted):
            if process in able[inode]:
                chosen[inode] = process
    return [(listening[inode].port, listening[inode].address, process) for inode, process in chosen.items()]


def plain_address(family: int, source: bytes) -> bytes:
    """Return the 16 bytes of an address; an IPv4 address in IPv6 form as IPv4."""
    if family == 10 and source[:12] == bytes(10) + b"\xff\xff":
        return source[12:] + bytes(12)
    return source


def parse_stat(text: str) -> tuple[int, int, int, int, int] | None:
    """Return utime, stime, cutime, cstime and starttime of a /proc/pid/stat, in clock ticks (proc_pid_stat(5))."""
    fields = text.rpartition(")")[2].split()
    try:
        return int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14]), int(fields[19])
    except (IndexError, ValueError):
        return None


def socket_groups(text: str, unit: str | None) -> list[str]:
    """Return the paths of control groups that open sockets for a process, from its /proc/pid/cgroup.

    Its own, those above it up to its unit's, and the one of the socket unit of the same name (systemd.socket(5)).
    """
    own = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "")
    found = [own] if own.strip("/") else []
    if unit is not None and own.startswith(unit):
        while len(own) > len(unit):
            own = own.rpartition("/")[0]
            found.append(own)
        found.append(unit.removesuffix(".service") + ".socket")
    return found


def unit_cgroup(text: str, unit: str) -> str | None:
    """Return the path of the unit's own control group, from a /proc/pid/cgroup; None without cgroup v2."""
    for line in text.splitlines():
        if line.startswith("0::"):
            before, found, _ = line[3:].partition(f"/{unit}")
            return before + found if found else None
    return None


def namespace_of(path: str) -> int | None:
    """Return the inode number of a namespace from its link in /proc (namespaces(7)); None if it cannot be read."""
    try:
        return int(os.readlink(path).partition("[")[2].rstrip("]"))
    except (OSError, ValueError):
        return None
