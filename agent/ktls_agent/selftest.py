# SPDX-License-Identifier: Apache-2.0
"""What a self-probe must have shown for a phase to stand. Pure."""

from __future__ import annotations

import ssl

from .probe import ProbeResult


def can_receive(protocol: str, openssl: tuple[int, ...] | None = None) -> bool:
    """Return whether OpenSSL hands the receiving direction of ``protocol`` to the kernel.

    Before 3.2 it does so for TLS 1.2 alone (CHANGES of OpenSSL 3.2). The sidecar uses the library that Python uses.
    """
    version = ssl.OPENSSL_VERSION_INFO if openssl is None else openssl
    return protocol != "TLSv1.3" or tuple(version[:2]) >= (3, 2)


def verdict(result: ProbeResult, phase: str, openssl: tuple[int, ...] | None = None, tls12: bool = False) -> str:
    """Return why ``result`` does not prove ``phase`` (tx, rx or hw), or nothing. ``tls12``: TLS 1.2 is consented to.

    The probe goes over loopback, which no card sees: for hw it proves that kTLS sends, and what was negotiated.
    """
    if not result.ok:
        return f"the self-test failed: {result.error}"
    if result.ktls_tx is None:
        return f"the self-test could not see the kernel's socket: {result.error or 'not found'}"
    if not result.ktls_tx:
        return f"the self-test got userspace TLS ({result.protocol} {result.cipher}), not kTLS"
    if tls12 and phase == "hw" and (result.protocol != "TLSv1.2" or "GCM" not in result.cipher):
        return f"the self-test negotiated {result.protocol} {result.cipher}, not TLS 1.2 with AES-GCM as consented to"
    if phase == "rx" and can_receive(result.protocol, openssl) and not result.ktls_rx:
        return f"the self-test got kTLS transmit ({result.protocol} {result.cipher}), but receive stays in userspace"
    return ""
