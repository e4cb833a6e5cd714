# SPDX-License-Identifier: Apache-2.0
"""Verify the signature of a flag with ``ssh-keygen -Y verify`` (ssh-keygen(1), ALLOWED SIGNERS).

The principal of a signer is the fleet's name, so that a key signs for the fleets that its line names and no other.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import KtlsError
from .flag_document import NAMESPACE

TIMEOUT_S = 5.0
SIGNERS_MAX = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEY = re.compile(r" key (SHA256:[A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Signers:
    """The allowed_signers file: its content, and what tells another file at the same path apart."""

    content: bytes
    identity: tuple[int, ...]


def read_signers(path: str) -> Signers:
    """Read the file that says who may sign. Raises :class:`KtlsError`: bad_signers.

    Whoever may write it may sign, so it has to belong to root (or to who runs this) and nobody else may write it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KtlsError("bad_signers", f"cannot read {path}: {error.strerror}; run playbook pull.yml") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise KtlsError("bad_signers", f"{path} is not a file; run playbook pull.yml")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise KtlsError("bad_signers", f"{path} can be changed by others than root: chown root, chmod 0644")
        content = os.read(handle, SIGNERS_MAX + 1)
    except OSError as error:
        raise KtlsError("bad_signers", f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(handle)
    if not content.strip() or len(content) > SIGNERS_MAX:
        raise KtlsError("bad_signers", f"{path} is empty or larger than {SIGNERS_MAX} bytes; run playbook pull.yml")
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return Signers(content, identity)


def verify(document: bytes, signature: bytes, fleet: str, signers: Signers, timeout_s: float = TIMEOUT_S) -> str:
    """Return the fingerprint of the key that signed. Raises :class:`KtlsError`: bad_signature, verify_failed."""
    with contextlib.ExitStack() as files:
        # Files in memory: no disk, and what is verified is what was read, whatever happens at the path meanwhile.
        names = [files.enter_context(_in_memory(content)) for content in (signers.content, signature)]
        allowed, signed = (f"/proc/self/fd/{handle}" for handle in names)
        argv = ["ssh-keygen", "-Y", "verify", "-f", allowed, "-I", fleet, "-n", NAMESPACE, "-s", signed]
        try:
            done = subprocess.run(
                argv,
                input=document,
                capture_output=True,
                timeout=timeout_s,
                pass_fds=names,
                env={"PATH": _PATH, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KtlsError("verify_failed", f"ssh-keygen did not end within {timeout_s:g} s") from error
        except OSError as error:
            message = f"ssh-keygen cannot be run ({error.strerror}); install the package that holds it (openssh-client)"
            raise KtlsError("verify_failed", message) from error
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0:
        key = _KEY.search(said)
        return key.group(1) if key else "unknown"
    if done.returncode < 0:
        raise KtlsError("verify_failed", f"ssh-keygen was ended by signal {-done.returncode}")
    why = (done.stderr.decode("utf-8", "replace") + said).replace(f"{allowed}:", "allowed_signers line ")
    lines = list(dict.fromkeys(line.strip() for line in why.splitlines() if line.strip()))
    known = "Could not verify signature."
    # ssh-keygen says no more than that when no line allows the key.
    cause = "; ".join(line for line in lines if line != known) or "no allowed signer of this fleet made it"
    raise KtlsError("bad_signature", "".join(char if char.isprintable() else "?" for char in cause)[:300])


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    try:
        handle = os.memfd_create("ktls-flag", os.MFD_CLOEXEC)
    except OSError as error:
        raise KtlsError("verify_failed", f"no file in memory can be made ({error.strerror})") from error
    try:
        with contextlib.closing(os.fdopen(handle, "wb", closefd=False)) as stream:
            stream.write(content)
        yield handle
    finally:
        os.close(handle)
