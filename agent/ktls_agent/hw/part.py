# SPDX-License-Identifier: Apache-2.0
"""The part named ``hw``: interfaces that can encrypt TLS, what they did, and whether that is what the order wants.

It asks the kernel for features now and then, and takes counters and connections from the evidence. Null in the status
where no interface can offload.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from ktls_host.nic import drivers

from ..core import Agent
from ..evidence.model import Snapshot
from ..guards.reading import Totals
from ..machine import HW, USERSPACE
from ..metrics.catalogue import family
from ..metrics.family import Family, Sample
from . import measure
from .measure import Stale

if TYPE_CHECKING:
    from ktls_host.nic.tls_features import TlsCard

_LOG = logging.getLogger(__name__)
LOOK_EVERY_S, LOOK_FOR_SOME_EVERY_S = 5.0, 60.0
LOOK_TIMEOUT_S = 5.0
_KINDS = ("hw", "tls12_gcm", "total")

Look = Callable[[], "Sequence[TlsCard]"]


class HwPart:
    """Keeps what was learned. Between two looks :meth:`status` answers from memory."""

    name = "hw"

    def __init__(self, agent: Agent, latest: Callable[[], Snapshot | None], look: Look) -> None:
        """``latest`` returns the newest evidence; ``look`` may block, and raise OSError."""
        self._agent = agent
        self._latest = latest
        self._look = look
        self._cards: tuple[TlsCard, ...] = ()
        self._looking: asyncio.Future[Any] | None = None
        self._problem: str | None = None
        self._drift: str | None = None
        self._drift_before: str | None = None
        self._seen_s: float | None = None
        self._since_s: float | None = None
        self._pid: object = None
        self._totals = Totals()
        self._stale = Stale()
        agent.hear(self.heard)

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await self.refresh()
            await asyncio.sleep(LOOK_EVERY_S if self._cards else LOOK_FOR_SOME_EVERY_S)

    async def refresh(self) -> None:
        """Look once. A kernel that hangs is left alone until it answers."""
        self._take()
        if self._looking is not None and not self._looking.done():
            return
        looking = self._looking = asyncio.ensure_future(self._agent.in_helper_thread(self._look))
        looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({looking}, timeout=LOOK_TIMEOUT_S)
        if not looking.done():
            self._problem = "the kernel does not say which features network cards have"
            return
        try:
            self._cards = tuple(looking.result())
            self._problem = None
        except OSError as error:
            self._problem = f"features of network cards cannot be read: {error.strerror or error}"
        drift, self._drift_before = self._drifted(), self._drift_before
        # An order that has just come is not carried out yet: twice the same is what counts.
        self._drift = drift if drift == self._drift_before else None
        self._drift_before = drift

    def heard(self, _at_s: float, status: Mapping[str, Any], _cut: bool) -> None:
        """Take what the sidecar says: it alone knows what userspace TLS negotiated."""
        rows = status.get("by")
        number = 0.0
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict) or row.get("path") not in ("userspace", "ktls_rx"):
                continue
            if row.get("protocol") == "TLSv1.2" and measure.is_gcm(str(row.get("cipher"))):
                number += int(row.get("bytes_total") or 0)
        fresh = self._pid is not None and status.get("pid") != self._pid
        self._pid = status.get("pid")
        self._totals.add("sidecar", {"tls12_gcm": number}, fresh=fresh)

    @property
    def able(self) -> tuple[TlsCard, ...]:
        """Interfaces whose driver encrypts TLS on this host."""
        return tuple(card for card in self._cards if drivers.implements(card.driver)["tx"])

    def status(self) -> dict[str, Any] | None:
        """Return the status object, or None where no interface can offload."""
        self._take()
        able = self.able
        if not able:
            return None
        snapshot = self._latest() or Snapshot(0.0)
        stat, nic = snapshot.namespaces, snapshot.nic
        return {
            "tls12_consent": self._agent.tls12_consent,
            "interfaces": [
                {
                    "name": card.name,
                    "driver": card.driver,
                    "tx_on": card.tx_on,
                    "rx_on": card.rx_on,
                    "up": card.up,
                    "counters": dict(nic.get(card.name, {})),
                }
                for card in able
            ],
            "encrypted_bytes": measure.summed(nic, measure.ENCRYPTED),
            "installed": measure.sums(stat, ("TlsTxDevice",)),
            "software": measure.sums(stat, ("TlsTxSw",)),
            "open": {"hw": measure.sums(stat, ("TlsCurrTxDevice",)), "stale": self._stale.number},
            "sent": self._sent(),
            "anomalies": {
                "resync": measure.sums(stat, ("TlsRxDeviceResync",)),
                "drops": measure.sums(nic, measure.DROPS),
                "ooo": measure.sums(nic, (measure.OUT_OF_ORDER,)),
                "decrypt": measure.sums(stat, ("TlsDecryptError",)),
            },
            "problem": self._told(),
        }

    def metrics(self) -> Iterable[Family]:
        """Return what it adds to the exposition: nothing where no interface can offload."""
        status = self.status()
        if status is None:
            return []
        sides = [(card, side) for card in status["interfaces"] for side in ("tx", "rx")]
        return [
            family(
                "ktls_hw_feature_on",
                (
                    Sample(
                        int(card[f"{side}_on"]),
                        {"interface": card["name"], "driver": card["driver"], "direction": side},
                    )
                    for card, side in sides
                ),
            ),
            family("ktls_hw_consent", [Sample(int(status["tls12_consent"]))]),
            family("ktls_hw_connections", (Sample(count, {"state": name}) for name, count in status["open"].items())),
            family("ktls_hw_sent_bytes_total", (Sample(count, {"kind": k}) for k, count in status["sent"].items())),
            family(
                "ktls_hw_anomalies_total",
                (Sample(count, {"kind": kind}) for kind, count in status["anomalies"].items()),
            ),
        ]

    def _sent(self) -> dict[str, int]:
        values = self._totals.reading(0.0).values
        found = {kind: int(values.get(kind, 0)) for kind in _KINDS}
        # The two that know userspace TLS and kTLS count at different moments.
        found["total"] = max(found["total"], found["tls12_gcm"])
        return found

    def _take(self) -> None:
        """Take the newest evidence, once."""
        snapshot = self._latest()
        if snapshot is None or snapshot.at_s == self._seen_s:
            return
        self._seen_s = snapshot.at_s
        fresh, self._since_s = self._since_s not in (None, snapshot.since_s), snapshot.since_s
        counted = {name: float(value) for name, value in measure.sent(snapshot).items()}
        self._totals.add("evidence", counted, fresh=fresh)
        self._stale.take(snapshot)

    def _told(self) -> str | None:
        stale = self._stale.number
        words = (
            f"{stale} of the connections that the kernel calls hw are encrypted in software: a link went down or a"
            " route moved; they stay so until they end (`ktls-agent doctor`)"
        )
        return "; ".join(filter(None, (self._problem, self._drift, words if stale else ""))) or None

    def _drifted(self) -> str | None:
        """Return how the cards differ from what the order in force wants."""
        wanted, able = self._agent.state.wanted, self.able
        on = [card.name for card in able if card.tx_on]
        if wanted == HW and able and not on:
            return "phase hw is ordered, and tls-hw-tx-offload is off on every card"
        if wanted not in (HW, USERSPACE) and on:
            return f"phase {wanted} is ordered, and tls-hw-tx-offload is on at {', '.join(on)}: it is not all software"
        return None
