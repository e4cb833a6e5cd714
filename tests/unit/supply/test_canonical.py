# SPDX-License-Identifier: Apache-2.0
"""The same content is the same bytes, whatever order, time, owner or compression it came with."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import canonical

FILES = {"README.md": b"text\n" * 50_000, "plugins/a.py": b"#!/usr/bin/python\n", "plugins/empty": b""}


def collection(path: Path, *, backwards: bool, mtime: int, mode: int, uid: int) -> Path:
    """An archive as ansible-galaxy makes it: its own order, the tree's times and modes."""
    names = sorted(FILES, reverse=backwards)
    entries = [{"name": ".", "ftype": "dir"}, *({"name": name, "ftype": "file"} for name in names)]
    listed = json.dumps({"files": entries, "format": 1}, indent=True).encode()
    manifest = {"file_manifest_file": {"name": "FILES.json", "chksum_sha256": hashlib.sha256(listed).hexdigest()}}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in [
            ("MANIFEST.json", json.dumps(manifest).encode()), ("FILES.json", listed), ("plugins", None),
            *((name, FILES[name]) for name in names),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.mtime, info.mode, info.uid, info.uname = mtime, mode, uid, f"u{uid}"
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return path


def test_collection(tmp_path: Path) -> None:
    one = canonical.collection(collection(tmp_path / "1", backwards=False, mtime=1, mode=0o600, uid=0))
    two = canonical.collection(collection(tmp_path / "2", backwards=True, mtime=9**9, mode=0o664, uid=7))
    assert one == two
    (tmp_path / "c.tar.gz").write_bytes(one)
    with tarfile.open(tmp_path / "c.tar.gz") as archive:
        members = {member.name: member for member in archive}
        contents = {name: archive.extractfile(name).read() for name in members if members[name].isfile()}  # type: ignore[union-attr]
    assert list(members)[:2] == ["MANIFEST.json", "FILES.json"]
    assert {name: contents[name] for name in FILES} == FILES
    listed = json.loads(contents["MANIFEST.json"])["file_manifest_file"]["chksum_sha256"]
    assert listed == hashlib.sha256(contents["FILES.json"]).hexdigest(), "ansible-galaxy checks it"
    assert {(m.uid, m.uname, m.mtime, m.mode & 0o777) for m in members.values() if m.isfile()} == {
        (0, "", canonical.OLDEST, 0o644)
    }


def test_other_content_is_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = canonical.collection(collection(tmp_path / "1", backwards=False, mtime=1, mode=0o644, uid=0))
    monkeypatch.setitem(FILES, "plugins/a.py", b"#!/usr/bin/pythoN\n")
    assert canonical.collection(collection(tmp_path / "1", backwards=False, mtime=1, mode=0o644, uid=0)) != one


def test_wheel(tmp_path: Path) -> None:
    def wheel(path: Path, order: int, date: tuple[int, int, int, int, int, int], compression: int) -> Path:
        members = [("a.py", b"x = 1\n"), ("b-1.dist-info/METADATA", b"Name: b\n"), ("b-1.dist-info/RECORD", b"")]
        record = [b"b-1.dist-info/METADATA,,\n", b"a.py,,\n"][::order]
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members[::order]:
                archive.writestr(zipfile.ZipInfo(name, date), content or b"".join(record), compression)
        return path

    one = canonical.wheel(wheel(tmp_path / "1.whl", 1, (1999, 1, 1, 0, 0, 0), zipfile.ZIP_DEFLATED), 10**9)
    two = canonical.wheel(wheel(tmp_path / "2.whl", -1, (2020, 5, 5, 5, 5, 4), zipfile.ZIP_STORED), 10**9)
    assert one == two
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert archive.namelist()[-1] == "b-1.dist-info/RECORD"
        assert archive.testzip() is None
        assert archive.getinfo("a.py").date_time == (2001, 9, 9, 1, 46, 40)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 200_000])
def test_stored_gzip_is_gzip(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    packed = canonical.gzipped(content[:size], 10**9)
    assert gzip.decompress(packed) == content[:size]
    assert packed[4:8] == (10**9).to_bytes(4, "little")


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing of that kind")
    for work in (canonical.collection, lambda path: canonical.wheel(path, 0)):
        with pytest.raises(canonical.CanonicalError):
            work(tmp_path / "x")
