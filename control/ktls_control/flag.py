# SPDX-License-Identifier: Apache-2.0
"""The signed flag on the control node: sign, verify, publish. The private key is ssh-keygen's business alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktls_host import flag_document as document
from ktls_host import flag_signature as signature
from ktls_host.errors import KtlsError
from ktls_host.flag_document import NAMESPACE, Flag

from .errors import ControlError

FILE_NAME = "flag"
SIGN_TIMEOUT_S = 120.0  # somebody may have to touch a key or type a passphrase


@dataclass(frozen=True)
class Checked:
    """A flag whose signature is good, and the fingerprint of the key that made it."""

    flag: Flag
    key: str


def sign(
    key: Path,
    fleet: str,
    state: str,
    reason: str,
    *,
    serial: int | None = None,
    now: float | None = None,
    ask: bool = True,
    timeout_s: float = SIGN_TIMEOUT_S,
) -> bytes:
    """Return the file of a new flag, signed with ``key``: a private key, or the public half of one that an agent has.

    ``serial``: the time in seconds unless given, so that it grows by itself. Without ``ask`` nobody is asked for a
    passphrase: a key that has one and is in no agent then fails at once.

    :raises ControlError: ``bad_flag``, ``sign_failed``.
    """
    issued = int(time.time() if now is None else now)
    try:
        text = document.render(Flag(fleet, issued if serial is None else serial, issued, state, document.clean(reason)))
    except KtlsError as error:
        raise ControlError("bad_flag", error.message) from error
    if not key.is_file():
        raise ControlError("sign_failed", f"{key}: no such key; make one: ssh-keygen -t ed25519 -f {key}")
    with tempfile.TemporaryDirectory(prefix="ktls-flag-") as scratch:
        unsigned = Path(scratch) / FILE_NAME
        unsigned.write_bytes(text)
        # Standard input stays the terminal's: a passphrase or a PIN is between its owner and ssh-keygen.
        argv = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(unsigned)]
        quiet: dict[str, Any] = {}
        if not ask:
            environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
            quiet = {"stdin": subprocess.DEVNULL, "start_new_session": True, "env": environment}
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, **quiet)
        except subprocess.TimeoutExpired as error:
            raise ControlError("sign_failed", f"ssh-keygen did not end within {timeout_s:g} s") from error
        except OSError as error:
            message = f"ssh-keygen cannot be run ({error.strerror}): install openssh-client"
            raise ControlError("sign_failed", message) from error
        if done.returncode != 0:
            raise ControlError("sign_failed", f"ssh-keygen does not sign with {key}: {_last(done.stderr)}")
        try:
            return document.join(text, Path(f"{unsigned}.sig").read_bytes())
        except (OSError, KtlsError) as error:
            raise ControlError("sign_failed", f"ssh-keygen made no signature that fits a flag: {error}") from error


def verify(file: Path, allowed_signers: Path) -> Checked:
    """Check the flag at ``file`` as a host does.

    :raises ControlError: ``not_found``, or what is wrong with it.
    """
    try:
        with open(file, "rb") as stream:
            body = stream.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise ControlError("not_found", f"{file}: {error.strerror}; name the file of a flag") from error
    return check(body, str(file), allowed_signers)


def check(body: bytes, name: str, allowed_signers: Path) -> Checked:
    """Check the bytes of a flag as a host does. ``name`` is for the message."""
    try:
        text, signed = document.split(body)
        flag = document.parse(text)
        signers = signature.read_signers(str(allowed_signers.resolve()))
        return Checked(flag, signature.verify(text, signed, flag.fleet, signers))
    except KtlsError as error:
        raise ControlError(error.code, f"{name}: {error.message}") from error


def publish(body: bytes, directory: Path) -> Path:
    """Put a flag where a static web server reads it: whole, and with a date of its own.

    Temporary file, fsync, rename(2), fsync of the directory. The modification time is a later whole second than that
    of the flag before it: servers make their validators of it, and two flags of one second must not look the same.

    :raises ControlError: ``bad_flag``, ``publish_failed``.
    """
    path = directory / FILE_NAME
    try:
        document.parse(document.split(body)[0])
    except KtlsError as error:
        raise ControlError(error.code, f"not published: {error.message}") from error
    temporary = directory / f".{FILE_NAME}.{secrets.token_hex(6)}.tmp"
    try:
        modified = int(time.time())
        with contextlib.suppress(FileNotFoundError):
            before = os.lstat(path)
            if not stat.S_ISREG(before.st_mode):
                raise ControlError("publish_failed", f"{path} is not a file; remove it, or name another directory")
            modified = max(modified, int(before.st_mtime) + 1)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(body)
                stream.flush()
                os.fchmod(stream.fileno(), 0o644)
                os.utime(stream.fileno(), (modified, modified))
                os.fsync(stream.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        with contextlib.closing(_Directory(directory)) as opened:
            os.fsync(opened.handle)
    except OSError as error:
        raise ControlError("publish_failed", f"{path}: {error.strerror}; look at the directory and repeat") from error
    return path


class _Directory:
    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.handle)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"
