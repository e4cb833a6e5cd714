# SPDX-License-Identifier: Apache-2.0
"""The host's TLS key and certificate: the key is made here and never leaves; a CA elsewhere signs the
request.

All cryptography is done by the ``openssl`` program (openssl-genpkey(1), -req(1), -x509(1), -verify(1)).
Secrets go through pipes and files of mode 0600, never through arguments.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from . import release_record
from .commands import CommandResult, Runner
from .errors import KtlsError
from .files import FileChange, FileSpec, plan_files
from .files import apply as apply_files

DIRECTORY = "/etc/ktls/tls"
KEY, CERTIFICATE, CA = "key.pem", "cert.pem", "ca.pem"

_DAY_S = 86400
_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
_SUBJECT_CN_MAX = 64  # RFC 5280 appendix A: ub-common-name

_CSR_CONFIG = """[req]
prompt = no
distinguished_name = name
req_extensions = extensions
[name]
CN = {common_name}
[extensions]
subjectAltName = {names}
extendedKeyUsage = serverAuth
"""


@dataclass(frozen=True)
class Leaf:
    """What matters of a certificate; ``names`` are lower-case DNS names and canonical IP addresses."""

    public_key: str
    names: frozenset[str]
    expires_soon: bool


@dataclass(frozen=True)
class RequestWish:
    """The certificate that is wanted. ``ca`` is the PEM text of the CA it must verify against, if known."""

    names: tuple[str, ...]
    key_path: str
    certificate_path: str
    ca: str | None = None
    renew_before_days: int = 30


@dataclass
class RequestResult:
    """``reasons`` say why a certificate is needed; ``csr`` is PEM, and ``None`` when none is needed or foreseen."""

    changed: bool = False
    needed: bool = False
    reasons: list[str] = field(default_factory=list)
    csr: str | None = None


def request(wish: RequestWish, runner: Runner | None = None, *, check: bool = False) -> RequestResult:
    """Make a key if there is none, and a signing request if the certificate does not serve ``wish``.

    The host changes only by a new key (EC P-256, mode 0600) or by a stricter mode on the old one. With
    ``check`` nothing is written, and no request can be made where the key is missing. Raises
    :class:`KtlsError`: ``bad_name``, ``key_unusable``, ``openssl_failed``, and those of
    :mod:`ktls_host.files`.
    """
    runner = runner or Runner()
    names = _checked_names(wish.names)
    result = RequestResult()
    key = _read_bytes(wish.key_path)
    if key is None:
        result.changed = True
        result.reasons.append("no_key")
        plan_files([FileSpec(wish.key_path, b"", mode=0o600)])  # refuses unsafe places in check mode too
        if not check:
            made = _openssl(runner, ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
            key = made.stdout.encode("ascii")
            made_key = FileSpec(wish.key_path, key, mode=0o600)
            adopt([made_key])
            apply_files(plan_files([made_key]))
    else:
        tighter = plan_files([FileSpec(wish.key_path, key, mode=0o600)])
        result.changed = bool(tighter)
        if not check:
            apply_files(tighter)
        result.reasons.extend(_why_needed(wish, names, _public_key(wish.key_path, runner), runner))
    result.needed = bool(result.reasons)
    if result.needed and key is not None:
        result.csr = _csr(wish.key_path, names, runner)
    return result


def adopt(specs: Iterable[FileSpec]) -> None:
    """Record that files in :data:`DIRECTORY` are made by us, so that undeploy takes them away; others it leaves.

    Raises :class:`KtlsError` of :func:`ktls_host.release_record.adopt`.
    """
    ours = [spec for spec in specs if os.path.dirname(spec.path) == DIRECTORY]
    if ours:
        release_record.adopt(ours)


def plan_install(
    certificate: str,
    ca: str,
    *,
    key_path: str,
    certificate_path: str,
    ca_path: str,
    runner: Runner | None = None,
) -> list[FileChange]:
    """Check a certificate chain (PEM, leaf first) against key and CA; return the files to write.

    Pass the result to :func:`ktls_host.files.apply`. Raises :class:`KtlsError`: ``bad_certificate``,
    ``key_missing``, ``certificate_key_mismatch``, ``certificate_not_trusted``.
    """
    runner = runner or Runner()
    leaf = read_leaf(certificate, 0, runner)
    if leaf is None:
        message = "the certificate to install is not PEM; sign the request again"
        raise KtlsError("bad_certificate", message)
    if not os.path.exists(key_path):
        message = f"there is no key {key_path} for the certificate; run ktls_certificate_request first"
        raise KtlsError("key_missing", message)
    if leaf.public_key != _public_key(key_path, runner):
        message = f"the certificate does not belong to the key {key_path}; sign the request of this very host"
        raise KtlsError("certificate_key_mismatch", message)
    complaint = verify(certificate, ca, runner)
    if complaint is not None:
        message = f"the certificate does not verify against the CA ({complaint}); sign it with that CA"
        raise KtlsError("certificate_not_trusted", message)
    specs = (
        FileSpec(certificate_path, _normal_pem(certificate).encode("ascii")),
        FileSpec(ca_path, _normal_pem(ca).encode("ascii")),
    )
    return plan_files(specs)


def read_leaf(pem: str, seconds_left: int, runner: Runner) -> Leaf | None:
    """Read the first certificate of ``pem``; ``None`` when openssl cannot."""
    argv = ("openssl", "x509", "-noout", "-pubkey", "-ext", "subjectAltName", "-checkend", str(seconds_left))
    # -checkend makes the exit status 1 for an expiring certificate, so the status does not tell what happened.
    result = runner.run(argv, stdin=pem)
    public_key = _PUBLIC_KEY.search(result.stdout)
    if public_key is None:
        return None
    return Leaf(
        public_key=public_key.group(),
        names=parse_names(result.stdout),
        expires_soon="Certificate will expire" in result.stdout,
    )


def parse_names(text: str) -> frozenset[str]:
    """Return the subject alternative names in what ``openssl x509 -ext subjectAltName`` prints."""
    found: set[str] = set()
    for line in text.splitlines():
        for part in line.strip().split(", "):
            kind, colon, value = part.partition(":")
            if colon and kind == "DNS":
                found.add(value.lower())
            elif colon and kind == "IP Address":
                try:
                    found.add(str(ipaddress.ip_address(value)))
                except ValueError:
                    continue
    return frozenset(found)


def verify(certificate: str, ca: str, runner: Runner) -> str | None:
    """Return ``None`` when the chain verifies for a TLS server against ``ca`` and nothing else, else
    openssl's words.

    Strict, because clients are (Python 3.13 sets VERIFY_X509_STRICT).
    """
    blocks = _CERTIFICATE.findall(certificate)
    with tempfile.TemporaryDirectory(prefix="ktls-verify-") as directory:
        paths = []
        for name, text in (("leaf", blocks[0] if blocks else ""), ("chain", "".join(blocks[1:])), ("ca", ca)):
            paths.append(os.path.join(directory, name))
            with open(paths[-1], "w", encoding="ascii", errors="replace") as stream:
                stream.write(text)
        leaf, chain, trusted = paths
        argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore"]
        argv += ["-CAfile", trusted]
        argv += ["-untrusted", chain] if blocks[1:] else []
        result = runner.run([*argv, leaf])
    if result.rc == 0:
        return None
    for line in result.stderr.splitlines():
        _, found, complaint = line.partition(" lookup: ")
        if line.startswith("error ") and found:
            return complaint.strip()
    return result.reason.replace(directory, "")


def _why_needed(wish: RequestWish, names: Sequence[str], public_key: str, runner: Runner) -> list[str]:
    content = _read_bytes(wish.certificate_path)
    if content is None:
        return ["no_certificate"]
    pem = content.decode("ascii", "replace")
    leaf = read_leaf(pem, wish.renew_before_days * _DAY_S, runner)
    if leaf is None:
        return ["unreadable_certificate"]
    reasons = []
    if leaf.public_key != public_key:
        reasons.append("key_differs")
    if not set(names) <= leaf.names:
        reasons.append("names_differ")
    if leaf.expires_soon:
        reasons.append("expires_soon")
    if wish.ca is not None and verify(pem, wish.ca, runner) is not None:
        reasons.append("not_signed_by_ca")
    return reasons


def _csr(key_path: str, names: Sequence[str], runner: Runner) -> str:
    with tempfile.TemporaryDirectory(prefix="ktls-csr-") as directory:
        config = os.path.join(directory, "request.cnf")
        with open(config, "w", encoding="ascii") as stream:
            alternatives = ",".join(f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names)
            stream.write(_CSR_CONFIG.format(common_name=names[0][:_SUBJECT_CN_MAX], names=alternatives))
        made = _openssl(runner, ("req", "-new", "-sha256", "-config", config, "-key", key_path))
    return made.stdout


def _public_key(key_path: str, runner: Runner) -> str:
    result = runner.run(("openssl", "pkey", "-in", key_path, "-pubout"))
    found = _PUBLIC_KEY.search(result.stdout)
    if result.rc != 0 or found is None:
        message = f"openssl cannot read the private key {key_path}; move it away to have a new one made"
        raise KtlsError("key_unusable", message)
    return found.group()


def _openssl(runner: Runner, arguments: Sequence[str]) -> CommandResult:
    result = runner.run(("openssl", *arguments))
    if result.rc != 0 or not result.stdout:
        message = f"openssl {arguments[0]} failed ({result.reason}); check the openssl package of this host"
        raise KtlsError("openssl_failed", message)
    return result


def _checked_names(names: Sequence[str]) -> list[str]:
    """Return names in comparable form. What is refused here would also change the meaning of the request's text."""
    checked = []
    for name in names:
        if _is_address(name):
            checked.append(str(ipaddress.ip_address(name)))
        elif _NAME.fullmatch(name):
            checked.append(name.lower())
        else:
            message = f"{name!r} is neither a host name nor an IP address; correct the names of this host"
            raise KtlsError("bad_name", message)
    if not checked:
        raise KtlsError("bad_name", "a certificate needs at least one name; give the host's name")
    return checked


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _normal_pem(text: str) -> str:
    return "".join(block.rstrip("\n") + "\n" for block in _CERTIFICATE.findall(text.replace("\r\n", "\n")))


def _read_bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KtlsError("read_failed", f"cannot read {path} ({error.strerror}); run as root") from error
