# SPDX-License-Identifier: Apache-2.0
"""The authority signs what it was told to, checked with the openssl command."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from ktls_control.ca import Authority
from ktls_control.errors import ControlError

NAMES = ["web1.example.org", "192.0.2.7"]


def request(directory: Path, san: str = "DNS:web1.example.org,IP:192.0.2.7") -> str:
    key = directory / "key.pem"
    command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-subj", "/CN=web1.example.org", "-addext", f"subjectAltName={san}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_openssl_verifies_what_it_signed(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca")
    leaf = tmp_path / "cert.pem"
    leaf.write_text(authority.sign(request(tmp_path), NAMES))
    for name in ("-verify_hostname", "web1.example.org"), ("-verify_ip", "192.0.2.7"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", *name]
        done = subprocess.run(
            [*command, "-CAfile", str(authority.certificate_path), str(leaf)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    wrong = ["openssl", "verify", "-verify_hostname", "web2.example.org", "-CAfile", str(authority.certificate_path)]
    assert subprocess.run([*wrong, str(leaf)], capture_output=True, check=False).returncode != 0


def test_the_authority_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    first = Authority.open(tmp_path / "ca").certificate_pem
    assert Authority.open(tmp_path / "ca").certificate_pem == first
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


@pytest.mark.parametrize("san", ["DNS:web2.example.org", "DNS:web1.example.org,IP:192.0.2.7,DNS:*.example.org"])
def test_a_host_cannot_ask_for_other_names_than_its_own(tmp_path: Path, san: str) -> None:
    with pytest.raises(ControlError, match="other names") as caught:
        Authority.open(tmp_path / "ca").sign(request(tmp_path, san), NAMES)
    assert caught.value.code == "bad_request"


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlError) as caught:
        Authority.open(tmp_path / "ca").sign("nonsense", NAMES)
    assert caught.value.code == "bad_request"


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match="ktls_sidecar_ca_dir") as caught:
        Authority.open(tmp_path / "file" / "ca")
    assert caught.value.code == "ca_unwritable"
