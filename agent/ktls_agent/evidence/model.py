# SPDX-License-Identifier: Apache-2.0
"""The evidence of one host as plain data. Everything cumulative counts from the start of the observer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Kind:
    """What evidence tells connections apart by.

    ``process``: the systemd unit that serves, without ``.service``, else the program's name. ``version``: ``TLSv1.2``,
    ``TLSv1.3``, or empty where the kernel does not know, which is so in userspace TLS and for what was inferred.
    ``cipher``: likewise. ``tx`` and ``rx``: ``none``, ``sw`` or ``hw``.
    """

    port: int
    process: str
    version: str
    cipher: str
    tx: str
    rx: str


@dataclass(frozen=True)
class Volume:
    """Bytes of TCP payload, TLS overhead included: acknowledged by the peer, and received."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True, order=True)
class End:
    """Connections that ended: who served them, and how they sent (``path``): ktls, userspace, unknown (not seen)."""

    port: int
    process: str
    path: str


@dataclass(frozen=True)
class Ended:
    """``cut``: those of them whose peer never acknowledged all that was sent, a close_notify and a FIN left out.

    That is a reset or a timeout under way, whoever caused it.
    """

    number: int = 0
    cut: int = 0


@dataclass(frozen=True)
class ProcessUse:
    """One serving process group: CPU seconds (user and system) of all its processes, those that ended included."""

    process: str
    processes: int
    cpu_s: float


@dataclass(frozen=True)
class Snapshot:
    """What the observer knows at one moment. ``at_s`` is CLOCK_BOOTTIME.

    ``namespaces``: tls_stat by network namespace (its inode number, as text; ``host`` is our own), empty where the
    kernel has none. ``connections``: open now. ``volumes``: cumulative, exact for what is attributed; ``inferred`` is
    the part of it whose kind follows from the counters of the kernel and was not seen; ``presumed``: the part of that
    which follows only if clients on this host have no kernel TLS. ``clients``: client ends of connections from this
    host to its own servers that were looked at, and ``ktls_clients``: those of them with kernel TLS; with one of those
    nothing more is presumed. ``unattributed``: bytes of connections that came and went unseen; ``held``: bytes of
    which the next full scans will tell; ``judged_s``: no byte of a connection that ended before it is among them
    (0: not known). ``destroyed``: closed
    connections of serving ports; ``ended``: the same by who served them, and how they ended. ``tcp``: counters of
    resets and timeouts by namespace, of all its TCP connections (:mod:`ktls_host.tcp_stat`). ``lost_events``: times
    that the kernel dropped destroy events. ``vanished``: connections that went without one. ``nic``: TLS counters of
    ``ethtool -S`` by interface. ``kernel_warnings``: kernel log lines that warn and name tls, since the start;
    ``kernel_warning``: the last of them. ``since_s``: when the observer started, on the same clock; another value means
    that all counters began anew. ``problems``: what could not be looked at, a line each.
    """

    at_s: float
    namespaces: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    connections: Mapping[Kind, int] = field(default_factory=dict)
    volumes: Mapping[Kind, Volume] = field(default_factory=dict)
    unattributed: Volume = Volume()
    processes: tuple[ProcessUse, ...] = ()
    nic: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    destroyed: int = 0
    ended: Mapping[End, Ended] = field(default_factory=dict)
    tcp: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    lost_events: int = 0
    scan_cpu_s: float = 0.0
    kernel_warnings: int = 0
    kernel_warning: str = ""
    since_s: float = 0.0
    inferred: Volume = Volume()
    held: Volume = Volume()
    presumed: Volume = Volume()
    judged_s: float = 0.0
    clients: int = 0
    ktls_clients: int = 0
    vanished: int = 0
    problems: tuple[str, ...] = ()
