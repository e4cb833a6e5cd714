# SPDX-License-Identifier: Apache-2.0
"""What a host is told about its phases: each refusal with reason and cure, and nothing claimed that is not so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import known_bad, verdict
from ktls_host.datapaths import Datapath
from ktls_host.gnutls import GnutlsState
from ktls_host.module_lever import ModuleState
from ktls_host.openssl_lib import OpensslState
from ktls_host.proof.openssl import KEY_UPDATES, SUITES, Cell, Proof
from ktls_host.reasons import PAGE, Reason
from ktls_host.verdict import PHASES, Evidence, Verdict, judge

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

MODULE = ModuleState("7.2.12-cloud", loaded=True, builtin=False, loadable=True, refcount=0, ulp_available=True)
OPENSSL = OpensslState("libcrypto.so.3", "OpenSSL 3.5.7 9 Jun 2026", 0x30500070, True)
OLD = OpensslState("libcrypto.so.3", "OpenSSL 3.0.22 25 Aug 2026", 0x30000160, True)
OK = dict.fromkeys(KEY_UPDATES, "ok")
ABOVE = ("tx", "rx", "hw")


def cell(suite: tuple[str, str, str], *, offered: bool = True, tx: bool = True, rx: bool = True) -> Cell:
    updates = {mode: dict(OK) if done and suite[0] == "TLSv1.3" else None for mode, done in (("tx", tx), ("rx", rx))}
    reason = None if tx and rx else "a reason"
    return Cell(*suite, offered, tx and offered, rx and offered, reason, updates)


def proof(**flags: bool) -> Proof:
    return Proof(True, None, "OpenSSL 3.5.7 9 Jun 2026", tuple(cell(suite, **flags) for suite in SUITES))


GOOD = Evidence(MODULE, OPENSSL, proof())


def with_cells(*cells: Cell) -> Evidence:
    return replace(GOOD, proof=replace(GOOD.proof, cells=cells))


def broken(mode: str, *kinds: str) -> Evidence:
    """New keys of these kinds end the connection."""
    cells = tuple(
        replace(each, key_update={**each.key_update, mode: {**OK, **dict.fromkeys(kinds, "breaks: client: bad mac")}})
        if each.version == "TLSv1.3"
        else each
        for each in GOOD.proof.cells
    )
    return with_cells(*cells)


def codes(reasons: tuple[Reason, ...]) -> list[str]:
    for reason in reasons:
        assert all(getattr(reason, member.name) for member in fields(reason))
        assert not any("\n" in text for text in (reason.code, reason.message, reason.cure))
    return [reason.code for reason in reasons]


def told(evidence: Evidence, phase: str) -> tuple[str, list[str], list[str]]:
    found = judge(evidence)[phase]
    return found.verdict, codes(found.reasons), codes(found.notes)


# Recorded hosts


@pytest.mark.parametrize(
    ("system", "phase", "outcome", "reasons", "notes"),
    [
        ("debian12", "userspace", "ready", [], set()),
        ("debian13", "userspace", "ready", [], set()),
        ("debian13-backports", "userspace", "ready", [], set()),
        (
            "debian12",
            "tx",
            "ready",
            [],
            {"key_update_breaks_tx", "openssl_moving_write_buffer", "cipher_not_in_kernel"},
        ),
        ("debian13", "tx", "ready", [], {"key_update_breaks_tx"}),
        ("debian13-backports", "tx", "ready", [], set()),
        ("debian12", "rx", "refused", ["no_ktls_receive"], {"openssl_moving_write_buffer", "cipher_not_in_kernel"}),
        ("debian13", "rx", "refused", ["key_update_breaks_rx"], set()),
        ("debian13-backports", "rx", "ready", [], set()),
    ],
)
def test_recorded_hosts(system: str, phase: str, outcome: str, reasons: list[str], notes: set[str]) -> None:
    always = {"module_not_loaded", "gnutls_without_ktls"} if phase != "userspace" else set()
    if phase == "rx":
        always.add("phase_not_in_this_release")
    said = told(systems.evidence(system), phase)
    assert (said[0], said[1], set(said[2])) == (outcome, reasons, notes | always)


@pytest.mark.parametrize("system", systems.RECORDED)
@pytest.mark.parametrize("phase", ["userspace", "tx", "rx"])
def test_the_recording_says_what_is_judged_today(system: str, phase: str) -> None:
    """The host itself came to the same, whatever words it had for it."""
    now, then = judge(systems.evidence(system))[phase].as_dict(), systems.collected(system)["phases"][phase]
    assert now["verdict"] == then["verdict"]
    for kind in ("reasons", "notes"):
        assert [said["code"] for said in now[kind]] == [said["code"] for said in then[kind]]


@pytest.mark.parametrize("system", systems.RECORDED)
def test_a_virtual_card_offloads_nothing(system: str) -> None:
    """With the interfaces in view, as recorded on the host itself."""
    found = systems.collected(system)["phases"]["hw"]
    assert (found["verdict"], [reason["code"] for reason in found["reasons"]]) == ("refused", ["nic_no_tls_offload"])


def test_debian_12_names_what_it_cannot() -> None:
    notes = {note.code: note.message for note in judge(systems.evidence("debian12"))["tx"].notes}
    assert notes["cipher_not_in_kernel"] == "stays in userspace: TLSv1.3 TLS_AES_128_CCM_SHA256"
    assert "a client's request for new keys and new keys from the server" in notes["key_update_breaks_tx"]
    assert "new keys from a client" not in notes["key_update_breaks_tx"]


# One thing at a time


def test_nothing_stands_against_it() -> None:
    assert told(GOOD, "tx") == ("ready", [], [])
    assert told(GOOD, "userspace") == ("ready", [], [])
    assert told(GOOD, "rx") == ("ready", [], ["phase_not_in_this_release"])


MISSING = replace(MODULE, loaded=False, loadable=False)


@pytest.mark.parametrize("phase", ABOVE)
@pytest.mark.parametrize(
    ("module", "openssl", "outcome", "reasons"),
    [
        (MISSING, OPENSSL, "refused", ["tls_module_missing"]),
        (replace(MISSING, blocked_by=("/proc/cmdline",)), OPENSSL, "refused", ["module_blocked"]),
        (MODULE, OpensslState(), "refused", ["openssl_missing"]),
        (MODULE, OpensslState("libcrypto.so.1.1", "OpenSSL 1.1.1w", 0x1010117F), "refused", ["openssl_too_old"]),
        (MODULE, replace(OPENSSL, ktls_built=False), "refused", ["openssl_without_ktls"]),
        (MODULE, replace(OPENSSL, ktls_built=None), "unknown", ["openssl_ktls_unknown"]),
        (MISSING, replace(OPENSSL, ktls_built=False), "refused", ["openssl_without_ktls", "tls_module_missing"]),
        (MISSING, replace(OPENSSL, ktls_built=None), "refused", ["tls_module_missing"]),
    ],
)
def test_what_the_host_lacks(
    phase: str, module: ModuleState, openssl: OpensslState, outcome: str, reasons: list[str]
) -> None:
    assert told(replace(GOOD, module=module, openssl=openssl), phase)[:2] == (outcome, reasons)


@pytest.mark.parametrize(
    ("module", "notes"),
    [
        (replace(MODULE, loaded=False), ["module_not_loaded"]),
        (replace(MODULE, loaded=False, builtin=True, loadable=False), []),
        (replace(MODULE, blacklisted_by=("/etc/modprobe.d/x.conf",)), ["module_blacklisted"]),
        (replace(MODULE, kernel="6.15.0"), []),
        (replace(MODULE, kernel="6.14.9"), ["evidence_needs_net_admin"]),
        (replace(MODULE, kernel="6.1.0-50-cloud-amd64"), ["evidence_needs_net_admin"]),
    ],
)
def test_what_to_know_of_the_module(module: ModuleState, notes: list[str]) -> None:
    assert told(replace(GOOD, module=module), "tx") == ("ready", [], notes)


def test_userspace_needs_an_openssl_and_no_more() -> None:
    bare = Evidence(MISSING, replace(OPENSSL, ktls_built=False))
    assert told(bare, "userspace") == ("ready", [], [])
    assert told(Evidence(MODULE, OpensslState()), "userspace")[:2] == ("refused", ["openssl_missing"])


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("module tls is not loaded", "not_proved"),
        (None, "proof_incomplete"),
        ("the proof ended with signal 11 after 3 of 8 ciphers", "proof_incomplete"),
    ],
)
def test_a_host_that_was_not_tried_is_unknown(why: str | None, code: str) -> None:
    """Also when the cells that were tried are good."""
    for cells in ((), GOOD.proof.cells[:3]):
        for phase in ABOVE:
            outcome, reasons, _ = told(replace(GOOD, proof=Proof(False, why, None, cells)), phase)
            assert (outcome, reasons) == ("unknown", [code])


def test_no_cipher_in_the_kernel() -> None:
    outcome, reasons, _ = told(replace(GOOD, proof=proof(tx=False, rx=False)), "tx")
    assert (outcome, reasons) == ("refused", ["no_ktls_transmit"])
    assert "a reason" in judge(replace(GOOD, proof=proof(tx=False, rx=False)))["tx"].reasons[0].message


def test_no_cipher_at_all() -> None:
    assert told(replace(GOOD, proof=proof(offered=False)), "tx")[:2] == ("refused", ["no_ktls_transmit"])
    assert told(with_cells(), "tx")[:2] == ("refused", ["no_ktls_transmit"])


def test_one_cipher_is_enough() -> None:
    found = with_cells(cell(SUITES[0]), cell(SUITES[1], tx=False, rx=False), cell(SUITES[2], offered=False))
    assert told(found, "tx") == ("ready", [], ["cipher_not_in_kernel", "cipher_not_offered"])
    notes = {note.code: note.message for note in judge(found)["tx"].notes}
    assert SUITES[1][1] in notes["cipher_not_in_kernel"] and SUITES[2][1] in notes["cipher_not_offered"]


def test_receive_is_judged_by_tls_13() -> None:
    """OpenSSL 3.0 decrypts only TLS 1.2 in the kernel."""
    cells = [cell(suite, rx=suite[0] == "TLSv1.2") for suite in SUITES]
    assert told(with_cells(*cells), "rx")[:2] == ("refused", ["no_ktls_receive"])
    assert told(with_cells(*cells), "tx")[0] == "ready"


@pytest.mark.parametrize(("rx", "outcome"), [(True, "ready"), (False, "refused")])
def test_receive_where_there_is_no_tls_13(rx: bool, outcome: str) -> None:
    """A policy without TLS 1.3: then TLS 1.2 decides, and never nothing at all."""
    cells = [cell(suite, offered=suite[0] == "TLSv1.2", rx=rx) for suite in SUITES]
    assert told(with_cells(*cells), "rx")[0] == outcome


@pytest.mark.parametrize("kind", KEY_UPDATES)
def test_new_keys_refuse_rx_and_warn_at_tx(kind: str) -> None:
    """A peer that may end its own connection is one thing; one whose data the kernel reads is another."""
    assert told(broken("rx", kind), "rx")[:2] == ("refused", ["key_update_breaks_rx"])
    assert told(broken("rx", kind), "tx") == ("ready", [], [])
    assert told(broken("tx", kind), "tx") == ("ready", [], ["key_update_breaks_tx"])
    assert told(broken("tx", kind), "rx")[0] == "ready"
    assert "(client: bad mac)" in judge(broken("tx", kind))["tx"].notes[0].message


def test_all_kinds_are_named_in_one_sentence() -> None:
    (note,) = judge(broken("tx", *KEY_UPDATES))["tx"].notes
    assert "on new keys from a client, a client's request for new keys and new keys from the server (" in note.message


@pytest.mark.parametrize("phase", ["rx", "hw"])
def test_a_known_fault_refuses_the_phases_that_it_names(phase: str) -> None:
    bad = replace(GOOD, openssl=OpensslState("libcrypto.so.3", "OpenSSL 3.2.0 23 Nov 2023", 0x30200000, True))
    assert "openssl_rx_record_too_long" in told(bad, phase)[1]
    assert told(bad, "tx")[0] == "ready"


def test_every_phase_of_a_known_fault_is_looked_at() -> None:
    named = {phase for known in known_bad.KNOWN_BAD for phase in known.phases}
    for phase in named:
        for known in known_bad.KNOWN_BAD:
            if phase in known.phases and known.software == "openssl":
                version = ".".join(map(str, known.branches[0][0]))
                found = replace(GOOD, openssl=replace(OPENSSL, version=f"OpenSSL {version}"))
                assert known.code in told(found, phase)[1], (known.code, phase)


def test_known_faults_that_forbid_nothing_are_notes() -> None:
    assert "openssl_moving_write_buffer" in told(replace(GOOD, openssl=OLD), "tx")[2]


@pytest.mark.parametrize(
    ("gnutls", "notes"),
    [
        (GnutlsState(), []),
        (GnutlsState("libgnutls.so.30", "3.8.9", False), ["gnutls_without_ktls"]),
        (GnutlsState("libgnutls.so.30", "3.8.9", None), []),
        (
            GnutlsState("libgnutls.so.30", "3.8.9", True),
            ["gnutls_key_update_ends_session", "gnutls_chacha20_tls12_iv"],
        ),
        (GnutlsState("libgnutls.so.30", "3.8.13", True), []),
    ],
)
def test_gnutls_is_told_and_decides_nothing(gnutls: GnutlsState, notes: list[str]) -> None:
    outcome, reasons, said = told(replace(GOOD, gnutls=gnutls), "tx")
    assert (outcome, reasons) == ("ready", [])
    assert set(notes) <= set(said) and all(code.startswith("gnutls_") for code in said)
    assert bool(notes) == bool(said)


NEVER = Datapath("service", "apache2.service", None, None, None, ("openssl",), 1, "never", "a BIO of its own", None)


def test_datapaths_that_can_never_are_named() -> None:
    paths = (NEVER, replace(NEVER, name="b", ktls="unknown"), replace(NEVER, name="c", ktls="possible"))
    (note,) = judge(replace(GOOD, datapaths=paths))["tx"].notes
    assert (note.code, note.message) == (
        "datapath_never_ktls",
        "apache2.service can never use kTLS: a BIO of its own",
    )


def test_datapaths_that_a_policy_would_break_are_named() -> None:
    """PostgreSQL 17 on Debian 13: with kTLS asked for, each TLS connection failed; the sidecar is not concerned."""
    found = replace(GOOD, datapaths=(replace(NEVER, name="postgresql@17-main.service", ktls="breaks"),))
    for phase in ("tx", "rx"):
        outcome, _, notes = told(found, phase)
        assert outcome == "ready" and "datapath_breaks_with_ktls" in notes


def reason(code: str) -> Reason:
    return Reason(code, "found", "cure")


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (((), (), ()), ("ready", [], [])),
        (((reason("no"),), (), ()), ("refused", ["no"], [])),
        (((), (reason("open"),), (reason("know"),)), ("unknown", ["open"], ["know"])),
        (((reason("no"),), (reason("open"),), (reason("know"),)), ("refused", ["no"], ["know"])),
    ],
)
def test_hardware_decides_hw_and_nothing_else(
    hardware: tuple[tuple[Reason, ...], tuple[Reason, ...], tuple[Reason, ...]],
    expected: tuple[str, list[str], list[str]],
) -> None:
    found = replace(GOOD, hardware=hardware)
    outcome, reasons, notes = told(found, "hw")
    assert (outcome, reasons, [note for note in notes if note != "phase_not_in_this_release"]) == expected
    assert all(told(found, phase) == told(GOOD, phase) for phase in PHASES if phase != "hw")


def test_the_same_reason_is_told_once() -> None:
    found = judge(replace(GOOD, hardware=((reason("no"), reason("no")), (), (reason("x"), reason("x")))))["hw"]
    assert codes(found.reasons) == ["no"] and codes(found.notes).count("x") == 1


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.12.117+deb13-cloud-amd64", (6, 12)),
        ("5.14.0-570.12.1.el9_6.x86_64", (5, 14)),
        ("7.2", (7, 2)),
        ("next-20250101", (0, 0)),
        ("6", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert verdict.kernel_version(release) == version


@given(st.text())
def test_kernel_version_never_raises(text: str) -> None:
    verdict.kernel_version(text)


def test_reasons_lead_to_the_documentation() -> None:
    plain = Reason("some_code", "m", "c").as_dict()
    assert plain == {"code": "some_code", "message": "m", "cure": "c", "link": f"{PAGE}#some_code"}


def test_as_dict_is_plain() -> None:
    found = Verdict("refused", (reason("a"),), (reason("b"), reason("c"))).as_dict()
    assert (found["verdict"], len(found["reasons"]), len(found["notes"])) == ("refused", 1, 2)
    assert found["reasons"][0] == reason("a").as_dict()


# For any host

_TEXT = st.sampled_from(["6.1.0", "6.12.107", "7.2.12", "weird", ""])
_PATHS = st.lists(st.sampled_from(["/etc/modprobe.d/a.conf", "/proc/cmdline"]), max_size=2).map(tuple)
_MODULES = st.builds(
    ModuleState,
    kernel=_TEXT,
    loaded=st.booleans(),
    builtin=st.booleans(),
    loadable=st.booleans(),
    blacklisted_by=_PATHS,
    blocked_by=_PATHS,
)
_OPENSSLS = st.one_of(
    st.just(OpensslState()),
    st.builds(
        OpensslState,
        library=st.just("libcrypto.so.3"),
        version=st.sampled_from(["OpenSSL 3.2.0", "OpenSSL 3.5.7", "OpenSSL 1.1.1w", "?"]),
        number=st.sampled_from([0x30200000, 0x30500070, 0x1010117F]),
        ktls_built=st.sampled_from([True, False, None]),
    ),
)
_UPDATES = st.one_of(
    st.none(), st.fixed_dictionaries({kind: st.sampled_from(["ok", "breaks: x", "breaks: y"]) for kind in KEY_UPDATES})
)
_CELLS = st.builds(
    lambda made, reason, tx, rx: replace(made, reason=reason, key_update={"tx": tx, "rx": rx}),
    st.builds(cell, st.sampled_from(SUITES), offered=st.booleans(), tx=st.booleans(), rx=st.booleans()),
    st.sampled_from([None, "server: why", "line"]),
    _UPDATES,
    _UPDATES,
)
_PROOFS = st.builds(
    Proof,
    done=st.booleans(),
    why=st.sampled_from([None, "module tls is not loaded", "the proof ended with timeout"]),
    library=st.sampled_from([None, "OpenSSL 3.5.7"]),
    cells=st.lists(_CELLS, max_size=8).map(tuple),
)
_GNUTLS = st.builds(
    GnutlsState,
    library=st.sampled_from([None, "libgnutls.so.30"]),
    version=st.sampled_from([None, "3.8.9", "3.8.13", "?"]),
    ktls_built=st.sampled_from([True, False, None]),
)
_DATAPATHS = st.lists(
    st.builds(
        Datapath,
        kind=st.sampled_from(["sidecar", "nginx", "service"]),
        name=st.sampled_from(["a", "b"]),
        unit=st.none(),
        program=st.none(),
        version=st.none(),
        libraries=st.just(("openssl",)),
        processes=st.integers(0, 9),
        ktls=st.sampled_from(["possible", "never", "unknown", "breaks"]),
        why=st.just("why"),
        link=st.none(),
    ),
    max_size=3,
).map(tuple)
_REASONS = st.lists(st.sampled_from([reason("x"), reason("y")]), max_size=2).map(tuple)
_EVIDENCE = st.builds(
    Evidence,
    module=_MODULES,
    openssl=_OPENSSLS,
    proof=_PROOFS,
    gnutls=_GNUTLS,
    datapaths=_DATAPATHS,
    hardware=st.tuples(_REASONS, _REASONS, _REASONS),
)


def each(evidence: Evidence) -> Iterator[tuple[str, Verdict]]:
    yield from judge(evidence).items()


@given(_EVIDENCE)
def test_every_phase_has_a_verdict_that_fits_its_reasons(evidence: Evidence) -> None:
    assert tuple(judge(evidence)) == PHASES
    for _, found in each(evidence):
        assert found.verdict in ("ready", "refused", "unknown")
        assert (found.verdict == "ready") == (not found.reasons)
        for said in (found.reasons, found.notes):
            assert len(codes(said)) == len(set(said))


@given(_EVIDENCE)
def test_ready_above_userspace_means_tried_and_seen(evidence: Evidence) -> None:
    for phase, found in each(evidence):
        if phase != "userspace" and found.verdict == "ready":
            assert evidence.proof.done
            assert any(each.tx for each in evidence.proof.cells)
            assert evidence.openssl.ktls_built
            assert evidence.module.present or evidence.module.loadable
        if phase == "rx" and found.verdict == "ready":
            assert any(each.rx for each in evidence.proof.cells)
            for each_cell in evidence.proof.cells:
                assert set((each_cell.key_update["rx"] or {}).values()) <= {"ok"}


@given(_EVIDENCE)
def test_a_host_that_was_not_tried_is_never_ready(evidence: Evidence) -> None:
    untried = replace(evidence, proof=replace(evidence.proof, done=False))
    for phase, found in each(untried):
        assert phase == "userspace" or found.verdict != "ready"


@given(_EVIDENCE)
def test_a_refusal_of_tx_refuses_all_above(evidence: Evidence) -> None:
    found = judge(evidence)
    if found["tx"].verdict == "refused":
        assert {found[phase].verdict for phase in ABOVE} == {"refused"}
    if found["userspace"].verdict == "refused":
        assert {found[phase].verdict for phase in PHASES} == {"refused"}


@given(_EVIDENCE, _DATAPATHS, _GNUTLS)
def test_programs_and_gnutls_never_change_a_verdict(
    evidence: Evidence, paths: tuple[Datapath, ...], gnutls: GnutlsState
) -> None:
    """What they cannot do is told; a host is judged by what it can do with the sidecar."""
    more = replace(evidence, datapaths=(*evidence.datapaths, *paths, NEVER), gnutls=gnutls)
    for phase, found in each(evidence):
        other = judge(more)[phase]
        assert (other.verdict, other.reasons) == (found.verdict, found.reasons)


@given(_EVIDENCE)
def test_more_proof_never_takes_a_refusal_of_the_host_back(evidence: Evidence) -> None:
    """What module or library lack is decided before anything is tried."""
    untried = judge(replace(evidence, proof=Proof()))
    tried = judge(replace(evidence, proof=proof()))
    for phase in PHASES:
        if untried[phase].verdict == "refused":
            assert set(untried[phase].reasons) <= set(tried[phase].reasons)


SOURCES = "".join(path.read_text() for path in Path(verdict.__file__).parent.rglob("*.py"))
#: Codes that the sources give to reasons: what the documentation has to explain.
DOCUMENTED = set(re.findall(r'\bReason\(\s*"([a-z0-9_]+)"', SOURCES)) | {known.code for known in known_bad.KNOWN_BAD}


def test_the_sources_name_their_codes() -> None:
    assert {"not_proved", "key_update_breaks_tx", "datapath_never_ktls", "openssl_moving_write_buffer"} <= DOCUMENTED


@given(_EVIDENCE.map(lambda evidence: replace(evidence, hardware=((), (), ()))))
def test_every_code_is_one_of_the_sources(evidence: Evidence) -> None:
    for _, found in each(evidence):
        assert set(codes((*found.reasons, *found.notes))) <= DOCUMENTED


@pytest.mark.parametrize("system", systems.RECORDED)
def test_recorded_codes_are_those_of_the_sources(system: str) -> None:
    for found in systems.collected(system)["phases"].values():
        assert {said["code"] for kind in ("reasons", "notes") for said in found[kind]} <= DOCUMENTED
