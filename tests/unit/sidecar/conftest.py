# SPDX-License-Identifier: Apache-2.0
"""Certificates, made once, and a sidecar for each test."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.sidecar.processes import Command
from tests.unit.sidecar.support import Certificate, Sidecar, running


def issue(
    directory: Path, name: str, dns_names: Sequence[str] = ("localhost",), common_name: str = "localhost"
) -> Certificate:
    """Make a CA and a certificate, for localhost if not told otherwise, below ``directory``."""
    now = datetime.datetime.now(datetime.timezone.utc)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(ca_key, hashes.SHA256())
        )

    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    names = x509.SubjectAlternativeName(
        [*(x509.DNSName(each) for each in dns_names), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    paths = Certificate(directory / f"{name}-ca.pem", directory / f"{name}.pem", directory / f"{name}.key")
    pem = serialization.Encoding.PEM
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    paths.ca.write_bytes(build(ca_name, ca_key.public_key(), constraints).public_bytes(pem))
    paths.certificate.write_bytes(build(leaf_name, key.public_key(), names).public_bytes(pem))
    paths.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A key pair and the CA that clients trust."""
    return issue(tmp_path_factory.mktemp("tls"), "first")


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Another key pair under another CA."""
    return issue(tmp_path_factory.mktemp("tls"), "second")


@pytest.fixture
def sidecar(tmp_path: Path, certificate: Certificate) -> Iterator[Sidecar]:
    """A running sidecar with default settings, serving ``sidecar.root``."""
    with running(tmp_path, certificate) as instance:
        (instance.root / "hello.txt").write_text("hello, world\n")
        yield instance


@pytest.fixture
def command(tmp_path: Path, certificate: Certificate) -> Iterator[Command]:
    """The command, to be started; what a failed test leaves running ends with it."""
    made = Command(tmp_path, certificate)
    yield made
    made.kill()
