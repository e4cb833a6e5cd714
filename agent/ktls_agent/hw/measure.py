# SPDX-License-Identifier: Apache-2.0
"""Sums of a snapshot that phase hw is judged by. Pure.

What the kernel calls hw is where a connection began. After NETDEV_DOWN it encrypts in software for good, and neither
``tx_conf`` nor TlsCurrTxDevice say so (net/tls/tls_device.c, tls_device_down). Two things do: a driver that counts its
contexts has deleted that of the connection, and a card that works counts bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..evidence.model import Snapshot

#: Packets that the card or its driver dropped, or records that it could not do: of mlx5, nfp, cxgb4, funeth.
DROPS = ("tx_tls_drop_no_sync_data", "tx_tls_drop_bypass_req", "rx_tls_err")
OUT_OF_ORDER = "tx_tls_ooo"
ENCRYPTED = "tx_tls_encrypted_bytes"
PACKETS = "tx_tls_encrypted_packets"
#: Contexts that a driver took and gave back.
TAKEN, GIVEN_BACK = "tx_tls_ctx", "tx_tls_del"
SOME_BYTES = 1 << 20

Counters = Mapping[str, Mapping[str, int]]


def is_gcm(cipher: str) -> bool:
    """Whether ``cipher``, of the kernel or of OpenSSL, is AES-GCM: what cards encrypt."""
    words = cipher.upper()
    return "AES" in words and "GCM" in words


def summed(counters: Counters, name: str) -> int | None:
    """Return a counter over all interfaces or namespaces; None where nobody has it."""
    found = [values[name] for values in counters.values() if name in values]
    return sum(found) if found else None


def sums(counters: Counters, names: Iterable[str]) -> int:
    """Return several counters over all of them together, zero where nobody has any."""
    return sum(summed(counters, name) or 0 for name in names)


def sent(snapshot: Snapshot) -> dict[str, int]:
    """Return bytes sent since the evidence began: by cards as the kernel has it, by kTLS with TLS 1.2 GCM, and all."""
    volumes = snapshot.volumes.items()
    return {
        "hw": sum(volume.sent for kind, volume in volumes if kind.tx == "hw"),
        "tls12_gcm": sum(v.sent for kind, v in volumes if kind.version == "TLSv1.2" and is_gcm(kind.cipher)),
        "total": sum(volume.sent for _, volume in volumes) + snapshot.unattributed.sent,
    }


def lost(snapshot: Snapshot) -> int:
    """Return how many open hw connections have no context in any card; 0 where no driver counts them."""
    here = {name: values for name, values in snapshot.nic.items() if TAKEN in values and GIVEN_BACK in values}
    if not here:
        return 0
    live = sum(values[TAKEN] - values[GIVEN_BACK] for values in here.values())
    return max(0, (summed(snapshot.namespaces, "TlsCurrTxDevice") or 0) - max(0, live))


class Stale:
    """Follows snapshots, and says how many connections are called hw and are not.

    One look can meet a connection that is just ending, so it takes two in a row.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.number = 0
        self._last: Snapshot | None = None
        self._suspects = 0
        self._frozen = False

    def take(self, snapshot: Snapshot) -> None:
        """Take the newest snapshot."""
        last, self._last = self._last, snapshot
        open_now = summed(snapshot.namespaces, "TlsCurrTxDevice") or 0
        if last is None or last.since_s != snapshot.since_s or not open_now:
            self._frozen = False
        else:
            self._look_at_bytes(last, snapshot)
        before, self._suspects = self._suspects, open_now if self._frozen else lost(snapshot)
        self.number = min(before, self._suspects, open_now)

    def _look_at_bytes(self, last: Snapshot, now: Snapshot) -> None:
        """A card that encrypted nothing while its connections sent: a route that moved leaves their contexts there."""
        encrypted, earlier = summed(now.nic, ENCRYPTED), summed(last.nic, ENCRYPTED)
        if encrypted is None or earlier is None or encrypted > earlier:
            self._frozen = False
        elif encrypted == earlier and sent(now)["hw"] - sent(last)["hw"] >= SOME_BYTES:
            self._frozen = True
