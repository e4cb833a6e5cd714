# SPDX-License-Identifier: Apache-2.0
"""Whether this host's interfaces can offload TLS: phase ``hw``, as far as the network cards decide it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ..reasons import Reason
from . import drivers
from .interface import Nic, below, by_name, offloading

_TLS13 = Reason(
    "tls13_not_offloaded",
    "TLS 1.3 is not offloaded by this kernel, nor by any up to 7.3: what a card takes is TLS 1.2 with AES-GCM, the rest"
    " stays in software, silently",
    "consent to TLS 1.2 on what shall be offloaded (ktls_agent_tls12_consent), or stay at phase tx or rx",
)


def hw_reasons(
    nics: Iterable[Nic], kernel_config: dict[str, str] | None
) -> tuple[list[Reason], list[Reason], list[Reason]]:
    """Return what refuses phase ``hw``, what leaves it undecided, and what to know when it is ready.

    ``kernel_config`` is option to ``y``, ``m`` or ``n`` (:mod:`ktls_host.kernel_config`), ``None`` when the host
    keeps no copy: the interface's features then tell.
    """
    known = by_name(nics)
    config = kernel_config or {}
    refusals: list[Reason] = []
    if config.get("CONFIG_TLS_DEVICE") == "n":
        message = "the kernel was built without CONFIG_TLS_DEVICE, so no card can be used for TLS"
        refusals.append(Reason("kernel_without_tls_device", message, "boot a kernel that has it, as Debian's have"))
    routed, stacked = _routed(known)
    everywhere = [nic for nic in known.values() if nic.implements["tx"]]
    capable = [nic for nic in routed if nic.implements["tx"]]
    if not everywhere:
        refusals.append(_none(routed, known))
        return refusals, [], []
    blocked = [reason for nic, reason in stacked if any(lower.implements["tx"] for lower in below(nic, known))]
    if blocked and not capable:
        return [*refusals, *blocked], [], []
    here = [nic for nic in capable if _usable(nic)]
    usable = here or [nic for nic in everywhere if _usable(nic)]
    if not usable and any(nic.ethtool == "missing" for nic in everywhere):
        return refusals, [ethtool_missing()], []
    if not usable:
        return [*refusals, *(fixed_off(nic, "tx", config) for nic in capable or everywhere)], [], []
    if refusals:
        return refusals, [], []
    return [], [], [_TLS13, *blocked, *_notes(usable, routed=bool(here))]


def ethtool_missing() -> Reason:
    """Return the reason for a host whose interfaces cannot be asked."""
    cure = "install package ethtool, then ask again"
    return Reason("ethtool_missing", "there is no program ethtool, so features of interfaces are not known", cure)


def no_offload(nics: Iterable[Nic]) -> Reason:
    """Return the reason for interfaces whose drivers do not implement TLS offload, naming drivers that do."""
    found = tuple(nics)
    lab = [nic for nic in found if drivers.is_lab_device(nic.driver)]
    if lab:
        message = (
            f"{', '.join(nic.name for nic in lab)} is a test device (driver {lab[0].driver}) that encrypts in software"
            " and may be told to corrupt or leak: this host is not one of the lab"
        )
        cure = f"take it away (ip link delete {lab[0].name}), or use a host made by `ktls lab up --rig`"
        return Reason("lab_device", message, cure)
    message = f"no driver here implements TLS offload: {', '.join(_described(nic) for nic in found) or 'no interface'}"
    return Reason("nic_no_tls_offload", message, f"use one of these, or stay below phase hw: {drivers.named()}")


def fixed_off(nic: Nic, direction: str, kernel_config: dict[str, str] | None = None) -> Reason:
    """Return the reason for an interface whose driver has the code while the card or kernel lacks the feature."""
    name = drivers.FEATURES[direction]
    feature = nic.feature(direction)
    state = "not there" if feature is None else feature.words
    message = f"{nic.name}: {name} is {state} although driver {nic.driver} implements it"
    known = drivers.find(nic.driver)
    if known and known.option:
        value = (kernel_config or {}).get(known.option)
        if value == "n":
            return Reason(
                "nic_feature_fixed_off",
                f"{message}: the kernel was built without {known.option}",
                f"boot a kernel that has {known.option}; Debian's cloud kernels have no option of any card",
            )
        cure = f"use a kernel with {known.option} and a card and firmware with TLS: {known.cards}"
    else:
        cure = f"use a card and firmware with TLS: {known.cards if known else drivers.named()}"
    return Reason("nic_feature_fixed_off", message, cure)


def not_seen_through(nic: Nic) -> Reason | None:
    """Return why the kernel does not offload TLS of connections that leave through ``nic``; None where it may."""
    if nic.bond and not nic.bond.passes_tls:
        message = (
            f"{nic.name} is a bond in mode {nic.bond.mode} with xmit_hash_policy {nic.bond.policy or 'unknown'}: "
            f"the kernel offloads TLS only where a connection keeps its slave"
        )
        cure = "set mode 802.3ad or balance-xor with xmit_hash_policy layer3+4, or stay below phase hw"
        return Reason("bond_no_tls_offload", message, cure)
    if nic.lowers and not nic.bond and not any(nic.implements.values()):
        message = (
            f"{nic.name} is a {nic.kind} interface over {', '.join(nic.lowers)}: the kernel does not look through it"
        )
        cure = f"let the traffic leave through {nic.lowers[0]} itself, or stay below phase hw"
        return Reason("stacked_no_tls_offload", message, cure)
    return None


def _routed(nics: dict[str, Nic]) -> tuple[list[Nic], list[tuple[Nic, Reason]]]:
    """Return the interfaces that would offload what takes a default route, and those in between that prevent it."""
    found: dict[str, Nic] = {}
    stacked = []
    for nic in nics.values():
        if not nic.carries_default_route:
            continue
        for lower in (nic, *(offloading(nic, nics) if nic.bond else ())):
            reason = not_seen_through(lower)
            if reason is not None:
                stacked.append((nic, reason))
                break
        else:
            found.update({lower.name: lower for lower in offloading(nic, nics)})
    return list(found.values()), stacked


def _none(routed: list[Nic], nics: dict[str, Nic]) -> Reason:
    carriers = [nic for nic in nics.values() if nic.carries_default_route]
    seen = {nic.name: nic for carrier in carriers for nic in (carrier, *below(carrier, nics))}
    seen.update({nic.name: nic for nic in routed})
    return no_offload(seen.values() or [nic for nic in nics.values() if nic.kind == "physical"])


def _described(nic: Nic) -> str:
    if nic.kind in ("bond", "vlan", "bridge", "team"):
        return f"{nic.name} ({nic.kind} over {', '.join(nic.lowers) or 'nothing'})"
    why = drivers.why_not(nic.driver)
    return f"{nic.name} (driver {nic.driver or 'unknown'}{': ' if why else ''}{why})"


def _usable(nic: Nic) -> bool:
    feature = nic.feature("tx")
    return feature is not None and (feature.on or not feature.fixed)


def _notes(usable: list[Nic], *, routed: bool) -> list[Reason]:
    notes = []
    on = sorted(nic.name for nic in usable if (feature := nic.feature("tx")) and feature.on)
    if on:
        message = f"{drivers.FEATURES['tx']} is already on at {', '.join(on)}, so kTLS in phase tx is not all software"
        notes.append(
            Reason("offload_already_on", message, "switch it off with ktls_offload (tx: false) before phase tx")
        )
    receiving = sorted(nic.name for nic in usable if (feature := nic.feature("rx")) and feature.on)
    if receiving:
        name = drivers.FEATURES["rx"]
        message = f"{name} is on at {', '.join(receiving)}: kernels up to 7.3 may hang when such a link goes down"
        cure = "switch it off with ktls_offload (rx: false), or never take the link down"
        notes.append(Reason("rx_offload_on", message, cure))
    short = sorted(nic.name for nic in usable if not _needed_is_on(nic))
    if short:
        message = f"transmit checksum offload is off at {', '.join(short)}, and TLS offload needs it"
        notes.append(Reason("checksum_offload_off", message, "switch it on: ethtool -K INTERFACE tx on"))
    down = sorted(nic.name for nic in usable if not nic.up)
    if down:
        message = f"{', '.join(down)} is down, and the kernel offloads only to an interface that is up"
        notes.append(Reason("nic_down", message, "bring it up before phase hw"))
    if not routed:
        names = ", ".join(sorted(nic.name for nic in usable))
        message = f"{names} can offload TLS, but no default route leaves through it"
        notes.append(Reason("offload_not_on_default_route", message, "make sure that the served traffic leaves there"))
    return notes


def _needed_is_on(nic: Nic) -> bool:
    on = {name for name, feature in nic.features.items() if feature.on}
    return any(names <= on for names in drivers.NEEDED["tx"])
