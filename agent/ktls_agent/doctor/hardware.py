# SPDX-License-Identifier: Apache-2.0
"""Symptom: hardware offload is unstable. Pure.

What ``ss`` calls ``hw`` is where a connection began, not where it is: after a link went down the kernel encrypts in
software and never goes back, and ``tx_conf`` stays ``hw`` (net/tls/tls_device.c, tls_device_down). So bytes of the
connections are held against byte counters of the card. Names of counters are those of mlx5, the common case.
"""

from __future__ import annotations

from collections.abc import Iterator

from .model import CONFIRMED, HARDWARE, LIKELY, POSSIBLE, RULED_OUT, Evidence, Finding, percent, size

_SOME_BYTES = 1 << 20
_OFTEN = 0.01
_WORK = ("tx_tls_encrypted_bytes", "rx_tls_decrypted_bytes", "tx_tls_encrypted_packets", "rx_tls_decrypted_packets")
_DROPS = ("tx_tls_drop_no_sync_data", "tx_tls_drop_bypass_req", "rx_tls_err")


def walk(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is known of each cause; nothing but one line where nothing was ever in hardware."""
    stats = evidence.stats or {}
    in_card = [volume for volume in evidence.volumes() if "hw" in (volume.tx, volume.rx)]
    open_now = max(
        sum(volume.connections for volume in in_card),
        stats.get("TlsCurrTxDevice", 0) + stats.get("TlsCurrRxDevice", 0),
    )
    ever = stats.get("TlsTxDevice", 0) + stats.get("TlsRxDevice", 0)
    if not open_now and not ever and not in_card:
        if evidence.stats is not None or evidence.now is not None:
            yield _none(evidence)
        return
    yield _found("none_in_hardware", RULED_OUT, f"{open_now} connections are in hardware now, {ever} were put there")
    yield from _stale(evidence)
    yield from _tls13(evidence)
    yield from _table(evidence)
    yield from _resync(evidence)
    yield from _drops(evidence)


def _found(code: str, likelihood: str, what: str, run: str = "", cure: str = "") -> Finding:
    return Finding(HARDWARE, code, likelihood, what, run, cure)


def _none(evidence: Evidence) -> Finding:
    if evidence.ordered != "hw":
        return _found("none_in_hardware", RULED_OUT, "no connection is or was in hardware, and none was ordered there")
    return _found(
        "none_in_hardware",
        CONFIRMED,
        "phase hw is ordered, and no connection ever went to the card",
        "ktls preflight --phase hw --hosts; ethtool -k IFACE | grep tls-hw",
        "Linux offloads TLS 1.2 with AES-GCM only: docs/diagnostics.md#tls13_not_offloaded",
    )


def _stale(evidence: Evidence) -> Iterator[Finding]:
    """Connections that are called hw and are not: the agent follows that; without it the counters of now tell."""
    open_now, live = _contexts(evidence)
    shown = (evidence.status or {}).get("hw")
    if isinstance(shown, dict):
        stale = int((shown.get("open") or {}).get("stale") or 0)
    else:
        stale = 0 if live is None else max(0, open_now - live)
    if stale:
        held = "" if live is None else f"the drivers hold {live} contexts, and "
        yield _found(
            "stale_hw",
            CONFIRMED,
            f"{stale} of {open_now} open connections that the kernel calls hw have no card that works for them"
            f" ({held}{_moved(evidence)}): they are in software since a link or driver went down or their route moved,"
            " and stay so",
            "dmesg | grep -i 'link is'; ip -s link; ethtool -S IFACE | grep tls; ss -tie | grep 'txconf: hw'",
            "let these connections end (reload clients, or restart the service when quiet); look at the link",
        )
        return
    sent = sum(volume.sent for volume in evidence.sent_since_start() if volume.tx == "hw")
    nic = evidence.nic_since_start()
    known = [name for name in _WORK if name in nic]
    if not known or sent < _SOME_BYTES:
        return
    done = max(nic[name] for name in known)
    what = f"connections that show hw sent {size(sent)}; the cards' counters moved by {done} ({', '.join(known)})"
    if done <= 0:
        yield _found(
            "stale_hw",
            CONFIRMED,
            f"{what}: the kernel encrypts them in software since a link or driver went down, and they stay so",
            "dmesg | grep -i 'link is'; ethtool -S IFACE | grep tls",
            "let these connections end (reload clients, or restart the service when quiet); look at the link",
        )
    else:
        yield _found("stale_hw", RULED_OUT, what)


def _contexts(evidence: Evidence) -> tuple[int, int | None]:
    """Return open hw connections, and the contexts that drivers have for them; None where none counts them."""
    now = evidence.now or {}
    open_now = int((now.get("tls_stat") or {}).get("TlsCurrTxDevice", 0))
    cards = [dict(counters) for counters in (now.get("nic") or {}).values()]
    counting = [counters for counters in cards if "tx_tls_ctx" in counters and "tx_tls_del" in counters]
    live = sum(counters["tx_tls_ctx"] - counters["tx_tls_del"] for counters in counting)
    return open_now, max(0, live) if counting else None


def _moved(evidence: Evidence) -> str:
    sent = sum(volume.sent for volume in evidence.sent_since_start() if volume.tx == "hw")
    done = evidence.nic_since_start().get("tx_tls_encrypted_bytes")
    card = "" if done is None else f" while cards encrypted {size(done)}"
    return f"hw connections sent {size(sent)} since the order{card}"


def _tls13(evidence: Evidence) -> Iterator[Finding]:
    kernel = [volume for volume in evidence.volumes() if volume.tx in ("sw", "hw")]
    newest = sum(volume.connections for volume in kernel if volume.version == "TLSv1.3" and volume.tx == "sw")
    whole = sum(volume.connections for volume in kernel)
    if not whole:
        return
    what = f"{newest} of {whole} kTLS connections are TLS 1.3, which Linux does not offload"
    if newest:
        yield _found(
            "tls13_not_offloaded",
            CONFIRMED if newest * 10 >= whole else POSSIBLE,
            what,
            "ss -tie | grep tcp-ulp-tls",
            "they are software kTLS, silently; offload needs TLS 1.2 with AES-GCM, by consent",
        )
    else:
        yield _found("tls13_not_offloaded", RULED_OUT, what)


def _table(evidence: Evidence) -> Iterator[Finding]:
    """TLS 1.2 that could be offloaded and is not, while other connections are."""
    able = [v for v in evidence.volumes() if v.version == "TLSv1.2" and "GCM" in v.cipher.upper().replace("-", "")]
    soft = sum(volume.connections for volume in able if volume.tx == "sw")
    hard = sum(volume.connections for volume in able if volume.tx == "hw")
    if not hard:
        return
    if soft:
        yield _found(
            "table_full",
            LIKELY if soft * 10 >= hard else POSSIBLE,
            f"{soft} connections that the card could take are in software, {hard} are in hardware: the card took no"
            " more (table full), they began while the link was down, or go through another interface",
            "ethtool -S IFACE | grep -E 'tls_(ctx|pool|del)'; ip -br link",
            "fewer connections for each card; see the card's limit in its manual",
        )
    else:
        yield _found("table_full", RULED_OUT, f"all {hard} connections that the card could take are in hardware")


def _resync(evidence: Evidence) -> Iterator[Finding]:
    nic, stats = evidence.nic_since_start(), evidence.stats_since_start()
    resync = stats.get("TlsRxDeviceResync", 0)
    late, packets = nic.get("tx_tls_ooo", 0), nic.get("tx_tls_encrypted_packets", 0)
    what = f"{resync} resyncs of receiving, {late} of {packets} packets sent again by way of software (tx_tls_ooo)"
    if late > _OFTEN * max(packets, 1) or resync > _OFTEN * max(nic.get("rx_tls_decrypted_packets", 0), 100):
        yield _found(
            "resync",
            LIKELY,
            f"{what}: {percent(late, packets)} of packets",
            "nstat -az TcpRetransSegs TcpExtTCPOFOQueue; ethtool -S IFACE | grep -E 'tls.*(ooo|resync)'",
            "the network loses or reorders packets: with loss, offload costs more than it gives; go back to tx",
        )
    else:
        yield _found("resync", RULED_OUT, what)


def _drops(evidence: Evidence) -> Iterator[Finding]:
    nic = evidence.nic_since_start()
    found = {name: nic[name] for name in _DROPS if nic.get(name, 0) > 0}
    if found:
        yield _found(
            "dropped",
            CONFIRMED,
            f"the card dropped or could not do: {', '.join(f'{name} {count}' for name, count in found.items())}",
            "ethtool -S IFACE | grep tls; ethtool -i IFACE",
            "ktls off, then update driver and firmware",
        )
    elif any(name in nic for name in _DROPS):
        yield _found("dropped", RULED_OUT, "the cards dropped nothing")
