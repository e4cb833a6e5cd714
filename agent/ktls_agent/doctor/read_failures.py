# SPDX-License-Identifier: Apache-2.0
"""Symptom: reads fail now and then, on long sessions. Pure.

TLS 1.3 lets either side change its keys (RFC 8446 section 4.6.3), which kernels before 6.14 cannot follow; what a read
then returns is in Documentation/networking/tls.rst and net/tls/tls_sw.c: EKEYEXPIRED, EBADMSG, EMSGSIZE, EIO.
"""

from __future__ import annotations

from collections.abc import Iterator

from ktls_host import known_bad

from .model import (
    CONFIRMED,
    LIKELY,
    POSSIBLE,
    READ_FAILURES,
    RULED_OUT,
    SIDECAR,
    Evidence,
    Finding,
    in_kernel,
    percent,
    total,
)

_NEW = "kernel 6.14 or later with OpenSSL 3.2 or later; until then keep long sessions in userspace"
_MANY = 0.05
_RX_KINDS = (
    (
        "key_expired",
        ("key_expired", "ekeyexpired"),
        "EKEYEXPIRED: the client changed its key, and the new one did not reach the kernel",
        _NEW,
    ),
    (
        "too_big",
        ("too_big", "emsgsize"),
        "EMSGSIZE: a record that is longer than TLS allows",
        "a client that does not speak TLS well, or a fault of the library: update OpenSSL",
    ),
    (
        "control_record",
        ("control_record", "eio"),
        "EIO: a record that is no data (an alert, a KeyUpdate) met a plain read",
        "the program must read control records (recvmsg(2)); with nginx see its issue 651, or keep it at transmit only",
    ),
)


def walk(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is known of each cause."""
    yield from _key_update(evidence)
    yield from _rekey(evidence)
    if evidence.sidecar is not None:
        yield from _kinds(evidence)
        yield _bad_record(evidence)
        yield from _limits(evidence)
        yield from _faults(evidence)
    yield from _others(evidence)
    yield from _known(evidence)


def _found(code: str, likelihood: str, what: str, run: str = "", cure: str = "") -> Finding:
    return Finding(READ_FAILURES, code, likelihood, what, run, cure)


def _stack(evidence: Evidence) -> str:
    kernel, library = (".".join(map(str, version)) for version in (evidence.kernel_version, evidence.openssl_version))
    return f"kernel {kernel or 'unknown'} and OpenSSL {library or 'unknown'}"


def _key_update(evidence: Evidence) -> Iterator[Finding]:
    count, opened = evidence.counted("errors", "key_update"), _opened(evidence)
    able = "can" if evidence.changes_keys else "cannot"
    if count:
        what = (
            f"{count} of {opened} kTLS connections ended because the client changed its keys; {_stack(evidence)} {able}"
        )
        known = evidence.counted("fallbacks", "peer")
        if known:
            what += f"; {known} later ones of such clients were served from userspace"
        yield _found("key_update", CONFIRMED, what, "journalctl -u ktls-sidecar | grep key_update", _NEW)
    elif evidence.changes_keys:
        yield _found("key_update", RULED_OUT, f"{_stack(evidence)} can change keys")
    elif evidence.sidecar is not None:
        yield _found(
            "key_update", RULED_OUT, f"{_stack(evidence)} cannot change keys, but no client of {opened} asked for it"
        )


def _rekey(evidence: Evidence) -> Iterator[Finding]:
    stats = evidence.stats
    if stats is None or "TlsTxRekeyError" not in stats:
        return
    failed = stats.get("TlsTxRekeyError", 0) + stats.get("TlsRxRekeyError", 0)
    done = stats.get("TlsTxRekeyOk", 0) + stats.get("TlsRxRekeyOk", 0)
    what = f"{failed} of {failed + done} changes of keys failed in the kernel"
    if failed:
        cure = "report it with kernel and OpenSSL versions; stay in userspace if it goes on"
        yield _found("rekey_error", CONFIRMED, what, "grep Rekey /proc/net/tls_stat; dmesg | grep -i tls", cure)
    else:
        yield _found("rekey_error", RULED_OUT, what)


def _kinds(evidence: Evidence) -> Iterator[Finding]:
    for code, kinds, words, cure in _RX_KINDS:
        count = evidence.counted("errors", *kinds)
        if count:
            yield _found(
                code,
                CONFIRMED,
                f"{count} connections ended on {words}",
                "journalctl -u ktls-sidecar | grep error",
                cure,
            )
        else:
            yield _found(code, RULED_OUT, f"no connection ended on {words.partition(':')[0]}")


def _bad_record(evidence: Evidence) -> Finding:
    ours = evidence.counted("errors", "bad_record", "bad_record_mac", "ebadmsg")
    theirs = evidence.counted("client_aborts", "bad_record")
    decrypt = (evidence.stats or {}).get("TlsDecryptError", 0)
    opened = _opened(evidence)
    what = f"{ours} of {opened} kTLS connections ended on a bad record; TlsDecryptError is {decrypt}"
    if theirs:
        what += f"; {theirs} more bad records came from clients"
    if not ours and not decrypt:
        return _found("bad_record", RULED_OUT, what)
    likelihood = LIKELY if ours and ours >= _MANY * max(opened, 1) else POSSIBLE
    return _found(
        "bad_record",
        likelihood,
        f"{what}. A client that sends garbage looks the same: {percent(ours, opened)} of connections says which",
        "journalctl -u ktls-sidecar | grep bad_record; ktls-agent probe",
        "from one address: that client; from many: ktls-off, and report it with kernel and OpenSSL versions",
    )


def _limits(evidence: Evidence) -> Iterator[Finding]:
    limited = evidence.sidecar.get("limited") if evidence.sidecar else None
    ages, volumes = (evidence.counted("limited", kind) for kind in ("age", "bytes"))
    if ages or volumes:
        yield _found(
            "limits",
            CONFIRMED,
            f"the sidecar ended {ages} kTLS connections by age and {volumes} by bytes, between two responses:"
            " this kernel cannot change keys, and keys do not last for ever",
            "grep ktls_max /etc/ktls/sidecar.json",
            f"clients should connect again; else raise ktls_max_age_s and ktls_max_bytes, or {_NEW}",
        )
    elif limited is not None:
        yield _found("limits", RULED_OUT, "no connection was ended by ktls_max_age_s or ktls_max_bytes")


def _faults(evidence: Evidence) -> Iterator[Finding]:
    died = evidence.counted("errors", "worker_died")
    if died:
        yield _found(
            "worker_died",
            LIKELY,
            f"{died} workers of the sidecar died, each with all of its connections",
            "coredumpctl list; journalctl -u ktls-sidecar",
            "report it with the trace",
        )
    kinds = ("sendfile_failed", "io_error", "ssl_error", "file_changed", "internal")
    found = [f"{evidence.counted('errors', kind)} {kind}" for kind in kinds if evidence.counted("errors", kind)]
    if found:
        yield _found(
            "send_faults",
            POSSIBLE,
            f"connections ended while sending: {', '.join(found)}",
            "journalctl -u ktls-sidecar",
            "docs/diagnostics.md#errors-of-the-sidecar",
        )


def _others(evidence: Evidence) -> Iterator[Finding]:
    """Programs with kTLS of their own, whose errors nobody counts."""
    programs = {
        volume.process: volume.rx
        for volume in evidence.volumes()
        if (volume.tx, volume.rx) != ("none", "none") and volume.process != SIDECAR
    }
    for process, rx in sorted(programs.items()):
        if not evidence.changes_keys:
            yield _found(
                "key_update_elsewhere",
                LIKELY if rx != "none" else POSSIBLE,
                f"{process} uses kTLS (receive: {rx}), {_stack(evidence)} cannot change keys; nobody counts its errors",
                f"journalctl -u {process} | grep -iE 'key|record|ssl'",
                _NEW,
            )
        if rx != "none" and evidence.openssl_version >= (3, 2):
            yield _found(
                "control_record_elsewhere",
                POSSIBLE,
                f"{process} receives in the kernel: an alert at the end may show as EIO (nginx issue 651)",
                f"journalctl -u {process} | grep -i 'input/output error'",
                "take Options = KTLS from this service, or leave out lingering_close",
            )


def _known(evidence: Evidence) -> Iterator[Finding]:
    text = str((evidence.sidecar or {}).get("openssl") or evidence.openssl)
    receiving = evidence.ordered == "rx"  # phase hw sends by kTLS, and no more
    for known, reason in known_bad.hits("openssl", text):
        if receiving and evidence.ordered in known.phases:
            yield _found("known_release", LIKELY, reason.message, "openssl version", reason.cure)


def _opened(evidence: Evidence) -> int:
    return total((row for row in evidence.ordered_rows() if in_kernel(row)), "connections_total")
