# SPDX-License-Identifier: Apache-2.0
"""The audit trail as it is on the host: what has to be copied before it may go, and a digest for it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from .. import textfile
from ..errors import KtlsError

DIRECTORY = "/var/lib/ktls/audit"
#: What the agent wrote last; a trail whose end was cut off does not hold it.
ANCHOR = "/run/ktls-agent/audit.head"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Trail:
    """``files`` maps each name to its SHA-256. ``digest`` is of all of them, in a form that :func:`digest` makes."""

    files: dict[str, str]
    anchor: bool
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with where the files are."""
        return {
            "directory": DIRECTORY,
            "files": dict(self.files),
            "anchor": ANCHOR if self.anchor else None,
            "digest": self.digest,
        }


def read(root: str = "/") -> Trail | None:
    """Return the trail; ``None`` when there is none. Raises :class:`KtlsError` ``audit_unreadable``."""
    directory = textfile.under(root, DIRECTORY)
    try:
        names = sorted(name for name in os.listdir(directory) if os.path.isfile(os.path.join(directory, name)))
        files = {name: _sha256(os.path.join(directory, name)) for name in names}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        message = f"cannot read {error.filename} ({error.strerror}); run as root, or do without a copy (audit: none)"
        raise KtlsError("audit_unreadable", message) from error
    return Trail(files, os.path.isfile(textfile.under(root, ANCHOR)), digest(files)) if files else None


def digest(files: dict[str, str]) -> str:
    """Return one digest of names and digests. Pure."""
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def refuse_lost(trail: Trail | None, copied: str | None) -> None:
    """Raise :class:`KtlsError` ``audit_not_copied`` unless the trail of now was copied."""
    if trail is not None and trail.digest != copied:
        message = "the audit trail of this host was not copied as it is now; nothing was removed: repeat"
        raise KtlsError("audit_not_copied", message)


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            found.update(block)
    return found.hexdigest()
