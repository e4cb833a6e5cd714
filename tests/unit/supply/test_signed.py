# SPDX-License-Identifier: Apache-2.0
"""Only what a trusted key has signed, for this purpose, is taken; the commands of docs/release.md say the same."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ktls_control import signed
from ktls_control.errors import ControlError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Throw-away keys: ours, and a stranger's."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("ours", "strangers"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(place / name)]
        subprocess.run(command, check=True)
    public = " ".join((place / "ours.pub").read_text().split()[:2])
    (place / "signers").write_text(f'{signed.PRINCIPAL} namespaces="{signed.NAMESPACE}" {public}\n')
    (place / "expired").write_text(f'{signed.PRINCIPAL} valid-before="20200101" {public}\n')
    (place / "of-another").write_text(f'somebody@else namespaces="{signed.NAMESPACE}" {public}\n')
    (place / "for-flags").write_text(f'{signed.PRINCIPAL} namespaces="ktls-flag" {public}\n')
    return place


@pytest.fixture
def release(tmp_path: Path, keys: Path) -> Path:
    """A signed directory of two artefacts."""
    place = tmp_path / "release"
    place.mkdir()
    (place / "ktls-1.0+gabc.pyz").write_bytes(b"a zipapp")
    (place / "other.tar.gz").write_bytes(b"an archive")
    (place / signed.SUMS).write_text(signed.sums(place.iterdir()))
    signed.sign(place, keys / "ours")
    return place


def refusal(artefact: Path, signers: Path) -> str:
    with pytest.raises(ControlError) as caught:
        signed.verify(artefact, signers)
    assert "\n" not in caught.value.message
    return caught.value.code


def test_signed_release_is_taken(release: Path, keys: Path) -> None:
    signed.verify(release / "ktls-1.0+gabc.pyz", keys / "signers")
    signed.verify(release / "other.tar.gz", keys / "signers")


def test_tampered_artefact(release: Path, keys: Path) -> None:
    (release / "ktls-1.0+gabc.pyz").write_bytes(b"a zipapP")
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "signers") == "not_in_release"
    signed.verify(release / "other.tar.gz", keys / "signers")


def test_tampered_sums(release: Path, keys: Path) -> None:
    (release / "ktls-1.0+gabc.pyz").write_bytes(b"a zipapP")
    artefacts = [path for path in release.iterdir() if not path.name.startswith("SHA256SUMS")]
    (release / signed.SUMS).write_text(signed.sums(artefacts))
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "signers") == "bad_signature"


@pytest.mark.parametrize("signers", ["expired", "of-another", "for-flags"])
def test_key_that_does_not_count(release: Path, keys: Path, signers: str) -> None:
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / signers) == "bad_signature"


def test_stranger_and_wrong_purpose(release: Path, keys: Path) -> None:
    signed.sign(release, keys / "strangers")
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "signers") == "bad_signature"
    (release / signed.SIGNATURE).unlink()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(keys / "ours"), "-n", "file", str(release / signed.SUMS)]
    subprocess.run(command, check=True, capture_output=True)
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "signers") == "bad_signature", "signed for something else"


@pytest.mark.parametrize("missing", [signed.SUMS, signed.SIGNATURE])
def test_half_a_release(release: Path, keys: Path, missing: str) -> None:
    (release / missing).unlink()
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "signers") == "release_not_signed"
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "nowhere") == "release_not_signed"


def test_file_that_the_release_does_not_name(release: Path, keys: Path) -> None:
    (release / "extra.pyz").write_bytes(b"a zipapp")
    assert refusal(release / "extra.pyz", keys / "signers") == "not_in_release"


def test_signed_text_that_is_no_list(release: Path, keys: Path) -> None:
    (release / signed.SUMS).write_text("0" * 64 + "  ../../etc/passwd\n")
    signed.sign(release, keys / "ours")
    assert refusal(release / "ktls-1.0+gabc.pyz", keys / "signers") == "bad_signature"


def test_key_that_cannot_sign(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ControlError) as caught:
        signed.sign(release, tmp_path / "no-key")
    assert caught.value.code == "sign_failed"


def test_every_code_is_told() -> None:
    raised = set(
        re.findall(r'(?:ControlError|_keygen)\(\s*"([a-z_]+)"', (ROOT / "control/ktls_control/signed.py").read_text())
    )
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/release.md").read_text(), re.MULTILINE)
    told = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row) if "_" in code}
    assert raised | {"bad_signature", "sign_failed"} == told


def documented() -> list[str]:
    """The commands of docs/release.md that check a release without anything of ours."""
    text = (ROOT / "docs/release.md").read_text()
    block = re.search(r"<!-- verify -->\n\n((?:    .*\n)+)", text)
    assert block is not None
    return [line.strip() for line in block.group(1).splitlines()]


@pytest.mark.parametrize("tampered", [False, True])
def test_documented_commands(release: Path, keys: Path, tampered: bool) -> None:
    if tampered:
        (release / "ktls-1.0+gabc.pyz").write_bytes(b"a zipapP")
    commands = documented()
    assert len(commands) == 2
    script = " && ".join(commands).replace("allowed_signers", shlex.quote(str(keys / "signers")))
    done = subprocess.run(["sh", "-c", script], cwd=release, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is not tampered, done.stdout + done.stderr
