# SPDX-License-Identifier: Apache-2.0
"""Keep the audit trail of a host before it goes there: byte for byte, and with its chain of hashes checked.

::

    DIRECTORY/HOST/20261126T160501Z-1a2b3c4d/
      audit.jsonl ...   as they were on the host, mode 0600
      audit.head        what the agent wrote last
      kept.json         digests, and what the check of the chain found
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ControlError

#: A host names its files; none of them leads out of the directory.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_OURS = ("kept.json", "audit.head")
_CHECK_S = 120.0

#: Given a directory and the anchor in it, if any: None when the chain is whole, else what is wrong with it.
Checker = Callable[[Path, "Path | None"], "str | None"]


@dataclass(frozen=True)
class Listing:
    """What a host says that its trail is."""

    directory: str
    files: Mapping[str, str]
    anchor: str | None
    digest: str

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Listing:
        """:raises ControlError: ``audit_not_copied`` for what no host of ours would say."""
        files = said.get("files")
        if not isinstance(files, dict) or not all(
            _NAME.match(str(name)) and name not in _OURS and _SHA256.match(str(sha)) for name, sha in files.items()
        ):
            raise ControlError(
                "audit_not_copied", "the host names the files of its audit trail in a way that is not ours"
            )
        anchor = said.get("anchor")
        return cls(str(said.get("directory")), files, str(anchor) if anchor else None, str(said.get("digest")))


def keep(
    place: Path,
    listing: Listing,
    files: Mapping[str, bytes],
    anchor: bytes | None,
    check: Checker,
    *,
    must_be_whole: bool = True,
) -> dict[str, Any]:
    """Write the copy below ``place``, whole or not at all.

    :param must_be_whole: refuse a trail whose chain is broken; the copy stays, as what there is to look into.
    :returns: ``path``, ``digest``, ``files`` (how many), ``whole`` and, when it is not, ``problem``.
    :raises ControlError: ``audit_not_copied``, ``audit_tampered``.
    """
    wrong = [name for name, sha in listing.files.items() if hashlib.sha256(files.get(name, b"")).hexdigest() != sha]
    if wrong or set(files) != set(listing.files) or digest(listing.files) != listing.digest:
        named = ", ".join(wrong) or "the list"
        raise ControlError("audit_not_copied", f"the copy of the audit trail is not what is on the host: {named}")
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    final = place / f"{stamp}-{listing.digest[:8]}"
    temporary = place / f".{final.name}.{os.getpid()}.new"
    try:
        temporary.mkdir(mode=0o700, parents=True)
        for name, content in files.items():
            _write(temporary / name, content)
        head = temporary / "audit.head" if anchor is not None else None
        if head is not None and anchor is not None:
            _write(head, anchor)
        problem = check(temporary, head)
        said = {"digest": listing.digest, "files": dict(listing.files), "whole": problem is None, "problem": problem}
        _write(temporary / "kept.json", (json.dumps(said, indent=1, sort_keys=True) + "\n").encode())
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        message = f"{place}: {error.strerror}: the audit trail cannot be kept: free space, or name another audit_dir"
        raise ControlError("audit_not_copied", message) from error
    if problem is not None and must_be_whole:
        message = (
            f"its audit trail is not whole: {problem}; the copy is in {final}: look into it, then say audit: copied"
        )
        raise ControlError("audit_tampered", message)
    kept = {"path": str(final), "digest": listing.digest, "files": len(files), "whole": problem is None}
    return kept if problem is None else {**kept, "problem": problem}


def digest(files: Mapping[str, str]) -> str:
    """As a host counts it (``ktls_host.undeploy.trail``)."""
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def safe_name(host: str) -> str:
    """A host's name as that of a directory."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", host).lstrip(".") or "-"


def chain_checker(agent: Path) -> Checker:
    """Return the check that ``ktls-agent audit verify`` makes, in a process of its own.

    :param agent: directory with the agent's sources, or, in a published collection, with the release ``ktls.pyz``.
    """
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ktls_agent.cli import main; sys.exit(main())"
    sources = ["-c", code, str(agent)]
    program = sources if (agent / "ktls_agent").is_dir() else [str(agent / "ktls.pyz"), "agent"]

    def check(directory: Path, head: Path | None) -> str | None:
        anchor = ["--anchor", str(head if head is not None else directory / "no-anchor")]
        arguments = ["audit", "verify", "--json", "--directory", str(directory), *anchor]
        try:
            done = subprocess.run(
                [sys.executable, "-I", *program, *arguments],
                capture_output=True, text=True, check=False, timeout=_CHECK_S,
            )  # fmt: skip
            answer = json.loads(done.stdout)
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            return f"it could not be checked here ({type(error).__name__})"
        return None if answer.get("ok") is True else str(answer.get("problem") or answer)

    return check


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
