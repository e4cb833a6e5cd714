# SPDX-License-Identifier: Apache-2.0
"""What goes into a diagnosis and what comes out of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ktls_host.known_bad import version_of
from ktls_host.tls_stat import delta

CONFIRMED, LIKELY, POSSIBLE, RULED_OUT = "confirmed", "likely", "possible", "ruled out"
LIKELIHOODS = (CONFIRMED, LIKELY, POSSIBLE, RULED_OUT)

NO_GAIN, READ_FAILURES, HARDWARE = "no_gain", "read_failures", "hardware"
SYMPTOMS = {
    NO_GAIN: "kTLS is on, and nothing is gained",
    READ_FAILURES: "reads fail now and then, on long sessions",
    HARDWARE: "hardware offload is unstable",
}
SIDECAR = "ktls-sidecar"
UNKNOWN = "unknown"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One cause, how likely it is, the numbers, what to run next, and the cure. A cause ruled out has neither."""

    symptom: str
    code: str
    likelihood: str
    what: str
    run: str = ""
    cure: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Volume:
    """One kind of connection: open now, and bytes sent since the evidence began, TLS overhead included."""

    process: str
    version: str
    cipher: str
    tx: str
    rx: str
    connections: int
    sent: int


@dataclass(frozen=True)
class Evidence:
    """Everything that could be read. A part that could not is None, and ``unseen`` says so.

    ``status``: the agent's. ``sidecar``: the sidecar's own. ``stats``: ``tls_stat`` now, all namespaces together.
    ``start`` and ``now``: digests of snapshots (``digest.py``). ``cost``: CPU seconds and bytes by what was in force.
    ``ulp``: whether TCP has the ULP ``tls``.
    """

    kernel: str
    openssl: str
    ulp: bool | None = None
    status: Json | None = None
    sidecar: Json | None = None
    stats: Mapping[str, int] | None = None
    start: Json | None = None
    now: Json | None = None
    cost: Json = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @property
    def kernel_version(self) -> tuple[int, ...]:
        """Major and minor number of the kernel."""
        return version_of(self.kernel)[:2]

    @property
    def openssl_version(self) -> tuple[int, ...]:
        """Major and minor number of the library that the sidecar uses, else of the system's."""
        return version_of(str((self.sidecar or {}).get("openssl") or self.openssl))[:2]

    @property
    def changes_keys(self) -> bool:
        """Whether kernel and library can give a kTLS connection new keys (docs/compatibility.md)."""
        return self.kernel_version >= (6, 14) and self.openssl_version >= (3, 2)

    @property
    def ordered(self) -> str:
        """The phase in force by order; ``userspace`` when there is none. Without the agent, what the sidecar does."""
        status = self.status
        if status is None:
            return str((self.sidecar or {}).get("effective_mode") or UNKNOWN)
        if status.get("order") in ("pending", "committed") and not (status.get("off") or {}).get("flag"):
            return str(status.get("ordered_phase") or "userspace")
        return "userspace"

    @property
    def on(self) -> bool:
        """Whether kTLS should be in use."""
        return self.ordered not in ("userspace", UNKNOWN)

    def counted(self, group: str, *kinds: str) -> int:
        """Sum of the sidecar's counters of those kinds, in ``errors``, ``fallbacks`` or another group."""
        found = (self.sidecar or {}).get(group)
        return sum(int(found.get(kind) or 0) for kind in kinds) if isinstance(found, dict) else 0

    def rows(self) -> list[Json]:
        """The sidecar's table of connections by assigned mode, path, protocol and cipher."""
        rows = (self.sidecar or {}).get("by")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def ordered_rows(self) -> list[Json]:
        """Rows of connections that were meant to be kTLS, those left out of which nobody knows whether they are."""
        meant = [row for row in self.rows() if row.get("assigned") not in (None, "userspace")]
        return [row for row in meant if row.get("path") != "unknown"]

    def volumes(self, digest: Json | None = None) -> list[Volume]:
        """Kinds of connections of a digest, the newest unless another is given."""
        chosen = self.now if digest is None else digest
        return [Volume(**row) for row in (chosen or {}).get("kinds", ())]

    def sent_since_start(self) -> list[Volume]:
        """Kinds with the bytes sent between ``start`` and ``now``."""
        before = {_kind(volume): volume.sent for volume in self.volumes(self.start or {})}
        return [
            Volume(**{**asdict(volume), "sent": max(0, volume.sent - before.get(_kind(volume), 0))})
            for volume in self.volumes()
        ]

    def stats_since_start(self) -> dict[str, int]:
        """Growth of ``tls_stat``; without a start, everything since the module was loaded."""
        return delta(dict((self.start or {}).get("tls_stat") or {}), dict(self.stats or {}))

    def nic_since_start(self) -> dict[str, int]:
        """Growth of the TLS counters of all cards together."""
        before = (self.start or {}).get("nic") or {}
        total: dict[str, int] = {}
        for interface, counters in ((self.now or {}).get("nic") or {}).items():
            for name, moved in delta(dict(before.get(interface) or {}), dict(counters)).items():
                total[name] = total.get(name, 0) + moved
        return total


def _kind(volume: Volume) -> tuple[str, ...]:
    return (volume.process, volume.version, volume.cipher, volume.tx, volume.rx)


def total(rows: Iterable[Json], key: str) -> int:
    """Sum of one column of the sidecar's table."""
    return sum(int(row.get(key) or 0) for row in rows)


def in_kernel(row: Json) -> bool:
    """Whether a row's connections send in the kernel."""
    return row.get("path") in ("ktls_tx", "ktls_tx_rx")


def size(count: float) -> str:
    """Return bytes for people, in binary units."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def percent(part: float, whole: float) -> str:
    """Return a share for people."""
    return f"{100 * part / whole:.1f} %" if whole else "none"
