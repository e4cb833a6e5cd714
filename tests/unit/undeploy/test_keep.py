# SPDX-License-Identifier: Apache-2.0
"""The trail on the control node: exact, checked by the agent's own code, and nothing a host says leads elsewhere."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.audit_trail import AuditTrail
from ktls_control.errors import ControlError
from ktls_control.undeploy import keep
from ktls_control.undeploy.verb import lines
from ktls_host.undeploy import trail

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A real trail of some records, by the agent's own writer, below the root of a host."""
    directory = tmp_path / "host/var/lib/ktls/audit"
    directory.mkdir(parents=True)
    (tmp_path / "host/run/ktls-agent").mkdir(parents=True)
    writer = AuditTrail(str(directory), str(tmp_path / "host/run/ktls-agent"))
    for number in range(5):
        writer.record("order", number=number)
    assert writer.flush()
    writer.close()
    return tmp_path / "host"


def listing(root: Path) -> tuple[keep.Listing, dict[str, bytes], bytes]:
    found = trail.read(str(root))
    assert found is not None
    said = keep.Listing.of(json.loads(json.dumps(found.as_dict())))
    files = {name: (root / said.directory.lstrip("/") / name).read_bytes() for name in said.files}
    return said, files, (root / "run/ktls-agent/audit.head").read_bytes()


def kept(root: Path, place: Path, **options: Any) -> dict[str, Any]:
    said, files, anchor = listing(root)
    return keep.keep(place, said, files, anchor, keep.chain_checker(ROOT / "agent"), **options)


def test_copy_is_exact_private_and_whole(written: Path, tmp_path: Path) -> None:
    result = kept(written, tmp_path / "kept")
    copy = Path(result["path"])
    assert (result["whole"], result["files"]) == (True, 1)
    assert (copy / "audit.jsonl").read_bytes() == (written / "var/lib/ktls/audit/audit.jsonl").read_bytes()
    assert {stat.S_IMODE(path.stat().st_mode) for path in copy.iterdir()} == {0o600}
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert json.loads((copy / "kept.json").read_text())["digest"] == result["digest"]
    assert list((tmp_path / "kept").iterdir()) == [copy], "nothing half-made beside it"


def test_published_collection_checks_by_its_release(written: Path, tmp_path: Path) -> None:
    from tests.unit.release.conftest import build

    build.build(ROOT, tmp_path / "agent/ktls.pyz")
    said, files, anchor = listing(written)
    check = keep.chain_checker(tmp_path / "agent")
    assert keep.keep(tmp_path / "kept", said, files, anchor, check)["whole"] is True
    assert keep.chain_checker(tmp_path)(tmp_path, None) is not None, "without either nothing is said to be whole"


def test_altered_on_the_way(written: Path, tmp_path: Path) -> None:
    said, files, anchor = listing(written)
    files["audit.jsonl"] = files["audit.jsonl"].replace(b"3", b"4", 1)
    with pytest.raises(ControlError) as caught:
        keep.keep(tmp_path / "kept", said, files, anchor, keep.chain_checker(ROOT / "agent"))
    assert caught.value.code == "audit_not_copied"
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("damage", ["a record less", "the end cut off"])
def test_broken_chain_is_kept_and_refused(written: Path, tmp_path: Path, damage: str) -> None:
    path = written / "var/lib/ktls/audit/audit.jsonl"
    records = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(records[:-1] if damage == "the end cut off" else [*records[:1], *records[2:]]))
    with pytest.raises(ControlError) as caught:
        kept(written, tmp_path / "kept")
    assert caught.value.code == "audit_tampered"
    (copy,) = (tmp_path / "kept").iterdir()
    assert str(copy) in caught.value.message
    result = kept(written, tmp_path / "again", must_be_whole=False)
    assert result["whole"] is False
    assert result["problem"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", ".hidden", "kept.json", "a b"])
def test_names_that_lead_elsewhere(name: str) -> None:
    sha = hashlib.sha256(b"").hexdigest()
    with pytest.raises(ControlError) as caught:
        keep.Listing.of({"directory": "/x", "files": {name: sha}, "digest": keep.digest({name: sha})})
    assert caught.value.code == "audit_not_copied"


def test_full_disk_is_one_line(written: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the directory should be")
    with pytest.raises(ControlError) as caught:
        kept(written, tmp_path / "kept")
    assert caught.value.code == "audit_not_copied"


def test_both_sides_count_the_digest_alike() -> None:
    files = {"b": "2" * 64, "a": "1" * 64}
    assert keep.digest(files) == trail.digest(files)


def test_what_the_verb_shows() -> None:
    done = {
        "event": "ok", "host": "web1",
        "ktls_undeploy": {"steps": ["a: remove"], "left": ["/x: others"], "audit": {"path": "/kept"}},
    }  # fmt: skip
    assert lines(done) == ["web1: 1 steps; audit trail in /kept", "web1: stays: /x: others"]
    assert lines(done, check=True) == ["web1: a: remove", "web1: stays: /x: others"]
    nothing = {"event": "ok", "host": "web1", "ktls_undeploy": {"steps": [], "left": [], "audit": None}}
    assert lines(nothing) == ["web1: nothing of ours was here"]
    assert lines({"event": "ok", "host": "web1"}) == []
