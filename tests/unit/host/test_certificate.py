# SPDX-License-Identifier: Apache-2.0
"""Key, request and certificate, with the real openssl program and a CA of another library."""

from __future__ import annotations

import datetime
import ipaddress
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import certificate, files
from ktls_host.certificate import RequestResult, RequestWish
from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("Web1.Example.org", "192.0.2.7", "2001:db8:0::7")
CANONICAL = {"web1.example.org", "192.0.2.7", "2001:db8::7"}


class Authority:
    """A CA as the control node has one."""

    def __init__(self, name: str = "test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder(self.name, self.name, self.key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=3650))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage(cert_sign=True), critical=True)
        self.identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = builder.add_extension(self.identifier, critical=False)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, csr: str, days: int = 90, *, client_only: bool = False) -> str:
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder(self.name, request.subject, request.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=days))
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        builder = builder.add_extension(names.value, critical=False)
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client_only else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self.identifier)
        builder = builder.add_extension(issuer, critical=False)
        subject = x509.SubjectKeyIdentifier.from_public_key(request.public_key())
        builder = builder.add_extension(subject, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def usage(*, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Place:
    """The directory of one host."""

    directory: Path

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    @property
    def cert(self) -> Path:
        return self.directory / "cert.pem"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def wish(self, ca: str | None = None, names: Sequence[str] = NAMES, days: int = 30) -> RequestWish:
        return RequestWish(tuple(names), str(self.key), str(self.cert), ca, days)

    def request(self, ca: str | None = None, **options: Any) -> RequestResult:
        return certificate.request(self.wish(ca, **options))

    def plan_install(self, pem: str, ca: str) -> list[files.FileChange]:
        return certificate.plan_install(
            pem, ca, key_path=str(self.key), certificate_path=str(self.cert), ca_path=str(self.ca)
        )


AUTHORITY, OTHER, NAMESAKE = Authority(), Authority("other CA"), Authority()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """A directory below parents that only we may write to, as /etc is (/tmp itself is refused, rightly)."""
    refuse = files._refuse_unsafe
    monkeypatch.setattr(files, "_refuse_unsafe", lambda target, root: refuse(target, str(tmp_path)))
    (tmp_path / "tls").mkdir()
    return Place(tmp_path / "tls")


@pytest.fixture
def served(place: Place) -> Place:
    """A host with a good certificate."""
    csr = place.request().csr
    assert csr is not None
    files.apply(place.plan_install(AUTHORITY.sign(csr), AUTHORITY.pem))
    return place


def test_request_on_a_new_host(place: Place) -> None:
    result = place.request(AUTHORITY.pem)
    assert (result.changed, result.needed, result.reasons) == (True, True, ["no_key"])
    assert stat.S_IMODE(place.key.stat().st_mode) == 0o600
    assert os.listdir(place.directory) == ["key.pem"]
    key = serialization.load_pem_private_key(place.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    assert result.csr is not None and "PRIVATE" not in result.csr
    request = x509.load_pem_x509_csr(result.csr.encode())
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert request.subject.rfc4514_string() == "CN=web1.example.org"
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["web1.example.org"]
    addresses = names.get_values_for_type(x509.IPAddress)
    assert addresses == [ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7")]
    assert request.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH]
    )


def test_request_in_check_mode_writes_nothing(place: Place) -> None:
    result = certificate.request(place.wish(), check=True)
    assert (result.changed, result.needed, result.csr) == (True, True, None)
    assert os.listdir(place.directory) == []


def test_check_mode_predicts(place: Place, served: Place) -> None:
    place.key.chmod(0o644)
    predicted = certificate.request(place.wish(OTHER.pem), check=True)
    real = place.request(OTHER.pem)
    assert (predicted.changed, predicted.reasons) == (real.changed, real.reasons) == (True, ["not_signed_by_ca"])
    assert stat.S_IMODE(place.key.stat().st_mode) == 0o600


def test_second_request_keeps_the_key(place: Place) -> None:
    first = place.request()
    key = place.key.read_bytes()
    second = place.request()
    assert place.key.read_bytes() == key
    assert (second.changed, second.reasons) == (False, ["no_certificate"])
    assert first.csr is not None and second.csr is not None


def test_good_certificate_needs_nothing(served: Place) -> None:
    result = served.request(AUTHORITY.pem)
    assert (result.changed, result.needed, result.reasons, result.csr) == (False, False, [], None)
    assert served.request(AUTHORITY.pem, names=["web1.example.org"]).reasons == [], "more names than wanted are fine"


def reissue(place: Place, **options: Any) -> None:
    csr = place.request(OTHER.pem).csr
    assert csr is not None
    place.cert.write_text(AUTHORITY.sign(csr, **options))


def test_reasons(served: Place) -> None:
    assert served.request(OTHER.pem).reasons == ["not_signed_by_ca"]
    assert served.request(NAMESAKE.pem).reasons == ["not_signed_by_ca"], "a name proves nothing"
    assert served.request(AUTHORITY.pem, names=["web2.example.org"]).reasons == ["names_differ"]
    assert served.request(AUTHORITY.pem, days=91).reasons == ["expires_soon"]
    assert served.request(AUTHORITY.pem, days=89).reasons == []
    served.cert.write_text("garbage")
    assert served.request(AUTHORITY.pem).reasons == ["unreadable_certificate"]
    served.cert.unlink()
    assert served.request(AUTHORITY.pem).reasons == ["no_certificate"]


def test_new_key_makes_the_old_certificate_unfit(served: Place) -> None:
    old = served.cert.read_text()
    served.key.unlink()
    assert served.request(AUTHORITY.pem).reasons == ["no_key"]
    assert served.cert.read_text() == old
    assert served.request(AUTHORITY.pem).reasons == ["key_differs"]


def test_expired_certificate(served: Place) -> None:
    reissue(served, days=1)
    assert served.request(AUTHORITY.pem).reasons == ["expires_soon"]


def test_unreadable_key_is_not_overwritten(place: Place) -> None:
    place.key.write_text("precious but odd")
    with pytest.raises(KtlsError) as caught:
        place.request()
    assert caught.value.code == "key_unusable"
    assert place.key.read_text() == "precious but odd"


def test_linked_key_is_refused(place: Place) -> None:
    (place.directory / "elsewhere").write_text("x")
    place.key.symlink_to(place.directory / "elsewhere")
    with pytest.raises(KtlsError) as caught:
        place.request()
    assert caught.value.code == "symlink_in_the_way"


@pytest.mark.parametrize(
    "name", ["", "-x", "a b", "a,DNS:evil", "a\nDNS=evil", "a/CN=b", "x" * 300, "žluť", "$HOME", "a..b\\"]
)
def test_bad_names_are_refused_before_anything(place: Place, name: str) -> None:
    with pytest.raises(KtlsError) as caught:
        place.request(names=["good.example.org", name])
    assert caught.value.code == "bad_name"
    assert os.listdir(place.directory) == []


def test_no_names(place: Place) -> None:
    with pytest.raises(KtlsError) as caught:
        place.request(names=[])
    assert caught.value.code == "bad_name"


def test_long_first_name_fits_the_subject(place: Place) -> None:
    name = ".".join(["abcdefghi"] * 10)
    csr = place.request(names=[name]).csr
    assert csr is not None
    assert len(x509.load_pem_x509_csr(csr.encode()).subject.rfc4514_string()) == len("CN=") + 64


class Spy(Runner):
    """Records commands."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        self.calls.append(list(argv))
        return super().run(argv, stdin)


def test_key_is_on_no_command_line_and_in_no_other_file(place: Place) -> None:
    spy = Spy()
    certificate.request(place.wish(), spy)
    body = place.key.read_text().splitlines()[1]
    assert all(body not in word for call in spy.calls for word in call)
    holding = [path for path in place.directory.rglob("*") if b"PRIVATE KEY" in path.read_bytes()]
    assert holding == [place.key]


# install


def test_install_writes_both_and_is_idempotent(place: Place) -> None:
    csr = place.request().csr
    assert csr is not None
    pem = AUTHORITY.sign(csr)
    planned = place.plan_install(pem, AUTHORITY.pem)
    assert [os.path.basename(change.spec.path) for change in planned] == ["cert.pem", "ca.pem"]
    assert not place.cert.exists(), "a plan writes nothing"
    files.apply(planned)
    assert place.cert.read_text() == pem
    assert place.ca.read_text() == AUTHORITY.pem
    assert stat.S_IMODE(place.cert.stat().st_mode) == 0o644
    assert place.plan_install(pem.replace("\n", "\r\n"), f"{AUTHORITY.pem}\n\n") == []


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("other ca", "certificate_not_trusted"),
        ("client only", "certificate_not_trusted"),
        ("expired", "certificate_not_trusted"),
        ("other key", "certificate_key_mismatch"),
        ("garbage", "bad_certificate"),
        ("empty ca", "certificate_not_trusted"),
        ("no key", "key_missing"),
    ],
)
def test_install_refuses_and_writes_nothing(place: Place, case: str, code: str) -> None:
    csr = place.request().csr
    assert csr is not None
    pem, ca = AUTHORITY.sign(csr, client_only=case == "client only", days=0 if case == "expired" else 90), AUTHORITY.pem
    if case == "other ca":
        ca = OTHER.pem
    elif case == "empty ca":
        ca = ""
    elif case == "garbage":
        pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    elif case in ("other key", "no key"):
        place.key.unlink()
        if case == "other key":
            place.request()
    with pytest.raises(KtlsError) as caught:
        place.plan_install(pem, ca)
    assert caught.value.code == code
    assert "\n" not in caught.value.message and "/tmp/ktls" not in caught.value.message
    assert not place.cert.exists() and not place.ca.exists()


def test_system_trust_does_not_count(served: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the given CA is trusted, whatever the environment points to."""
    trusted = served.directory / "trusted"
    trusted.mkdir()
    (trusted / "ca.pem").write_text(AUTHORITY.pem)
    assert Runner().run(("openssl", "rehash", str(trusted))).rc == 0
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(trusted))
    assert certificate.verify(served.cert.read_text(), OTHER.pem, Runner()) is not None
    assert certificate.verify(served.cert.read_text(), AUTHORITY.pem, Runner()) is None


def test_failing_program_is_named(place: Place) -> None:
    class Broken(Runner):
        def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
            return CommandResult(1, "", "genpkey: no entropy\n")

    with pytest.raises(KtlsError, match="no entropy") as caught:
        certificate.request(place.wish(), Broken())
    assert caught.value.code == "openssl_failed"
    assert os.listdir(place.directory) == []


# parsers


def test_names_as_openssl_prints_them(served: Place) -> None:
    leaf = certificate.read_leaf(served.cert.read_text(), 0, Runner())
    assert leaf is not None
    assert leaf.names == CANONICAL
    assert not leaf.expires_soon


@given(st.text())
def test_name_parser_never_raises(text: str) -> None:
    certificate.parse_names(text)
    certificate.parse_names(f"    DNS:{text}, IP Address:{text}\n")


def test_wish_without_ca_accepts_any(served: Place) -> None:
    assert certificate.request(replace(served.wish(), ca=None)).reasons == []
