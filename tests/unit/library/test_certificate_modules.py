# SPDX-License-Identifier: Apache-2.0
"""Request, sign elsewhere, install: the two modules together, in check mode and for real."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory below parents that only we may write to; /tmp itself is refused, rightly."""
    refuse = files._refuse_unsafe
    monkeypatch.setattr(files, "_refuse_unsafe", lambda target, root: refuse(target, str(tmp_path)))
    return str(tmp_path / "tls")


def openssl(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Return a function that signs a request and returns (certificate, CA)."""
    key, ca = str(tmp_path / "ca.key"), str(tmp_path / "ca.pem")
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
        "-out", ca, "-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    extensions = tmp_path / "ext"
    extensions.write_text("subjectAltName=DNS:web1.example.org\nextendedKeyUsage=serverAuth\n"
                          "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")  # fmt: skip

    def sign(csr: str) -> tuple[str, str]:
        signed = openssl(
            "x509", "-req", "-CA", ca, "-CAkey", key, "-days", "90", "-extfile", str(extensions), stdin=csr
        )
        return signed, (tmp_path / "ca.pem").read_text()

    return sign


def test_whole_way(
    run: Callable[..., dict[str, Any]], directory: str, authority: Callable[[str], tuple[str, str]]
) -> None:
    wish = {"names": ["web1.example.org"], "directory": directory}
    predicted = run("ktls_certificate_request", _check=True, **wish)
    assert not os.path.exists(directory)
    asked = run("ktls_certificate_request", **wish)
    assert (predicted["changed"], predicted["needed"], predicted["csr"]) == (True, "no_key", None)
    assert (asked["changed"], asked["needed"], asked["reasons"]) == (True, "no_key", ["no_key"])
    assert "PRIVATE" not in str(asked)

    certificate, ca = authority(asked["csr"])
    install = {"certificate": certificate, "ca": ca, "directory": directory}
    predicted = run("ktls_certificate_install", _check=True, **install)
    assert os.listdir(directory) == ["key.pem"]
    installed = run("ktls_certificate_install", **install)
    for key in ("changed", "written", "diff"):
        assert predicted[key] == installed[key], key
    assert installed["changed"] is True
    assert [os.path.basename(path) for path in installed["written"]] == ["cert.pem", "ca.pem"]
    assert sorted(os.listdir(directory)) == ["ca.pem", "cert.pem", "key.pem"]

    again = run("ktls_certificate_install", **install)
    assert (again["changed"], again["written"]) == (False, [])
    served = run("ktls_certificate_request", ca=ca, **wish)
    assert (served["changed"], served["needed"], served["reasons"], served["csr"]) == (False, None, [], None)


def test_wrong_certificate_is_refused_in_check_mode_too(
    run: Callable[..., dict[str, Any]], directory: str, authority: Callable[[str], tuple[str, str]]
) -> None:
    asked = run("ktls_certificate_request", names=["web1.example.org"], directory=directory)
    certificate, ca = authority(asked["csr"])
    os.unlink(os.path.join(directory, "key.pem"))
    run("ktls_certificate_request", names=["web1.example.org"], directory=directory)
    for check in (True, False):
        result = run("ktls_certificate_install", _check=check, certificate=certificate, ca=ca, directory=directory)
        assert result["error_code"] == "certificate_key_mismatch"
    assert os.listdir(directory) == ["key.pem"]


def test_bad_name(run: Callable[..., dict[str, Any]], directory: str) -> None:
    result = run("ktls_certificate_request", names=["a,b"], directory=directory)
    assert result["error_code"] == "bad_name"
