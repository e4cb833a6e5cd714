# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to a trail afterwards is found, and named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ktls_agent.audit_chain import Head, seal
from ktls_agent.audit_cli import line_of, since
from ktls_agent.audit_files import TamperedError, verify
from ktls_agent.audit_trail import AuditTrail
from ktls_agent.cli import main
from ktls_host.errors import KtlsError


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Two full files and a current one; the head is noted beside them."""
    directory = tmp_path / "audit"
    (tmp_path / "run").mkdir()
    written = AuditTrail(str(directory), str(tmp_path / "run"), max_bytes=2500)
    for number in range(25):
        written.record("order", id=f"o{number}", epoch=number)
    assert written.flush()
    written.close()
    assert len(verify(str(directory)).files) == 3
    return directory


def run(trail: Path, *arguments: str) -> int:
    anchor = str(trail.parent / "run/audit.head")
    return main(["audit", "verify", "--directory", str(trail), "--anchor", anchor, *arguments])


def names(trail: Path) -> list[str]:
    return [*sorted(name for name in os.listdir(trail) if name != "audit.jsonl"), "audit.jsonl"]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def edit(trail: Path) -> None:
    path = trail / names(trail)[1]
    found = lines(path)
    found[2] = found[2].replace(b'"order"', b'"clear"')
    path.write_bytes(b"".join(found))


def resealed(trail: Path) -> None:
    """An edit with a hash that fits: the next record does not."""
    path = trail / names(trail)[1]
    found = lines(path)
    record = json.loads(found[2])
    head, found[2] = seal(Head(record["seq"] - 1, record["prev"]), "clear", {}, record["at"], 1.0, "")
    assert head.seq == record["seq"]
    path.write_bytes(b"".join(found))


def delete(trail: Path) -> None:
    path = trail / names(trail)[0]
    found = lines(path)
    path.write_bytes(b"".join(found[:3] + found[4:]))


def reorder(trail: Path) -> None:
    path = trail / names(trail)[0]
    found = lines(path)
    found[2], found[3] = found[3], found[2]
    path.write_bytes(b"".join(found))


def cut_in_the_middle(trail: Path) -> None:
    path = trail / names(trail)[0]
    path.write_bytes(b"".join(lines(path)[:-1]))


def swap_files(trail: Path) -> None:
    first, second, _ = (trail / name for name in names(trail))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def first_file_gone(trail: Path) -> None:
    (trail / names(trail)[0]).unlink()


def middle_file_gone(trail: Path) -> None:
    (trail / names(trail)[1]).unlink()


def put_in(trail: Path) -> None:
    path = trail / names(trail)[0]
    found = lines(path)
    path.write_bytes(b"".join([*found[:2], found[1], *found[2:]]))


def respaced(trail: Path) -> None:
    path = trail / "audit.jsonl"
    found = lines(path)
    found[0] = json.dumps(json.loads(found[0])).encode() + b"\n"
    path.write_bytes(b"".join(found))


def another_trail(trail: Path) -> None:
    """All of it written anew, in order: only what was noted elsewhere tells."""
    shutil.rmtree(trail)
    written = AuditTrail(str(trail))
    written.record("order", id="as if nothing had been")
    assert written.flush()
    written.close()


def tail_gone(trail: Path) -> None:
    path = trail / "audit.jsonl"
    path.write_bytes(b"".join(lines(path)[:-1]))


def test_an_untouched_trail_is_whole(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trail) == 0
    assert "whole: records 1 to 25 in 3 files" in capsys.readouterr().out
    assert run(trail, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["seq"], said["anchored"], said["problem"]) == (True, 25, True, None)


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (edit, "line 3 was changed"),
        (resealed, "does not follow"),
        (delete, "is record 5 where record 4 belongs"),
        (reorder, "is record 4 where record 3 belongs"),
        (cut_in_the_middle, "line 1 is record"),
        (swap_files, "the name of the file says 1"),
        (first_file_gone, "nothing in it says why"),
        (middle_file_gone, "belongs"),
        (put_in, "is record 2 where record 3 belongs"),
        (respaced, "not in the form"),
        (another_trail, "cut off"),
        (tail_gone, "the end was cut off"),
    ],
)
def test_tampering_is_found_and_named(trail: Path, capsys: pytest.CaptureFixture[str], tamper: Any, said: str) -> None:
    tamper(trail)
    assert run(trail) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("NOT WHOLE: ")
    assert said in shown
    assert run(trail, "--json") == 1
    assert said in json.loads(capsys.readouterr().out)["problem"]


@given(st.data())
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_can_be_changed(trail: Path, data: st.DataObject) -> None:
    path = trail / data.draw(st.sampled_from(names(trail)))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(changed))
    try:
        with pytest.raises(TamperedError):
            verify(str(trail))
    finally:
        path.write_bytes(content)


def test_a_head_that_was_noted_elsewhere_must_be_in_it(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = verify(str(trail)).head.sha256
    (trail.parent / "run/audit.head").unlink()
    assert run(trail, "--head", head) == 0
    assert "not known" in capsys.readouterr().out
    tail_gone(trail)
    assert run(trail) == 0, "nothing in the trail itself can tell"
    assert run(trail, "--head", head.upper()) == 1
    assert "the end was cut off" in capsys.readouterr().out


def test_a_torn_end_is_told_apart(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (trail / "audit.jsonl").open("ab") as handle:
        handle.write(b'{"half')
    assert run(trail) == 1
    assert "TORN: audit.jsonl line" in capsys.readouterr().out


def test_no_trail_and_no_right_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, cure in ((tmp_path / "none", "ever run here"), (tmp_path / "file", "run as root")):
        (tmp_path / "file").touch()
        assert main(["audit", "verify", "--directory", str(path)]) == 1
        said = capsys.readouterr().err
        assert cure in said
        assert said.count("\n") == 1


def test_show_is_readable_and_can_begin_later(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "show", "--directory", str(trail)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 25
    assert shown[0].endswith("1  order        epoch=0 id=o0")
    assert main(["audit", "show", "--directory", str(trail), "--since", "2099-01-01"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["audit", "show", "--directory", str(trail), "--since", "1h", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["event"] == "order"
    edit(trail)
    assert main(["audit", "show", "--directory", str(trail)]) == 1
    assert "not whole" in capsys.readouterr().err


def test_times() -> None:
    assert since("", 100.0) == 0.0
    assert since("90m", 10_000.0) == 4600.0
    assert since("1970-01-02T00:00Z", 0.0) == 86400.0
    with pytest.raises(KtlsError, match="use 2026-03-01"):
        since("yesterday", 0.0)


def test_a_line_cannot_hide_in_another() -> None:
    record = {"at": 0.0, "seq": 1, "event": "off", "detail": {"reason": "x\n2026 fake \x1b[31m", "none": None}}
    assert line_of(record) == '1970-01-01 00:00:00Z       1  off          reason="x 2026 fake  [31m"'
