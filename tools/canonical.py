# SPDX-License-Identifier: Apache-2.0
"""Archives that are the same bytes for the same content: sorted, one time, plain modes, nothing compressed.

Compression is left out because the deflate of one zlib is not that of another.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

#: 1980-01-01, the oldest time that a zip member can have. No time is content.
OLDEST = 315532800
_BLOCK = 65535  # the longest stored block, RFC 1951 section 3.2.4


class CanonicalError(Exception):
    """This is not an archive of that kind; the message is one line with the cure."""


def collection(built: Path, when: int = OLDEST) -> bytes:
    """Return the archive of a collection as ansible-galaxy built it, in canonical form.

    ``ansible-galaxy`` lists files in the order of the directory: the list is sorted, and its hash in the manifest set
    right. ``when`` is in Unix seconds.

    :raises CanonicalError: it is not an archive of a collection.
    """
    try:
        with tarfile.open(built) as archive:
            members = {member.name: (member, _content(archive, member)) for member in archive}
        files = json.loads(members["FILES.json"][1])
        manifest = json.loads(members["MANIFEST.json"][1])
        files["files"].sort(key=lambda entry: str(entry["name"]))
        listed = _json(files)
        manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(listed).hexdigest()
    except (OSError, tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise CanonicalError(f"{built} is not the archive of a collection ({error}): build it anew") from error
    own = {"MANIFEST.json": _json(manifest), "FILES.json": listed}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in [*own, *sorted(name for name in members if name not in own)]:
            member, content = members[name]
            info = tarfile.TarInfo(name)
            info.type, info.mtime = (tarfile.DIRTYPE if member.isdir() else tarfile.REGTYPE), when
            info.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            content = own.get(name, content)
            info.size = 0 if member.isdir() else len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzipped(buffer.getvalue(), when)


def wheel(built: Path, when: int) -> bytes:
    """Return a wheel in canonical form; its RECORD is sorted, and last. ``when`` is in Unix seconds.

    :raises CanonicalError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(built) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        (record,) = (name for name in members if name.endswith(".dist-info/RECORD"))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise CanonicalError(f"{built} is no wheel ({error}): build it anew") from error
    members[record] = b"".join(sorted(members[record].splitlines(keepends=True)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members, key=lambda name: (name == record, ".dist-info/" in name, name)):
            info = zipfile.ZipInfo(name, time.gmtime(when)[:6])
            info.create_system = 3  # Unix, wherever it was built
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def gzipped(content: bytes, when: int) -> bytes:
    """Return ``content`` as a gzip file (RFC 1952) of stored blocks."""
    out = [b"\x1f\x8b\x08\x00", struct.pack("<L", when & 0xFFFFFFFF), b"\x00\x03"]
    blocks = [content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK)] or [b""]
    for number, block in enumerate(blocks, 1):
        out.append(struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF) + block)
    out.append(struct.pack("<LL", zlib.crc32(content), len(content) & 0xFFFFFFFF))
    return b"".join(out)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.isdir():
        return b""
    stream = archive.extractfile(member) if member.isfile() else None
    if stream is None:
        raise ValueError(f"{member.name} is neither a file nor a directory")
    return stream.read()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
