# SPDX-License-Identifier: Apache-2.0
"""What preflight says of a service: the words that an order would be refused with."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host import gnutls
from ktls_host.datapath.model import Consent
from ktls_host.reasons import Reason
from ktls_host.service import adopt, preflight, refusals
from ktls_host.service.adopt import Wish
from ktls_host.service.switch import Asked

if TYPE_CHECKING:
    from tests.unit.host.service import servicehost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import servicehost

Host = servicehost.ServiceHost
CONSENTS = {"tx_rx_consent": True}


def codes(host: Host, unit: str, restart_ok: bool = True, **consent: Any) -> tuple[dict[str, list[str]], list[str]]:
    asked = Asked(unit, restart_ok=restart_ok)
    found = preflight.probe(asked, runner=host, root=str(host.root), **{**CONSENTS, **consent})
    refused = {phase: [reason.code for reason in reasons] for phase, reasons in found.refused.items()}
    return refused, [note.code for note in found.notes]


HW = {"hw": ["phase_not_for_datapath"]}


@pytest.mark.parametrize("unit", ["tunnel.service", "gtls.service"])
def test_with_both_consents_only_a_card_is_refused(host: Host, unit: str) -> None:
    assert codes(host, unit) == (HW, [])
    assert host.log == []


def test_each_consent_has_its_refusal(host: Host) -> None:
    assert codes(host, "tunnel", tx_rx_consent=False) == ({**HW, "tx": ["tx_means_rx"]}, [])
    missing = ["no_restart_consent"]
    assert codes(host, "tunnel", restart_ok=False) == ({**HW, "tx": missing, "rx": missing}, [])


def test_a_lighttpd_that_is_not_ours_yet_is_in_kernel_tls(host: Host) -> None:
    assert codes(host, "lighttpd") == (HW, ["lighttpd_ktls_by_itself"])
    adopt.present(Wish("lighttpd", restart_ok=True), runner=host, root=str(host.root))
    assert codes(host, "lighttpd") == (HW, [])


def test_a_library_without_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    without_it = replace(gnutls.probe(), ktls_built=False)
    monkeypatch.setattr(gnutls, "probe", lambda root="/": without_it)
    without = ["service_library_without_ktls"]
    assert codes(host, "gtls") == ({**HW, "tx": without, "rx": without}, [])


@pytest.mark.parametrize(
    ("unit", "program", "code"),
    [
        ("gone", None, "service_not_usable"),
        ("proxy", "/usr/sbin/haproxy", "haproxy_not_switched"),
        ("web", "/usr/sbin/apache2", "service_program_never_ktls"),
    ],
)
def test_what_cannot_be_looked_at_or_helped(host: Host, unit: str, program: str | None, code: str) -> None:
    if program:
        host.serve(f"{unit}.service", program, "libssl.so.3")
    assert codes(host, unit) == ({phase: [code] for phase in ("tx", "rx", "hw")}, [])


def test_a_refusal_keeps_its_parts() -> None:
    reason = refusals.no_consent("x.service")
    error = pickle.loads(pickle.dumps(refusals.RefusedError(reason)))
    assert (error.code, error.reason) == (reason.code, reason)
    assert error.message == f"{reason.message}; {reason.cure}"
    facts = {"unit": "x.service", "active": True, "asks": False, "library": "OpenSSL 3.0.19"}
    found = refusals.of_phase("rx", facts, "tx", Consent(True, True))
    assert isinstance(found, Reason)
    assert found.code == "service_no_ktls_receive"
