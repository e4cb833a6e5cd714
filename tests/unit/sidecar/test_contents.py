# SPDX-License-Identifier: Apache-2.0
"""Content in memory: it is given out only while the path leads to that very content, and it costs a bounded amount."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ktls_sidecar.web import contents
from ktls_sidecar.web.contents import DEEPEST, FRESH_S, LARGEST, REST_NS, Contents
from ktls_sidecar.web.files import OpenFile, RefusedError, open_below
from ktls_sidecar.web.settings import Settings
from ktls_sidecar.web.site import Site


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def rested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not rest, but where a test is about that."""
    monkeypatch.setattr(contents, "REST_NS", -(10**18))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "f").write_bytes(b"plain")
    (root / "d" / "f").write_bytes(b"inner")
    (root / "d" / "e" / "f").write_bytes(b"deep")
    return root


class Asker:
    """Asks a site, and says what was sent and whether it came from memory."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.site = Site(str(root), Settings(**settings))

    def __call__(self, target: bytes, **fields: str) -> tuple[bytes, bool] | int:
        """Return body and whether it was held before, or the status of a refusal."""
        key = target.split(b"?")[0]
        held = self.site._contents.find(key) is not None
        try:
            answer = self.site.answer("GET", target, {name.replace("_", "-"): text for name, text in fields.items()})
        except RefusedError as refusal:
            return refusal.status
        plan, file = answer
        if file is None:
            return plan.text, held
        try:
            if file.content is not None:
                return file.content[plan.offset : plan.offset + plan.length], held
            return os.pread(file.fd, plan.length, plan.offset), held
        finally:
            file.close()


def test_the_second_answer_comes_from_memory(root: Path) -> None:
    ask = Asker(root)
    for target, body in ((b"/f", b"plain"), (b"/d/f?x", b"inner"), (b"/d/e/f", b"deep")):
        assert ask(target) == (body, False)
        assert ask(target) == (body, True)
    assert ask(b"/f", range="bytes=1-2") == (b"la", True)
    assert ask(b"/f", range="bytes=0-0,2-2")[1] is True  # type: ignore[index]


def test_nothing_is_opened_for_what_is_held(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asker(root)
    ask(b"/d/f")

    def never(*_: object, **__: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", never)
    monkeypatch.setattr(os, "pread", never)
    assert ask(b"/d/f") == (b"inner", True)
    assert ask(b"/d/f", accept_encoding="identity") == (b"inner", True)


def _replace(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(b"other")
    os.replace(other, path)


def _rewrite_and_put_the_time_back(path: Path) -> None:
    before = path.stat()
    time.sleep(0.02)  # a tick of the clock of file systems
    path.write_bytes(b"Other"[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_replace, b"other"),
        (_rewrite_and_put_the_time_back, b"Other"),
        (lambda path: path.unlink(), 404),
        (lambda path: (path.unlink(), path.mkdir(), (path / "index.html").write_text("i")), b"301 "),
    ],
)
@pytest.mark.parametrize("target", [b"/f", b"/d/f"])
def test_a_change_is_seen_by_the_very_next_request(
    root: Path, change: Callable[[Path], Any], expected: bytes | int, target: bytes
) -> None:
    ask = Asker(root)
    assert ask(target)[1] is False  # type: ignore[index]
    assert ask(target)[1] is True  # type: ignore[index]
    change(root / target.decode().lstrip("/"))
    found = ask(target)
    assert found == expected if isinstance(found, int) else found[0].startswith(expected)  # type: ignore[arg-type]


def test_a_directory_that_moved_out_and_left_a_link_leads_nowhere(root: Path, tmp_path: Path) -> None:
    """Neither the file nor its times change, so only the names on the way can tell."""
    ask = Asker(root)
    for target in (b"/d/f", b"/d/e/f"):
        ask(target)
        assert ask(target)[1] is True  # type: ignore[index]
    shutil.move(root / "d", tmp_path / "outside")
    (root / "d").symlink_to(tmp_path / "outside")
    assert ask(b"/d/f") == 403
    assert ask(b"/d/e/f") == 403
    (root / "d").unlink()
    assert ask(b"/d/f") == 404


def test_a_file_that_moved_out_and_left_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    ask = Asker(root)
    ask(b"/f")
    os.rename(root / "f", tmp_path / "outside")
    (root / "f").symlink_to(tmp_path / "outside")
    assert ask(b"/f") == 403


def test_behind_a_link_nothing_is_held(root: Path) -> None:
    (root / "inside").symlink_to("d")
    (root / "alias").symlink_to("d/f")
    ask = Asker(root)
    for _ in range(3):
        assert ask(b"/inside/f") == (b"inner", False)
        assert ask(b"/alias") == (b"inner", False)


def test_a_root_that_is_a_link_is_switched_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    (tmp_path / "root").symlink_to("a")
    ask = Asker(tmp_path / "root")
    assert (ask(b"/f"), ask(b"/f")) == ((b"a", False), (b"a", True))
    (tmp_path / "next").symlink_to("b")
    os.replace(tmp_path / "next", tmp_path / "root")
    assert ask(b"/f") == (b"b", False)


def test_what_cannot_be_looked_at_is_not_given_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asker(root)
    ask(b"/d/f")

    def forbidden(path: bytes) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "lstat", forbidden)
    assert ask(b"/d/f") == (b"inner", False), "opened, as if it had never been held"


def test_a_sibling_that_appears_is_preferred(root: Path) -> None:
    ask = Asker(root)
    assert ask(b"/f", accept_encoding="gzip") == (b"plain", False)
    assert ask(b"/f", accept_encoding="gzip") == (b"plain", True)
    (root / "f.gz").write_bytes(b"zipped")
    assert ask(b"/f", accept_encoding="gzip") == (b"zipped", True)
    assert ask(b"/f") == (b"plain", True)


def keep(store: Contents[str], path: Path, key: bytes = b"k") -> bool:
    file = open_below(os.fsencode(path.parent), (os.fsencode(path.name),))
    assert file is not None
    try:
        return store.keep(key, "place", file, os.fsencode(path.parent), (os.fsencode(path.name),)) is not None
    finally:
        file.close()


def test_only_small_files_are_kept(tmp_path: Path) -> None:
    store: Contents[str] = Contents()
    for size, expected in ((0, False), (1, True), (LARGEST, True), (LARGEST + 1, False)):
        path = tmp_path / str(size)
        path.write_bytes(b"x" * size)
        assert keep(store, path, str(size).encode()) is expected
    assert store.size == 1 + LARGEST


def test_only_paths_of_few_names_are_kept(root: Path) -> None:
    deep = root.joinpath(*["s"] * DEEPEST)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"x")
    ask = Asker(root)
    target = b"/" + b"s/" * DEEPEST + b"f"
    assert (ask(target), ask(target)) == ((b"x", False), (b"x", False))


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the grain of its times it could be written again and look the same."""
    monkeypatch.setattr(contents, "REST_NS", REST_NS)
    path = tmp_path / "f"
    path.write_bytes(b"x")
    written = path.stat().st_ctime_ns
    for after, expected in ((0, False), (REST_NS - 1, False), (REST_NS, True), (-(10**12), False)):
        assert keep(Contents(wall_ns=lambda after=after: written + after), path) is expected  # type: ignore[misc]


def test_content_is_read_anew_now_and_then(tmp_path: Path) -> None:
    clock = Clock()
    store: Contents[str] = Contents(clock=clock)
    path = tmp_path / "f"
    path.write_bytes(b"x")
    assert keep(store, path)
    clock.now += FRESH_S - 0.1
    assert store.find(b"k") is not None
    clock.now += 0.2
    assert store.find(b"k") is None
    assert store.size == 0


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    real = os.pread

    def slow(fd: int, count: int, offset: int) -> bytes:
        data = real(fd, count, offset)
        time.sleep(0.02)
        path.write_bytes(b"y" * 100)
        return data

    monkeypatch.setattr(os, "pread", slow)
    assert not keep(Contents(), path)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    store: Contents[str] = Contents(limit=300)
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
        keep(store, tmp_path / name, name.encode())
    assert store.find(b"a") is not None
    (tmp_path / "d").write_bytes(b"x" * 150)
    keep(store, tmp_path / "d", b"d")
    assert [store.find(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, False, True]
    assert store.size == 250


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 120), st.booleans()), max_size=30))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_gives_what_is_there_and_counts_right(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, bool]]
) -> None:
    directory = tmp_path_factory.mktemp("any")
    store: Contents[str] = Contents(limit=250)
    for number, (name, size, replace) in enumerate(acts):
        path = directory / name
        if replace:
            new = directory / "new"
            new.write_bytes(bytes([number]) * size)
            os.replace(new, path)
        if path.exists():
            found = store.find(name.encode())
            if found is not None:
                assert found.file.content == path.read_bytes()
            else:
                keep(store, path, name.encode())
        assert store.size == sum(held.file.size for held in store._held.values()) <= 250


def test_a_held_file_may_be_closed_and_used_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    store: Contents[str] = Contents()
    assert keep(store, path)
    for _ in range(2):
        held = store.find(b"k")
        assert held is not None
        file: OpenFile = held.file
        assert (file.content, file.fd, file.changed()) == (b"x", -1, False)
        file.close()
