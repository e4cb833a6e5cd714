# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority in a directory, for labs and for fleets that have none.

Host keys are made on the hosts and never travel: what comes here is a signing request, what goes back a certificate.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import ControlError

CA_DAYS = 3650
HOST_DAYS = 397
#: Clocks of freshly booted hosts may lag a little.
BACKDATE = timedelta(minutes=10)


@dataclass(frozen=True)
class Authority:
    """A certificate authority whose private key lies beside its certificate, readable by its owner only."""

    directory: Path

    @property
    def certificate_path(self) -> Path:
        """PEM file of the authority's own certificate."""
        return self.directory / "ca.pem"

    @property
    def certificate_pem(self) -> str:
        """The authority's certificate, PEM."""
        return self.certificate_path.read_text()

    @classmethod
    def open(cls, directory: Path) -> Authority:
        """The authority in ``directory``, made there if there is none yet.

        :raises ControlError: ``ca_unwritable`` when the directory cannot be used.
        """
        authority = cls(directory)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(directory / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not authority.certificate_path.exists():
                    authority._create()
        except OSError as error:
            raise ControlError(
                "ca_unwritable",
                f"cannot make a certificate authority in {directory}: {error.strerror}; "
                "set ktls_sidecar_ca_dir to a directory you can write",
            ) from error
        return authority

    def sign(self, request_pem: str, names: Sequence[str]) -> str:
        """A server certificate for a signing request, PEM.

        :param names: DNS names and addresses this host may have; the request must ask for exactly these.
        :raises ControlError: ``bad_request`` for a request that is malformed, unsigned, or asks for other names.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem.encode())
        except ValueError as error:
            raise ControlError("bad_request", f"the signing request cannot be read: {error}") from error
        if not request.is_signature_valid:
            raise ControlError("bad_request", "the signing request is not signed by its own key")
        wanted = {_general_name(name) for name in names}
        try:
            extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            raise ControlError("bad_request", "the signing request names no host (no subjectAltName)") from None
        if set(extension.value) != wanted:
            raise ControlError(
                "bad_request",
                f"the signing request asks for other names than {', '.join(names)}: refused",
            )
        key = serialization.load_pem_private_key((self.directory / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ControlError(
                "bad_ca", f"{self.directory / 'ca.key'} is not the elliptic curve key that was made here"
            )
        issuer = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        now = datetime.now(timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(issuer.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=HOST_DAYS))
            .add_extension(extension.value, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ktls-fleet CA {os.urandom(4).hex()}")])
        now = datetime.now(timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # The key first: a certificate without its key would be taken for a finished authority.
        _write(self.directory / "ca.key", pem, 0o600)
        _write(self.certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
