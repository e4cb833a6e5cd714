# SPDX-License-Identifier: Apache-2.0
"""What preflight says of a host whose datapath is a service: refusals by phase, and what to know. Changes nothing."""

from __future__ import annotations

from ..commands import Runner
from ..datapath.model import HW, RX, TX, Consent
from ..errors import KtlsError
from ..nginx.preflight import Served
from ..reasons import Reason
from . import refusals, switch
from .programs import LIGHTTPD, directions
from .refusals import RefusedError
from .switch import Asked, Look

_PHASES = (TX, RX, HW)


def probe(asked: Asked, tx_rx_consent: bool = False, runner: Runner | None = None, root: str = "/") -> Served:
    """Look at the unit on this host. What cannot be looked at is a reason."""
    try:
        found = switch.look(asked, runner, root)
    except RefusedError as error:
        return Served({phase: [error.reason] for phase in _PHASES})
    except KtlsError as error:
        reason = Reason("service_not_usable", error.message, "name one that systemd knows in ktls_service_unit")
        return Served({phase: [reason] for phase in _PHASES})
    return judge(found, Consent(tx_rx_consent, asked.restart_ok))


def judge(found: Look, consent: Consent) -> Served:
    """Return what was found means for each phase."""
    facts = found.as_dict()
    means = directions(found.way.backend, facts["release"])
    refused = {phase: refusals.of_phase(phase, facts, means, consent) for phase in _PHASES}
    notes = []
    if found.asks and found.way.backend == LIGHTTPD and not found.there:
        message = f"{found.unit.name} serves by kernel TLS by itself, as lighttpd with mod_openssl does"
        cure = "ktls deploy puts a line into its configuration that leaves it to orders, from its next start on"
        notes.append(Reason("lighttpd_ktls_by_itself", message, cure))
    return Served({phase: [reason] for phase, reason in refused.items() if reason is not None}, notes)
