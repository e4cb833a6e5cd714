# SPDX-License-Identifier: Apache-2.0
"""Why a service cannot take a phase: the same words for preflight, for the role, and for an order. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..datapath.model import HW, RX, TX, TX_RX, Consent
from ..errors import KtlsError
from ..reasons import Reason

_CONSENT = "consent with ktls_tx_rx_consent, or stay in userspace"


class RefusedError(KtlsError):
    """A refusal with its reason, which preflight shows by parts."""

    def __init__(self, reason: Reason) -> None:
        """Keep ``reason``."""
        super().__init__(reason.code, f"{reason.message}; {reason.cure}")
        self.reason = reason

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Reason]]:  # type: ignore[override]
        """Survive pickling."""
        return (type(self), (self.reason,))


def of_phase(mode: str, facts: Mapping[str, Any], means: str, consent: Consent) -> Reason | None:
    """Return why ``mode`` cannot be ordered of a unit of which the helper says ``facts``.

    ``means``: what the one setting gives new connections there, ``tx`` or ``tx+rx``.
    """
    unit, library = facts.get("unit"), facts.get("library") or "its TLS library"
    if mode == HW:
        message = f"phase hw is not for {unit}, which cannot be told to take TLS 1.2 with AES-GCM"
        return Reason("phase_not_for_datapath", message, "order tx or rx, or serve with the sidecar for it")
    if facts.get("ktls_built") is False:
        message = f"{library}, which {unit} uses, was built without kernel TLS"
        return Reason("service_library_without_ktls", message, "use a build with it, or another server")
    if mode == RX and means == TX:
        message = f"{unit} runs with {library}, which leaves receiving of TLS 1.3 in userspace"
        return Reason("service_no_ktls_receive", message, "order tx, or update to OpenSSL 3.2 or later")
    if mode == TX and means == TX_RX and not consent.tx_rx:
        message = f"{unit} runs with {library}, whose one setting gives transmit and receive: phase tx would be tx+rx"
        return Reason("tx_means_rx", message, _CONSENT)
    if facts.get("active") and not facts.get("asks") and not consent.restart:
        return no_consent(str(unit))
    return None


def no_consent(unit: str) -> Reason:
    """Return why nobody restarts ``unit``."""
    message = f"{unit} must be restarted to get kernel TLS, which ends its connections, and nobody consented to that"
    return Reason("no_restart_consent", message, "set ktls_restart_ok for this host, or stay in userspace")
