# SPDX-License-Identifier: Apache-2.0
"""Which network drivers of the Linux kernel offload TLS, and which only seem to. Data, from the kernel's source.

A driver offloads TLS when it sets ``tlsdev_ops`` (include/linux/netdevice.h). The same set does in Linux 6.1, 6.12
and 7.3. Drivers of a vendor, built outside the kernel, are another matter: their feature shows as not fixed.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any

#: What each direction is called by ethtool (net/ethtool/common.c netdev_features_strings).
FEATURES = {"tx": "tls-hw-tx-offload", "rx": "tls-hw-rx-offload"}
#: Full TLS engines (CONFIG_TLS_TOE); the name is gone after Linux 6.12, and nothing here needs it.
RECORD_FEATURE = "tls-hw-record"
#: What TLS needs: net/core/dev.c netdev_fix_features drops the TLS feature without it. One of the sets must be on.
#: ``rx-checksumming`` is how ethtool prints the kernel's rx-checksum.
NEEDED = {
    "tx": (frozenset({"tx-checksum-ip-generic"}), frozenset({"tx-checksum-ipv4", "tx-checksum-ipv6"})),
    "rx": (frozenset({"rx-checksumming"}),),
}

_COUNTER = re.compile(r"(?:[tr]x|hw)_tls_\w+\Z", re.ASCII)


@dataclass(frozen=True)
class Driver:
    """A driver that implements TLS offload.

    ``default`` is the feature's state after the driver has loaded, where the card and its firmware have it.
    ``option`` is the kernel configuration that the code depends on, beside CONFIG_TLS_DEVICE. ``counters`` are the
    driver's names in ``ethtool -S``; those of each ring are not among them.
    """

    name: str
    cards: str
    source: str
    tx: bool
    rx: bool
    default: dict[str, bool]
    ciphers: tuple[str, ...]
    counters: tuple[str, ...]
    option: str | None = None
    versions: tuple[str, ...] = ("TLSv1.2",)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        plain = asdict(self)
        for name in ("ciphers", "counters", "versions"):
            plain[name] = list(plain[name])
        return plain


_CHCR_COUNTERS = (
    "tx_tls_encrypted_packets",
    "tx_tls_encrypted_bytes",
    "tx_tls_ctx",
    "tx_tls_ooo",
    "tx_tls_skip_no_sync_data",
    "tx_tls_drop_no_sync_data",
    "tx_tls_drop_bypass_req",
)

IMPLEMENTING: dict[str, Driver] = {
    driver.name: driver
    for driver in (
        Driver(
            name="mlx5_core",
            cards="NVIDIA ConnectX-6 Dx and later, BlueField-2 and later, variants with crypto enabled",
            source="drivers/net/ethernet/mellanox/mlx5/core/en_accel/ktls.c",
            tx=True,
            rx=True,
            default={"tx": True, "rx": False},
            # AES-GCM-256 where the firmware has it, since Linux 6.1.
            ciphers=("aes-gcm-128", "aes-gcm-256"),
            counters=(
                *("tx_tls_ctx", "tx_tls_del", "tx_tls_pool_alloc", "tx_tls_pool_free", "rx_tls_ctx", "rx_tls_del"),
                *("tx_tls_encrypted_packets", "tx_tls_encrypted_bytes", "tx_tls_ooo", "tx_tls_dump_packets"),
                *("tx_tls_dump_bytes", "tx_tls_resync_bytes", "tx_tls_skip_no_sync_data", "tx_tls_drop_no_sync_data"),
                *("tx_tls_drop_bypass_req", "rx_tls_decrypted_packets", "rx_tls_decrypted_bytes"),
                *("rx_tls_resync_req_pkt", "rx_tls_resync_req_start", "rx_tls_resync_req_end"),
                *("rx_tls_resync_req_skip", "rx_tls_resync_res_ok", "rx_tls_resync_res_retry"),
                *("rx_tls_resync_res_skip", "rx_tls_err"),
            ),
            option="CONFIG_MLX5_EN_TLS",
        ),
        Driver(
            name="nfp",
            cards="Netronome and Corigine Agilio, with a firmware that has TLS",
            source="drivers/net/ethernet/netronome/nfp/crypto/tls.c",
            tx=True,
            rx=True,
            default={"tx": True, "rx": True},
            ciphers=("aes-gcm-128",),
            counters=(
                *("tx_tls_encrypted_packets", "tx_tls_ooo", "tx_tls_drop_no_sync_data", "hw_tls_no_space"),
                *("rx_tls_decrypted_packets", "rx_tls_resync_req_ok", "rx_tls_resync_req_ign", "rx_tls_resync_sent"),
            ),
        ),
        Driver(
            name="cxgb4",
            cards="Chelsio T6, with its module ch_ktls",
            source="drivers/net/ethernet/chelsio/inline_crypto/ch_ktls/chcr_ktls.c",
            tx=True,
            rx=False,
            default={"tx": False, "rx": False},
            ciphers=("aes-gcm-128",),
            counters=_CHCR_COUNTERS,
            option="CONFIG_CHELSIO_TLS_DEVICE",
        ),
        Driver(
            name="funeth",
            cards="Fungible DPU",
            source="drivers/net/ethernet/fungible/funeth/funeth_ktls.c",
            tx=True,
            rx=False,
            default={"tx": True, "rx": False},
            ciphers=("aes-gcm-128",),
            counters=(
                *("tx_tls_ctx", "tx_tls_del", "tx_tls_resync", "tx_tls_encrypted_packets", "tx_tls_encrypted_bytes"),
                *("tx_tls_ooo", "tx_tls_drop_no_sync_data"),
            ),
        ),
    )
}

#: Drivers of test devices, which encrypt in software. They count on lab hosts, which have the marker, nowhere else.
LAB: dict[str, Driver] = {
    driver.name: driver
    for driver in (
        Driver(
            name="tlssim",
            cards="the test device of the lab, which is no hardware",
            source="lab/tlssim of this project",
            tx=True,
            rx=True,
            default={"tx": True, "rx": False},
            ciphers=("aes-gcm-128", "aes-gcm-256"),
            counters=(
                *("tx_tls_ctx", "tx_tls_del", "tx_tls_encrypted_packets", "tx_tls_encrypted_bytes", "tx_tls_ooo"),
                *("tx_tls_skip_no_sync_data", "tx_tls_drop_no_sync_data", "tx_tls_refused"),
                *("rx_tls_ctx", "rx_tls_del", "rx_tls_resync_req_pkt"),
            ),
        ),
    )
}
#: What the build of a lab image puts there, and nothing else does.
LAB_MARKER = "/usr/lib/ktls-lab/tlssim"

_NO_CRYPTO = "its hardware has no TLS engine that Linux could use"
#: Drivers that are met often, or believed to offload TLS; each with what is so.
NOT_IMPLEMENTING: dict[str, str] = {
    "ice": "Intel E810 is advertised with crypto, which is IPsec and MACsec at most: the driver has no TLS",
    "idpf": "Intel IPU E2000: the driver has no TLS",
    "i40e": f"Intel X710: {_NO_CRYPTO}",
    "iavf": "a virtual function of an Intel card: the driver has no TLS",
    "ixgbe": "Intel X520 to X550 offload IPsec, not TLS",
    "ixgbevf": "a virtual function of an Intel card: the driver has no TLS",
    "igb": f"Intel 1 Gb/s: {_NO_CRYPTO}",
    "igc": f"Intel 2.5 Gb/s: {_NO_CRYPTO}",
    "e1000e": f"Intel 1 Gb/s: {_NO_CRYPTO}",
    "bnxt_en": "Broadcom advertises TLS for some cards, but the kernel's driver has none",
    "bnx2x": f"Broadcom 10 Gb/s: {_NO_CRYPTO}",
    "tg3": f"Broadcom 1 Gb/s: {_NO_CRYPTO}",
    "mlx4_en": "ConnectX-3: TLS came with ConnectX-6 Dx and driver mlx5_core",
    "mlx5e_rep": "a representor of a virtual function: TLS is offloaded where the function itself is used",
    "ena": "the virtual card of AWS: the driver has no TLS, whatever the hardware behind it does",
    "gve": "the virtual card of Google Cloud: the driver has no TLS",
    "hv_netvsc": "the virtual card of Hyper-V and Azure: the driver has no TLS",
    "mana": "the virtual card of Azure: the driver has no TLS",
    "virtio_net": "a virtual card: the guest's driver has no TLS, whatever the host's card does",
    "vmxnet3": "a virtual card of VMware: the driver has no TLS",
    "xen-netfront": "a virtual card of Xen: the driver has no TLS",
    "sfc": "AMD Solarflare: its kernel bypass does TLS, the kernel's driver does not",
    "qede": "Marvell FastLinQ: the driver has no TLS",
    "ionic": "AMD Pensando: the kernel's driver has no TLS",
    "hns3": "HiSilicon: the driver has no TLS",
    "netdevsim": "a simulated card: it offloads IPsec and MACsec, not TLS",
    "veth": "a pair of virtual interfaces: the kernel encrypts before them",
    "r8169": f"Realtek: {_NO_CRYPTO}",
    "atlantic": f"Marvell AQtion: MACsec, not TLS: {_NO_CRYPTO}",
}


def in_lab() -> bool:
    """True on a host of the lab."""
    return os.path.isfile(LAB_MARKER)


def find(driver: str | None) -> Driver | None:
    """Return what is known of a driver that implements TLS offload on this host; None for all others."""
    name = driver or ""
    return IMPLEMENTING.get(name) or (LAB.get(name) if name in LAB and in_lab() else None)


def is_lab_device(driver: str | None) -> bool:
    """True for a test device where it has no business: outside of the lab."""
    return driver in LAB and not in_lab()


def implements(driver: str | None) -> dict[str, bool]:
    """Return for both directions whether the driver has the code; what a card can do, its features say."""
    known = find(driver)
    return {"tx": bool(known and known.tx), "rx": bool(known and known.rx)}


def named() -> str:
    """Return the drivers that implement TLS offload, with their cards, for messages."""
    return "; ".join(f"{driver.name} ({driver.cards})" for driver in IMPLEMENTING.values())


def why_not(driver: str | None) -> str:
    """Return a clause about a driver that does not implement TLS offload; empty when nothing is known of it."""
    return NOT_IMPLEMENTING.get(driver or "", "")


def tls_counters(driver: str | None, statistics: dict[str, int]) -> dict[str, int]:
    """Return those of ``statistics`` that are about TLS: the driver's own, and such as are named like them."""
    known = find(driver)
    names = known.counters if known else ()
    return {name: value for name, value in statistics.items() if name in names or _COUNTER.match(name)}
