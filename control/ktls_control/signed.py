# SPDX-License-Identifier: Apache-2.0
"""Sums of a release and their signature: made by whoever releases, checked before a host gets what they are of.

``SHA256SUMS`` is as sha256sum(1) writes it, ``SHA256SUMS.sig`` as ``ssh-keygen -Y sign`` does, in a namespace of its
own, so that no signature made for anything else counts here. No key is ever read here: ssh-keygen is told where it is.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import ControlError

NAMESPACE = "ktls-release"
#: Whose signature counts, as it stands in the file of allowed signers.
PRINCIPAL = "release@ktls-fleet"
SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9.+_-]*)\Z")
_LARGEST = 1024 * 1024
_KEYGEN_S = 120.0


def sums(paths: Iterable[Path]) -> str:
    """The text of ``SHA256SUMS`` for these files."""
    return "".join(f"{digest(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def sign(directory: Path, key: Path) -> None:
    """Sign the sums in ``directory``.

    :param key: private key, or the public half of one that the SSH agent holds.
    :raises ControlError: ``sign_failed``.
    """
    (directory / SIGNATURE).unlink(missing_ok=True)
    # The terminal stays: a key with a passphrase asks there.
    _keygen(["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE, str(directory / SUMS)], None, "sign_failed")


def verify(artefact: Path, signers: Path, principal: str = PRINCIPAL) -> None:
    """Check that a trusted key has signed the sums beside ``artefact``, and that it is the file they are of.

    :param signers: allowed signers, as ssh-keygen(1) has them.
    :raises ControlError: ``release_not_signed``, ``bad_signature``, ``not_in_release``.
    """
    listed = checked_sums(artefact.parent, signers, principal)
    if artefact.name not in listed:
        raise ControlError("not_in_release", f"{artefact}: the signed {SUMS} does not name it: fetch the release again")
    if digest(artefact) != listed[artefact.name]:
        raise ControlError(
            "not_in_release", f"{artefact} is not the file that was signed: it was changed or cut short; fetch it again"
        )


def checked_sums(directory: Path, signers: Path, principal: str = PRINCIPAL) -> Mapping[str, str]:
    """File name to SHA-256, after the signature of the list was checked.

    :raises ControlError: ``release_not_signed``, ``bad_signature``.
    """
    try:
        text = (directory / SUMS).read_bytes()[: _LARGEST + 1]
    except OSError as error:
        message = f"{directory} has no {SUMS} ({error.strerror}): fetch the whole release, or set no signers"
        raise ControlError("release_not_signed", message) from error
    for path in (directory / SIGNATURE, signers):
        if not path.is_file():
            raise ControlError(
                "release_not_signed", f"{path}: no such file: fetch the whole release, or set no signers"
            )
    # The very bytes that are checked are those that are read.
    _keygen(
        [
            "-Y", "verify", "-f", str(signers), "-I", principal, "-n", NAMESPACE, "-s", str(directory / SIGNATURE),
        ],
        text,
        "bad_signature",
    )  # fmt: skip
    lines = [_LINE.match(line) for line in text.decode("utf-8", "replace").splitlines()]
    found = {match[2]: match[1] for match in lines if match}
    if len(text) > _LARGEST or len(found) != len(lines):
        raise ControlError("bad_signature", f"{directory / SUMS} is signed, and is no list of sums: fetch it again")
    return found


def _keygen(arguments: list[str], text: bytes | None, code: str) -> None:
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments], input=text, capture_output=True, check=False, timeout=_KEYGEN_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ControlError(code, f"ssh-keygen cannot be run ({error}): install OpenSSH 8.9 or later") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no message"]
        cure = "check the key" if code == "sign_failed" else "nothing of it may be used: fetch the release again"
        raise ControlError(code, f"ssh-keygen: {said[-1].strip()}: {cure}")
