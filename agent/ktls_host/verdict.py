# SPDX-License-Identifier: Apache-2.0
"""Whether a host can take each phase. Pure: everything that was read goes in, verdicts with reasons come out.

A phase is ``ready`` only when it was tried here and worked, ``refused`` when a reason says why it cannot, and
``unknown`` when it could not be tried. Notes are no obstacles, but what an operator must know before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import known_bad, module_lever
from .datapaths import Datapath
from .gnutls import GnutlsState
from .kernel_config import KernelConfig
from .module_lever import ModuleState
from .nginx.preflight import Served
from .openssl_lib import OpensslState
from .proof.openssl import Cell, Proof
from .reasons import Reason

PHASES = ("userspace", "tx", "rx", "hw")
SERVED = ("userspace", "tx")
_ULP_FOR_ALL_SINCE = (6, 15)
_KINDS = {
    "peer": "new keys from a client",
    "peer_requested": "a client's request for new keys",
    "own": "new keys from the server",
}


@dataclass(frozen=True)
class Evidence:
    """What the probes found. ``hardware`` is refusals, unknowns and notes of the NICs, as the nic probe judges them.

    ``served``: what the program that serves has against each phase, and notes, where that is not the sidecar.
    """

    module: ModuleState
    openssl: OpensslState
    proof: Proof = field(default_factory=Proof)
    config: KernelConfig = field(default_factory=KernelConfig)
    gnutls: GnutlsState = field(default_factory=GnutlsState)
    datapaths: Sequence[Datapath] = ()
    hardware: tuple[Sequence[Reason], Sequence[Reason], Sequence[Reason]] = ((), (), ())
    served: Served = field(default_factory=Served)


@dataclass(frozen=True)
class Verdict:
    """``verdict`` is ``ready``, ``refused`` or ``unknown``; ``reasons`` say why it is not ``ready``."""

    verdict: str
    reasons: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "verdict": self.verdict,
            "reasons": [reason.as_dict() for reason in self.reasons],
            "notes": [note.as_dict() for note in self.notes],
        }


def judge(evidence: Evidence) -> dict[str, Verdict]:
    """Return the verdict for each of :data:`PHASES`."""
    library = _library(evidence.openssl)
    refused = [*library, *_build(evidence.openssl), *_module(evidence.module), *_no_transmit(evidence.proof)]
    unknown = _not_tried(evidence)
    notes = [*_module_notes(evidence.module), *_known(evidence), *_cipher_notes(evidence.proof)]
    rx_refused = [
        *refused,
        *_no_receive(evidence.proof),
        *_key_update(evidence.proof, "rx"),
        *_known_refusals(evidence, "rx"),
    ]
    hw_refused, hw_unknown, hw_notes = evidence.hardware
    served = evidence.served
    tx_refused = [*refused, *served.refused.get("tx", ())]
    rx_refused = [*rx_refused, *served.refused.get("rx", ())]
    hw_refused = [*hw_refused, *served.refused.get("hw", ())]
    notes = [*notes, *served.notes]
    return {
        "userspace": _verdict(library, (), ()),
        "tx": _verdict(tx_refused, unknown, [*notes, *_key_update(evidence.proof, "tx"), *_datapath_notes(evidence)]),
        "rx": _verdict(rx_refused, unknown, [*notes, *_datapath_notes(evidence), *_not_served("rx")]),
        "hw": _verdict(
            [*refused, *_known_refusals(evidence, "hw"), *hw_refused],
            [*unknown, *hw_unknown],
            [*notes, *hw_notes, *_not_served("hw")],
        ),
    }


def kernel_version(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel release, (0, 0) when it has no such form."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})", release, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _verdict(refused: Iterable[Reason], unknown: Iterable[Reason], notes: Iterable[Reason]) -> Verdict:
    """A refusal outweighs what is not known; notes stand beside either."""
    no, open_questions, to_know = _once(refused), _once(unknown), _once(notes)
    if no:
        return Verdict("refused", no, to_know)
    if open_questions:
        return Verdict("unknown", open_questions, to_know)
    return Verdict("ready", (), to_know)


def _once(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    return tuple(dict.fromkeys(reasons))


def _library(openssl: OpensslState) -> list[Reason]:
    if openssl.number is None:
        cure = "install package libssl3 or libssl3t64 (Debian, Ubuntu) or openssl-libs (RHEL, Fedora)"
        return [Reason("openssl_missing", "there is no libcrypto.so.3 on this host", cure)]
    if openssl.release < (3, 0):
        cure = "install OpenSSL 3.0 or later, or update the distribution"
        return [Reason("openssl_too_old", f"{openssl.version} is older than 3.0", cure)]
    return []


def _build(openssl: OpensslState) -> list[Reason]:
    if openssl.ktls_built is not False:
        return []
    cure = "install a build made with enable-ktls, as Debian, Ubuntu, Fedora and RHEL have it"
    return [Reason("openssl_without_ktls", f"{openssl.version} was built without kTLS", cure)]


def _module(module: ModuleState) -> list[Reason]:
    if module.present or module.loadable:
        return []
    if module.blocked_by:
        where = ", ".join(module.blocked_by)
        return [Reason("module_blocked", f"loading module tls is blocked by {where}", "remove it there")]
    message, _, cure = module_lever.missing_message(module.kernel).partition(": ")
    return [Reason("tls_module_missing", message, cure)]


def _module_notes(module: ModuleState) -> list[Reason]:
    notes = []
    if not module.present and module.loadable:
        notes.append(Reason("module_not_loaded", "module tls is not loaded now", "nothing: deploy loads it"))
    if module.blacklisted_by:
        where = ", ".join(module.blacklisted_by)
        message = f"module tls is blacklisted in {where}, so it will not load at boot"
        notes.append(Reason("module_blacklisted", message, "remove that line"))
    if module.present and kernel_version(module.kernel) < _ULP_FOR_ALL_SINCE:
        message = f"kernel {module.kernel} shows kTLS on connections only to CAP_NET_ADMIN"
        notes.append(Reason("evidence_needs_net_admin", message, "keep ktls-diag.socket enabled"))
    return notes


def _not_tried(evidence: Evidence) -> list[Reason]:
    """Return why there is no proof either way."""
    proof, openssl = evidence.proof, evidence.openssl
    unknown = []
    if openssl.number is not None and openssl.release >= (3, 0) and openssl.ktls_built is None:
        message = f"{openssl.version} does not say whether kTLS is built in"
        unknown.append(Reason("openssl_ktls_unknown", message, "install your distribution's build of OpenSSL"))
    if not proof.done:
        why = proof.why or "nothing was tried"
        if "not loaded" in why:
            cure = "run preflight without --read-only, which loads the module for its test, or deploy"
            unknown.append(Reason("not_proved", f"kTLS was not tried on this host: {why}", cure))
        else:
            cure = "see the kernel log of this host, and run preflight again when it is less busy"
            unknown.append(Reason("proof_incomplete", why, cure))
    return unknown


def _no_transmit(proof: Proof) -> list[Reason]:
    offered = [cell for cell in proof.cells if cell.offered]
    if not proof.done or any(cell.tx for cell in offered):
        return []
    said = sorted({cell.reason or "no reason given" for cell in proof.cells})
    message = f"{proof.library} and this kernel put no cipher into the kernel: {'; '.join(said[:3])}"
    return [Reason("no_ktls_transmit", message, "update kernel and OpenSSL to releases of docs/compatibility.md")]


def _no_receive(proof: Proof) -> list[Reason]:
    """TLS 1.3 decides, which clients choose where it is offered; where it is not, TLS 1.2."""
    offered = [cell for cell in proof.cells if cell.offered]
    newest = max((cell.version for cell in offered), default="TLSv1.3")
    if not proof.done or any(cell.rx for cell in offered if cell.version == newest):
        return []
    message = f"{proof.library} never lets the kernel decrypt {newest.replace('v', ' ')}"
    return [Reason("no_ktls_receive", message, "stay at tx, or update to OpenSSL 3.2 or later")]


def _key_update(proof: Proof, mode: str) -> list[Reason]:
    """A refusal for rx, where a client can end its own connection at will; a note for tx (RFC 8446 section 4.6.3)."""
    broken: dict[str, str] = {}
    for cell in proof.cells:
        for kind, outcome in (cell.key_update.get(mode) or {}).items():
            if outcome != "ok":
                broken.setdefault(kind, outcome.partition(": ")[2] or outcome)
    if not broken:
        return []
    *first, last = [text for kind, text in _KINDS.items() if kind in broken]
    kinds = f"{', '.join(first)} and {last}" if first else last
    message = f"a TLS 1.3 connection in the kernel ends on {kinds} ({next(iter(broken.values()))})"
    if mode == "rx":
        cure = "stay at tx, or use kernel 6.14 or later with OpenSSL 3.2 or later"
        return [Reason("key_update_breaks_rx", message, cure)]
    cure = (
        "limit age and bytes of connections, or use kernel 6.14 or later with OpenSSL 3.2 or later; few clients do it"
    )
    return [Reason("key_update_breaks_tx", message, cure)]


def _cipher_notes(proof: Proof) -> list[Reason]:
    if not any(cell.tx for cell in proof.cells):
        return []
    left = [cell for cell in proof.cells if cell.offered and not cell.tx]
    notes = []
    if left:
        message = f"stays in userspace: {', '.join(map(_name, left))}"
        notes.append(Reason("cipher_not_in_kernel", message, "nothing, or leave it out of the server's ciphers"))
    absent = [cell for cell in proof.cells if not cell.offered]
    if absent:
        message = f"not offered by this host's OpenSSL: {', '.join(map(_name, absent))}"
        notes.append(Reason("cipher_not_offered", message, "nothing, if that is your crypto policy"))
    return notes


def _name(cell: Cell) -> str:
    return f"{cell.version} {cell.cipher}"


def _known(evidence: Evidence) -> list[Reason]:
    hits = [
        *known_bad.hits("openssl", evidence.openssl.version),
        *known_bad.hits("gnutls", _gnutls_name(evidence.gnutls)),
    ]
    return [reason for known, reason in hits if not known.phases]


def _known_refusals(evidence: Evidence, phase: str) -> list[Reason]:
    return [reason for known, reason in known_bad.hits("openssl", evidence.openssl.version) if phase in known.phases]


def _gnutls_name(gnutls: GnutlsState) -> str | None:
    """Faults of a kTLS that is not built in do not count."""
    return f"GnuTLS {gnutls.version}" if gnutls.version and gnutls.ktls_built else None


def _datapath_notes(evidence: Evidence) -> list[Reason]:
    notes = []
    if evidence.gnutls.library and evidence.gnutls.ktls_built is False:
        message = (
            f"GnuTLS {evidence.gnutls.version} was built without kTLS: 'ktls = true' does nothing, and says nothing"
        )
        cure = "serve with OpenSSL, or install a GnuTLS built with --enable-ktls, as Fedora and RHEL have it"
        notes.append(Reason("gnutls_without_ktls", message, cure))
    for path in evidence.datapaths:
        if path.ktls == "never":
            message = f"{path.name} can never use kTLS: {path.why}"
            notes.append(Reason("datapath_never_ktls", message, "serve bulk data with the sidecar or nginx"))
        if path.ktls == "breaks":
            message = f"{path.name} breaks under a policy that asks for kTLS: {path.why}"
            cure = "keep it out of the policy: ktls_crypto_policy with scope service for others, never scope system"
            notes.append(Reason("datapath_breaks_with_ktls", message, cure))
    return notes


def _not_served(phase: str) -> list[Reason]:
    message = f"this release of ktls-fleet does not roll out phase {phase} yet"
    return [Reason("phase_not_in_this_release", message, "stay at tx until it does")]
