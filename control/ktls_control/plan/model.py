# SPDX-License-Identifier: Apache-2.0
"""A plan as plain data. The file form is YAML with the same keys; see :mod:`.file`.

Units: seconds, bytes, shares from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Inconclusive = Literal["pause", "fail"]
Method = Literal["switchback", "connections", "difference", "none"]
#: Of hosts whose datapath cannot deal connections by chance.
Otherwise = Literal["difference", "none"]
#: What becomes of an earlier wave in which a later gate finds a host that is not well.
Earlier = Literal["revert", "hold"]


@dataclass(frozen=True)
class Refusal:
    """Why a host is not in any wave: ``code`` as in docs/diagnostics.md."""

    code: str
    message: str
    cure: str


@dataclass(frozen=True)
class HostDatapath:
    """What serves a host.

    :param kind: ``sidecar``, ``nginx`` or ``service``; ``unit``: of systemd; ``program``: with its version.
    :param experiments: new connections can be dealt to kTLS and userspace by chance.
    :param tx: what phase ``tx`` is here: ``tx``, or ``tx+rx`` where both directions go together.
    :param switch: how it is switched: ``live``, ``reload``, ``restart``.
    :param unfed: what its gates will not hear from it, keys of :data:`.datapaths.WORDS`.
    """

    kind: str = "sidecar"
    unit: str = ""
    program: str = ""
    experiments: bool = True
    tx: str = "tx"
    switch: str = "live"
    unfed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What hosts are alike by: ``sidecar``, ``nginx``; services by their unit, since each is another program."""
        return self.unit if self.kind == "service" and self.unit else self.kind


@dataclass(frozen=True)
class PlannedHost:
    """A host as it was when the plan was made.

    :param facts: what must not have changed when the plan is applied: ``kernel``, ``openssl``, ``agent``, ``sidecar``.
    :param labels: what caps go by: ``rack``, ``nic_model``, ``kernel``; empty strings are unknown.
    :param cpus: online CPUs; None unknown.
    :param busy: share of its CPUs in use at the time of the plan; None unknown.
    :param cards: phase ``hw``: driver by name of each interface that can offload; ``consent``: its agent may negotiate
        TLS 1.2 to have something to offload.
    """

    facts: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    cpus: int | None = None
    busy: float | None = None
    cards: Mapping[str, str] = field(default_factory=dict)
    consent: bool = False
    datapath: HostDatapath = HostDatapath()


@dataclass(frozen=True)
class Soak:
    """How long a wave is watched: over when ``min_s`` has passed AND the traffic is there, or after ``max_s``.

    It goes on, too, while so many bytes cannot be attributed to a path that ``min_share`` hangs on them.

    :param min_connections: connections that the wave has to accept during it, all hosts together.
    :param min_bytes: bytes that each host has to send during it.
    """

    min_s: float
    max_s: float
    min_connections: int = 0
    min_bytes: int = 1_000_000


@dataclass(frozen=True)
class Gates:
    """What a wave must show. Margins are the harm that is still accepted, as a share: 0.03 is 3 % worse.

    :param min_share: smallest share of bytes that has to take the path of the phase, on each host.
    :param cpu_margin: CPU time per byte of the serving processes.
    :param latency_margin: p99 of the self-probe.
    :param throughput_margin: bytes per second, lower is worse.
    :param alpha: error rate of a false alarm of the whole gate.
    :param method: the experiment that compares kTLS with userspace: ``switchback`` (blocks on the same host),
        ``connections`` (drawn by connection), ``difference`` (before and after, against later waves), ``none``.
    :param otherwise: the same for hosts whose datapath has no experiments: ``difference`` or ``none``.
    :param block_s: length of a block of a switchback.
    :param washout_s: seconds at the start of each block that count for nothing.
    :param on_inconclusive: what happens when ``max_s`` is over and the gate cannot tell.
    :param card_share: phase ``hw``: of the bytes of connections that the kernel calls ``hw``, the smallest share that
        the card's own counters must show. Below it they are stale.
    :param fallback_margin: phase ``hw``: largest share of sessions, and of bytes that a card could take, in software.
    :param anomaly_margin: phase ``hw``: dropped packets and resyncs, for each session that the card took.
    """

    min_share: float = 0.99
    cpu_margin: float = 0.03
    latency_margin: float = 0.05
    throughput_margin: float = 0.05
    alpha: float = 0.05
    method: Method = "switchback"
    otherwise: Otherwise = "difference"
    block_s: float = 30.0
    washout_s: float = 5.0
    on_inconclusive: Inconclusive = "pause"
    card_share: float = 0.8
    fallback_margin: float = 0.1
    anomaly_margin: float = 0.01


@dataclass(frozen=True)
class Wave:
    """Hosts that take the phase together, in the order in which they are asked.

    :param approve: a person has to promote it before the next one starts.
    :param detectable: smallest harm that its gate can tell from noise, by metric, as a share; None cannot be said.
    :param expected_s: how long it takes if nothing is waited for.
    """

    number: int
    name: str
    hosts: tuple[str, ...]
    soak: Soak
    approve: bool = False
    detectable: Mapping[str, float | None] = field(default_factory=dict)
    expected_s: float = 0.0


@dataclass(frozen=True)
class Freeze:
    """No wave is started in it (never an obstacle for off): ISO 8601 times with an offset, and why."""

    start: str
    end: str
    reason: str = ""


@dataclass(frozen=True)
class Headroom:
    """CPU if every host went back to userspace TLS at once.

    :param worst: busiest host after that, as a share of its CPUs; None unknown.
    :param limit: above it no wave is promoted.
    :param unknown: planned hosts of which it could not be worked out.
    :param ratio: CPU per byte of userspace TLS, by that of the kernel's; None unknown.
    """

    worst_host: str | None = None
    worst: float | None = None
    limit: float = 0.85
    unknown: int = 0
    ratio: float | None = None


@dataclass(frozen=True)
class Hardware:
    """What only phase ``hw`` has.

    :param sentinels: machines that watch the wire while hosts have the phase, by their names in the inventory.
    :param without_sentinel: an operator has said that nobody watches. Then and only then there is none.
    :param eligible: share of the bytes of the eligible hosts that a card can take as they are negotiated today, by the
        host that has least of them; None unknown.
    """

    sentinels: tuple[str, ...] = ()
    without_sentinel: bool = False
    eligible: float | None = None


@dataclass(frozen=True)
class Plan:
    """A whole rollout.

    :param fleet: name under which its runs, epochs and lock are kept on the control node.
    :param epoch_floor: highest epoch that any host had taken when the plan was made.
    :param failure_budget: hosts that may fail in the whole run before it ends; 0: the first one ends it.
    :param caps: largest share of the hosts with the same label that a wave holds, by label, as in ``"1/3"``.
    :param hardware: of phase ``hw``; None in every other one.
    :param earlier: ``revert``: an earlier wave that a later gate finds bad goes back as one; ``hold``: it is named.
    :param sha256: digest of everything else, as :func:`.file.digest` computes it.
    """

    version: int
    id: str
    created: str
    phase: str
    inventory: str
    group: str
    limit: str | None
    fleet: str
    epoch_floor: int
    lease_s: float
    failure_budget: int
    hosts: Mapping[str, PlannedHost]
    refused: Mapping[str, tuple[Refusal, ...]]
    waves: tuple[Wave, ...]
    gates: Gates
    caps: Mapping[str, str] = field(default_factory=dict)
    freezes: tuple[Freeze, ...] = ()
    headroom: Headroom = Headroom()
    expected_s: float = 0.0
    notes: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    hardware: Hardware | None = None
    earlier: Earlier = "revert"
    sha256: str = ""
