# SPDX-License-Identifier: Apache-2.0
"""Symptom: kTLS is on, and nothing is gained. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .model import (
    CONFIRMED,
    LIKELY,
    NO_GAIN,
    POSSIBLE,
    RULED_OUT,
    SIDECAR,
    Evidence,
    Finding,
    in_kernel,
    percent,
    size,
    total,
)

_MANY = 0.1
"""A tenth of the connections: enough to be what one notices."""
_SMALL = 100 << 10
_SMALLISH = 1 << 20
"""Rules of thumb from what others published (gains begin at some 100 kB a connection); not measured by us."""
_FEW_CONNECTIONS = 20
_FEW = 3
_MUCH_BYTES = 1 << 30
_SOME_BYTES = 1 << 20
_LOWER = 0.97

_REASONS = {
    "no_tls_ulp": ("module tls is not loaded", "modprobe tls", "deploy again: it loads the module now and at boot"),
    "version": ("a protocol version that kTLS does not do", "", "let clients use TLS 1.2 or 1.3"),
    "max_fragment": (
        "the client asked for short records (RFC 6066)",
        "",
        "nothing here: these clients stay in userspace",
    ),
    "peer": (
        "the client is known to change its keys, which this kernel cannot",
        "",
        "kernel 6.14 or later with OpenSSL 3.2 or later",
    ),
}


def walk(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is known of each cause."""
    yield from _on(evidence)
    yield from _fallbacks(evidence)
    yield from _ciphers(evidence)
    yield from _undecided(evidence)
    yield from _small(evidence)
    yield from _others(evidence)
    yield from _share(evidence)
    yield from _cpu(evidence)


def _found(code: str, likelihood: str, what: str, run: str = "", cure: str = "") -> Finding:
    return Finding(NO_GAIN, code, likelihood, what, run, cure)


def _on(evidence: Evidence) -> Iterator[Finding]:
    if evidence.ulp is False:
        yield _found(
            "module_missing",
            CONFIRMED,
            "TCP has no ULP tls: the module is not loaded, so every connection is userspace TLS",
            "modprobe tls; cat /proc/sys/net/ipv4/tcp_available_ulp",
            "deploy again: it loads the module now and at boot; ktls preflight says what blocks it",
        )
    elif evidence.ulp:
        yield _found("module_missing", RULED_OUT, "TCP has the ULP tls")
    if evidence.status is None:
        return
    off, order = evidence.status.get("off") or {}, evidence.status.get("order")
    if off.get("flag"):
        yield _found(
            "off_latched",
            CONFIRMED,
            f"the off flag is up: {off.get('reason') or 'no reason given'}",
            "ktls-off --status; ktls-agent audit show --since 3d",
            "find out why; then ktls-agent clear, and a new rollout",
        )
    elif not evidence.on:
        reason = evidence.status.get("revert_reason")
        yield _found(
            "not_ordered",
            CONFIRMED,
            f"no order for kTLS is in force: {order}{f', {reason}' if order == 'reverted' and reason else ''}",
            "ktls-agent status",
            "ktls rollout --phase tx",
        )
    else:
        yield _found("not_ordered", RULED_OUT, f"phase {evidence.ordered} is in force ({order})")
        effective = (evidence.sidecar or {}).get("effective_mode")
        if evidence.sidecar is not None and effective == "userspace":
            yield _found(
                "sidecar_disagrees",
                CONFIRMED,
                f"phase {evidence.ordered} is ordered, and the sidecar is in {effective}",
                "ls -l /run/ktls /var/lib/ktls/off; journalctl -u ktls-sidecar -n 20",
                "take away the flag that is named there, or restart ktls-sidecar",
            )


def _fallbacks(evidence: Evidence) -> Iterator[Finding]:
    if evidence.sidecar is None:
        return
    reasons = evidence.sidecar.get("fallbacks")
    counts = {str(name): int(n) for name, n in reasons.items() if n} if isinstance(reasons, dict) else {}
    opened = max(total(evidence.ordered_rows(), "connections_total"), 1)
    never, others = _never(evidence)
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        if name.startswith("rx:") or (name == "other" and others and count <= sum(never.values())):
            continue  # the other direction; or told better below, by the cipher
        likelihood = CONFIRMED if count >= _MANY * opened else POSSIBLE
        what = f"{count} of {opened} connections that should have been kTLS were not"
        why, run, cure = _reason(name)
        code = f"fallback_{name.partition(':')[0]}"
        yield _found(code, likelihood, f"{what}: {why}", run or "ktls-agent status --json", cure)
    if not any(not name.startswith("rx:") for name in counts):
        yield _found("fallbacks", RULED_OUT, f"none of {opened} connections fell back to userspace")


def _never(evidence: Evidence) -> tuple[dict[str, int], int]:
    """Connections by suite (protocol and cipher) where none went to the kernel, and how many others did."""
    kernel: dict[str, int] = {}
    plain: dict[str, int] = {}
    for row in evidence.ordered_rows():
        into = kernel if in_kernel(row) else plain
        suite = f"{row.get('protocol')} {row.get('cipher')}"
        into[suite] = into.get(suite, 0) + total([row], "connections_total")
    return {suite: count for suite, count in plain.items() if count and not kernel.get(suite)}, sum(kernel.values())


def _ciphers(evidence: Evidence) -> Iterator[Finding]:
    """Ciphers that never went to the kernel: the sidecar's own reason may only say that it could not."""
    never, others = _never(evidence)
    for suite, count in sorted(never.items()):
        yield _found(
            "cipher_not_in_kernel",
            CONFIRMED if others and count >= _FEW else LIKELY if others else POSSIBLE,
            f"none of {count} connections with {suite} went to the kernel; {others} with other ciphers did",
            "ktls preflight --hosts; cat /proc/crypto",
            "load the kernel's module of that cipher, or let servers choose AES-GCM (docs/compatibility.md)",
        )


def _reason(name: str) -> tuple[str, str, str]:
    if name.startswith("cipher:"):
        return (
            f"the kernel does not do cipher {name[7:]}",
            "openssl s_client -connect HOST:8443 </dev/null | grep Cipher",
            "let servers choose AES-GCM or ChaCha20-Poly1305 (docs/compatibility.md)",
        )
    if name.startswith("ulp_"):
        return f"the kernel refused the ULP with {name[4:]}", "dmesg | tail", "report it with the kernel's version"
    return _REASONS.get(name, (f"reason {name}", "journalctl -u ktls-sidecar -n 50", "docs/sidecar.md has the reasons"))


def _undecided(evidence: Evidence) -> Iterator[Finding]:
    """Connections that were never meant to be kTLS."""
    if evidence.sidecar is None or not evidence.on:
        return
    share = evidence.sidecar.get("share")
    if isinstance(share, (int, float)) and share < 1:
        yield _found(
            "share",
            CONFIRMED,
            f"only {100 * share:.0f} % of new connections get the mode, by order",
            "ktls-agent status --json",
            "nothing, while a comparison runs; a rollout ends with all",
        )
    open_now = total(evidence.rows(), "connections")
    old = open_now - total(evidence.ordered_rows(), "connections")
    if open_now and old >= _MANY * open_now:
        yield _found(
            "old_connections",
            LIKELY,
            f"{old} of {open_now} open connections began before the order, or drew userspace",
            "ss -tie state established sport = :8443",
            "wait for their end: a mode is for new connections",
        )
    elif open_now:
        yield _found("old_connections", RULED_OUT, f"{old} of {open_now} open connections are older than the order")


def _small(evidence: Evidence) -> Iterator[Finding]:
    rows = [row for row in evidence.ordered_rows() if in_kernel(row)]
    opened, sent = total(rows, "connections_total"), total(rows, "bytes_total")
    if opened < _FEW_CONNECTIONS:
        return
    mean = sent / opened
    what = f"{size(mean)} on average over {opened} kTLS connections"
    if mean < _SMALLISH:
        yield _found(
            "small_files",
            LIKELY if mean < _SMALL else POSSIBLE,
            f"{what}: so few bytes seldom pay for setting keys up in the kernel",
            "tail -n 1000 of the access log: bytes of each response, requests of each connection",
            "let connections live (keep-alive), or serve small objects from hosts without kTLS",
        )
    else:
        yield _found("small_files", RULED_OUT, what)


def _others(evidence: Evidence) -> Iterator[Finding]:
    """Programs that serve beside the sidecar, and never in the kernel."""
    if evidence.now is None or not evidence.on:
        return
    kernel: dict[str, int] = {}
    plain: dict[str, int] = {}
    for volume in evidence.sent_since_start():
        into = plain if volume.tx == "none" else kernel
        into[volume.process] = into.get(volume.process, 0) + volume.sent + volume.connections
    for process, sent in sorted(plain.items()):
        if process != SIDECAR and sent > _SOME_BYTES and not kernel.get(process):
            yield _found(
                "memory_bios",
                LIKELY,
                f"{process} sent {size(sent)}, nothing by the kernel: it moves TLS through memory, or does not ask",
                f"ktls preflight --hosts; systemctl cat {process}",
                "docs/diagnostics.md#datapath_never_ktls; where it can: ktls_crypto_policy for this service",
            )


def _share(evidence: Evidence) -> Iterator[Finding]:
    if evidence.now is None or not evidence.on:
        return
    volumes = evidence.sent_since_start()
    sent = sum(volume.sent for volume in volumes)
    kernel = sum(volume.sent for volume in volumes if volume.tx != "none")
    if sent < _SOME_BYTES:
        return
    what = f"{percent(kernel, sent)} of {size(sent)} went through the kernel since the order"
    lost = int(evidence.now.get("unattributed") or 0)
    if lost > _MANY * sent:
        what += f", and of {size(lost)} it is not known"
    if kernel < (1 - _MANY) * sent:
        yield _found(
            "userspace_share", LIKELY, what, "ktls-agent doctor --json", "the causes above, the largest count first"
        )
    else:
        yield _found("userspace_share", RULED_OUT, what)


def _costs(evidence: Evidence) -> tuple[dict[str, float], dict[str, float]]:
    """CPU and bytes in userspace, and by kTLS of whatever phase."""
    kernel: dict[str, float] = {"cpu_s": 0.0, "sent": 0.0}
    user = {**kernel, **(evidence.cost.get("userspace") or {})}
    for phase, cost in evidence.cost.items():
        if phase != "userspace":
            for name, value in cost.items():
                kernel[name] = kernel.get(name, 0.0) + value
    return user, kernel


def unseen(evidence: Evidence) -> Iterator[str]:
    """Yield what could not be judged for lack of traffic."""
    user, kernel = _costs(evidence)
    if evidence.now is not None and (min(user["sent"], kernel["sent"]) < _MUCH_BYTES or not user["cpu_s"]):
        yield (
            f"whether CPU for each byte fell: that needs {size(_MUCH_BYTES)} in userspace and by kTLS each since the"
            f" agent started, and there were {size(user['sent'])} and {size(kernel['sent'])}"
        )


def _cpu(evidence: Evidence) -> Iterator[Finding]:
    user, kernel = _costs(evidence)
    if min(user["sent"], kernel["sent"]) < _MUCH_BYTES or not user["cpu_s"]:
        return
    before = user["cpu_s"] / user["sent"] * _MUCH_BYTES
    now = kernel["cpu_s"] / kernel["sent"] * _MUCH_BYTES
    what = f"{now:.2f} s of CPU for a GiB by kTLS, {before:.2f} s in userspace"
    if now >= _LOWER * before:
        yield _found(
            "cpu_not_lower",
            CONFIRMED,
            what,
            "perf top -e cycles:k: is the cost in aesni, or in copying?",
            "check AES-NI (grep -c aes /proc/cpuinfo) and that files are sent by sendfile, not from a program's memory",
        )
    else:
        yield _found("cpu_not_lower", RULED_OUT, what)
