# SPDX-License-Identifier: Apache-2.0
"""Several certificates: which one a client gets, and that a reload changes all of them or none."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.errors import KtlsError
from ktls_sidecar import certificates
from ktls_sidecar.config import Pair, parse
from ktls_sidecar.openssl import ServerContext, load
from tests.unit.sidecar.conftest import issue
from tests.unit.sidecar.support import Certificate, Sidecar, running

Issue = Callable[..., Certificate]


@pytest.fixture(scope="session")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issue:
    directory, made = tmp_path_factory.mktemp("names"), iter(range(1000))

    def issue_for(*names: str, common_name: str = "ignored.example") -> Certificate:
        return issue(directory, f"c{next(made)}", names, common_name)

    return issue_for


def entries(*several: Certificate) -> list[dict[str, str]]:
    return [{"certificate": str(each.certificate), "key": str(each.key)} for each in several]


def presented(sidecar: Sidecar, name: str | None, version: ssl.TLSVersion | None = None) -> x509.Certificate:
    """Return what a client gets that asks for ``name``. What it is signed by is looked at elsewhere."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=name) as sock,
    ):
        return x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")


def of(which: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(which.certificate.read_bytes())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_name_chooses(tmp_path: Path, certificate: Certificate, issued: Issue, version: ssl.TLSVersion) -> None:
    wild = issued("*.example.org", "example.org")
    exact = issued("www.example.org", common_name="nobody.example")
    other = issued("files.example.net")
    # No DNS name at all: the common name still counts for nothing.
    legacy = issued(common_name="legacy.example")
    with running(tmp_path, certificate, certificates=entries(wild, exact, other, legacy)) as sidecar:
        (sidecar.root / "f").write_text("f")
        for name, expected in (
            ("localhost", certificate),
            ("www.example.org", exact),
            ("WWW.Example.ORG", exact),
            ("a.example.org", wild),
            ("example.org", wild),
            ("a.b.example.org", certificate),
            ("files.example.net", other),
            ("x.files.example.net", certificate),
            ("nobody.example", certificate),
            ("legacy.example", certificate),
            ("unknown.test", certificate),
            (None, certificate),
        ):
            assert presented(sidecar, name, version) == of(expected), name
        # A whole download over a chosen certificate, verified by an independent client, ALPN included.
        for which, name in ((exact, "www.example.org"), (other, "files.example.net")):
            curl = [
                "curl",
                "-sS",
                "--fail",
                "-v",
                "--cacert",
                str(which.ca),
                "--connect-to",
                f"::127.0.0.1:{sidecar.port}",
            ]
            done = subprocess.run([*curl, f"https://{name}/f"], capture_output=True, text=True, timeout=20, check=False)
            assert (done.returncode, done.stdout) == (0, "f"), done.stderr
            assert "server accepted http/1.1" in done.stderr
        assert sidecar.status()["errors"] == {}


def test_a_session_resumes_on_a_chosen_certificate(tmp_path: Path, certificate: Certificate, issued: Issue) -> None:
    other = issued("files.example.net")
    with running(tmp_path, certificate, certificates=entries(other)) as sidecar:
        context = ssl.create_default_context(cafile=str(other.ca))
        session = None
        for expected in (False, True):
            with (
                socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as raw,
                context.wrap_socket(raw, server_hostname="files.example.net", session=session) as sock,
            ):
                sock.sendall(b"GET /f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while sock.recv(4096):
                    pass
                assert sock.session_reused is expected
                session = sock.session


@pytest.mark.parametrize(
    "name", [None, "", "*", "*.example.org", ".example.org", "a..b", "\xff" * 300, "a" * 70000, "a\0.example.org"]
)
def test_odd_names_get_none(certificate: Certificate, issued: Issue, name: str | None) -> None:
    wild = issued("*.example.org")
    pairs = [Pair(str(each.certificate), str(each.key)) for each in (certificate, wild)]
    names = certificates.Names([ServerContext(load(), pair.certificate, pair.key) for pair in pairs])
    assert names.choose(name) is None


@pytest.fixture(scope="module")
def names(certificate: Certificate, issued: Issue) -> certificates.Names:
    wild = issued("*.example.org")
    lib = load()
    return certificates.Names([ServerContext(lib, str(c.certificate), str(c.key)) for c in (certificate, wild)])


@given(name=st.text(max_size=300))
def test_no_name_does_harm(names: certificates.Names, name: str) -> None:
    if not name.lower().endswith((".example.org", "localhost")):
        assert names.choose(name) is None
    assert names.choose("a.example.org") is not None


def test_what_is_wrong_is_named(certificate: Certificate, other_certificate: Certificate, tmp_path: Path) -> None:
    base: dict[str, Any] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}

    def refused(**pair: str) -> str:
        config = parse({**base, "certificates": [{**entries(other_certificate)[0], **pair}]})
        with pytest.raises(KtlsError) as caught:
            certificates.load(load(), config, certificates.new_ticket_keys())
        assert caught.value.code == "bad_certificate"
        return caught.value.message

    (tmp_path / "none.pem").write_text("nothing")
    assert "cannot read the TLS key /nonexistent" in refused(key="/nonexistent")
    assert "key values mismatch" in refused(key=str(certificate.key))
    assert f"the TLS certificate {tmp_path}/none.pem is not usable" in refused(certificate=str(tmp_path / "none.pem"))


def test_ticket_keys_of_the_wrong_size_are_refused(certificate: Certificate) -> None:
    config = parse({"certificate": str(certificate.certificate), "key": str(certificate.key)})
    with pytest.raises(ValueError, match="ticket keys"):
        certificates.load(load(), config, b"short")


def test_reload_swaps_all_or_none(tmp_path: Path, issued: Issue) -> None:
    first, second = issued("one.example"), issued("two.example")
    new_first, new_second = issued("one.example"), issued("two.example")
    mine = [Certificate(tmp_path, tmp_path / f"{n}.pem", tmp_path / f"{n}.key") for n in range(2)]

    def put(place: Certificate, which: Certificate) -> None:
        shutil.copy(which.certificate, place.certificate)
        shutil.copy(which.key, place.key)

    put(mine[0], first)
    put(mine[1], second)
    with running(tmp_path, mine[0], certificates=entries(mine[1])) as sidecar:
        before = certificates.digest(sidecar.config)
        put(mine[0], new_first)
        mine[1].certificate.write_text("half written")
        assert certificates.digest(sidecar.config) != before
        with pytest.raises(KtlsError):
            sidecar.server.reload()
        assert [presented(sidecar, f"{name}.example") for name in ("one", "two")] == [of(first), of(second)]
        put(mine[1], new_second)
        sidecar.server.reload()
        assert [presented(sidecar, f"{name}.example") for name in ("one", "two")] == [of(new_first), of(new_second)]


def test_a_single_certificate_needs_no_callback(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(str(certificate.certificate), str(certificate.key))
    # What memory that is writable and executable is refused to.
    monkeypatch.setattr(ServerContext, "choose_by_name", lambda *_: False)
    assert certificates.by_name(load(), [pair]).pointer
    with pytest.raises(KtlsError, match="MemoryDenyWriteExecute") as caught:
        certificates.by_name(load(), [pair, pair])
    assert caught.value.code == "bad_config"
