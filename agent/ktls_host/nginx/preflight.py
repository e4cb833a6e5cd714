# SPDX-License-Identifier: Apache-2.0
"""What preflight says of a host whose datapath is nginx: refusals by phase, and what to know. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..commands import Runner
from ..datapath.model import RX, TX, Consent, tx_means_rx
from ..errors import KtlsError
from ..reasons import Reason
from . import findings
from .root import Look, Nginx
from .settings import Settings

_STAY = "consent with ktls_tx_rx_consent, or stay in userspace"


@dataclass(frozen=True)
class Served:
    """Why a datapath refuses a phase, by phase, and notes."""

    refused: dict[str, Sequence[Reason]] = field(default_factory=dict)
    notes: Sequence[Reason] = ()


def probe(settings: Settings, consent: bool = False, runner: Runner | None = None) -> Served:
    """Ask nginx on this host. What cannot be asked is a reason."""
    nginx = Nginx(settings, runner=runner)
    try:
        look = nginx.look()
    except KtlsError as error:
        cure = "repair it and see `nginx -t`" if error.code == "nginx_config_broken" else "install nginx first"
        code = Reason("nginx_config_broken", error.message, cure)
        if error.code != "nginx_config_broken":
            code = Reason("nginx_missing", error.message, cure)
        return Served({TX: [code], RX: [code], "hw": [code]})
    return judge(nginx, look, consent)


def judge(nginx: Nginx, look: Look, consent: bool) -> Served:
    """Return what ``look`` means for each phase."""
    tx = nginx.refusals(look, TX)
    both = tx_means_rx(Consent(consent), "nginx", look.build.openssl_number)
    if both is not None and not tx:
        tx.append(Reason("tx_means_rx", both.message, _STAY))
    message = "phase hw is not for nginx, which cannot move connections to TLS 1.2"
    hw = [Reason("phase_not_for_datapath", message, "serve with the sidecar for it")]
    notes = list(findings.notes(look.build, look.dump))
    return Served({TX: tx, RX: nginx.refusals(look, RX), "hw": hw}, notes)
