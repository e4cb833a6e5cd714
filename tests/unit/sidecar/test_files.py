# SPDX-License-Identifier: Apache-2.0
"""Request targets: what opens, what is refused, and that nothing outside of the root ever opens."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktls_sidecar import seal
from ktls_sidecar.web import files
from ktls_sidecar.web.beneath import Opener
from ktls_sidecar.web.files import OpenFile, RefusedError, parse_target
from tests.unit.sidecar.support import open_target


@pytest.fixture(params=["openat2", "by name"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways through a tree, with one and the same result."""
    if request.param == "by name":
        monkeypatch.setattr(files._opener, "works", False)
    else:
        assert files._opener.works  # Linux 5.6


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with links that stay, links that leave, and a secret beside it."""
    base = tmp_path_factory.mktemp("tree")
    root = base / "root"
    (root / "a" / "b").mkdir(parents=True)
    (base / "secret").write_text("secret")
    (base / "root-sibling").mkdir()
    (base / "root-sibling" / "x").write_text("secret")
    (root / "f").write_text("f")
    (root / "a" / "index.html").write_text("index")
    (root / "a" / "b" / "g").write_text("g")
    (root / ".hidden").write_text("hidden")
    (root / "a" / ".git").mkdir()
    (root / "a" / ".git" / "config").write_text("hidden")
    (root / "inside").symlink_to("a/b/g")
    (root / "inside-absolute").symlink_to(root / "f")
    (root / "inside-dir").symlink_to("a/b")
    (root / "outside").symlink_to("../secret")
    (root / "outside-absolute").symlink_to(base / "secret")
    (root / "outside-dir").symlink_to("..")
    (root / "sibling").symlink_to(base / "root-sibling")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nothing")
    (root / "to-root").symlink_to(".")
    os.mkfifo(root / "fifo")
    return root


def read(root: Path, target: bytes) -> bytes:
    file = open_target(str(root), parse_target(target))
    try:
        return os.pread(file.fd, 100, 0)
    finally:
        file.close()


@pytest.mark.parametrize(
    ("target", "content"),
    [
        (b"/f", b"f"),
        (b"/f?x=/../..", b"f"),
        (b"/%66", b"f"),
        (b"//f", b"f"),
        (b"/a/b/g", b"g"),
        (b"/a", b"index"),
        (b"/a/", b"index"),
        (b"/inside", b"g"),
        (b"/inside-absolute", b"f"),
        (b"/inside-dir/g", b"g"),
        (b"/to-root/f", b"f"),
        (b"https://host/f", b"f"),
        (b"HTTPS://host:1/a/b/g?q", b"g"),
    ],
)
def test_opens(tree: Path, target: bytes, content: bytes) -> None:
    assert read(tree, target) == content


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/..", 400),
        (b"/../secret", 400),
        (b"/a/../../secret", 400),
        (b"/%2e%2e/secret", 400),
        (b"/.%2E/secret", 400),
        (b"/..%2fsecret", 400),
        (b"/%2e%2e%2fsecret", 400),
        (b"/a%2fb%2fg", 400),
        (b"/f%00", 400),
        (b"/f%00.html", 400),
        (b"/f%0a", 400),
        (b"/./f", 400),
        (b"/%", 400),
        (b"/%zz", 400),
        (b"/%2", 400),
        (b"/f#x", 400),
        (b"f", 400),
        (b"", 400),
        (b"*", 400),
        (b"http://host/f", 400),
        (b"https://host", 404),
        (b"/.hidden", 403),
        (b"/%2ehidden", 403),
        (b"/a/.git/config", 403),
        (b"/...", 403),
        (b"/outside", 403),
        (b"/outside-absolute", 403),
        (b"/outside-dir/secret", 403),
        (b"/sibling/x", 403),
        (b"/loop", 403),
        (b"/fifo", 403),
        (b"/dangling", 404),
        (b"/", 404),
        (b"/a/b", 404),
        (b"/f/", 404),
        (b"/f/x", 404),
        (b"/nothing", 404),
        # Decoded once only: these name files that are not there.
        (b"/%252e%252e/secret", 404),
        (b"/%252f", 404),
        (b"/..\\secret", 403),
        (b"/\xc0\xae\xc0\xae/secret", 404),
        (b"/" + b"x" * 300, 404),
    ],
)
def test_refuses(tree: Path, target: bytes, status: int) -> None:
    with pytest.raises(RefusedError) as caught:
        read(tree, target)
    assert caught.value.status == status


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60).map(lambda tail: b"/" + tail))
def test_segments_are_plain_names(target: bytes) -> None:
    try:
        segments = parse_target(target).segments
    except RefusedError as error:
        assert error.status in (400, 403)
        return
    for segment in segments:
        assert segment
        assert not segment.startswith(b".")
        assert not set(segment) & set(b"/\0")


PARTS = st.sampled_from(
    (
        b".. . a b f g x inside inside-dir outside outside-dir outside-absolute sibling to-root secret root loop ..; "
        b"%2e%2e ..%2f.. %2f %00 "
    ).split(b" ")
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PARTS, max_size=8))
def test_whatever_opens_lies_inside(tree: Path, parts: list[bytes]) -> None:
    try:
        file = open_target(str(tree), parse_target(b"/" + b"/".join(parts)))
    except RefusedError:
        return
    try:
        real = os.readlink(f"/proc/self/fd/{file.fd}")
    finally:
        file.close()
    assert real.startswith(f"{tree}/")


def test_no_descriptor_is_left_behind(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for target in (b"/outside-dir/secret", b"/a/b", b"/fifo", b"/f/x", b"/loop", b"/nothing", b"/inside-dir/g"):
        with contextlib.suppress(RefusedError):
            open_target(str(tree), parse_target(target)).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_root_that_is_a_link_may_be_switched(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    root = tmp_path / "current"
    root.symlink_to("one")
    assert read(root, b"/f") == b"one"
    root.unlink()
    root.symlink_to("two")
    assert read(root, b"/f") == b"two"


def test_etag_tells_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    first = open_target(str(tmp_path), parse_target(b"/f"))
    os.utime(path, ns=(1, 1))
    second = open_target(str(tmp_path), parse_target(b"/f"))
    assert first.changed()
    assert not second.changed()
    assert first.etag != second.etag
    first.close()
    second.close()
    second.close()


# --- changed while it is open --------------------------------------------------------------------------------

CONTENT = "content"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_text(CONTENT)
    time.sleep(0.02)  # the next change gets another time, however coarse the clock of the file system
    return path


@pytest.fixture
def file(path: Path) -> Iterator[OpenFile]:
    file = open_target(str(path.parent), parse_target(b"/f"))
    assert not file.changed()
    yield file
    assert os.pread(file.fd, 100, 0)
    file.close()


def put_back(path: Path, file: OpenFile) -> None:
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))


def rewrite(path: Path, file: OpenFile) -> None:
    path.write_text(CONTENT.upper())
    put_back(path, file)
    assert path.stat().st_mtime_ns == file.mtime_ns
    assert path.stat().st_size == file.size


def append(path: Path, file: OpenFile) -> None:
    with path.open("a") as stream:
        stream.write("x")
    put_back(path, file)


def cut(path: Path, file: OpenFile) -> None:
    os.truncate(path, 3)


def touch(path: Path, file: OpenFile) -> None:
    os.utime(path, (1, 1))


def rewrite_same_content_size(path: Path, file: OpenFile) -> None:
    path.write_text(CONTENT.upper())


@pytest.mark.parametrize("event", [rewrite, append, cut, touch, rewrite_same_content_size])
def test_content_that_changes(path: Path, file: OpenFile, event: Callable[[Path, OpenFile], None]) -> None:
    event(path, file)
    assert file.changed()
    assert file.changed()


def replace(path: Path, file: OpenFile) -> None:
    new = path.with_name("new")
    new.write_text("another")
    os.rename(new, path)


def unlink(path: Path, file: OpenFile) -> None:
    path.unlink()


def link(path: Path, file: OpenFile) -> None:
    os.link(path, path.with_name("second"))


def move(path: Path, file: OpenFile) -> None:
    os.rename(path, path.with_name("old"))


def move_and_replace(path: Path, file: OpenFile) -> None:
    move(path, file)
    path.write_text("another")


def move_the_directory(path: Path, file: OpenFile) -> None:
    os.rename(path.parent, path.parent.with_name("moved"))
    os.rename(path.parent.with_name("moved"), path.parent)


def mode(path: Path, file: OpenFile) -> None:
    os.chmod(path, 0o400)


INNOCENT = [replace, unlink, link, move, move_and_replace, move_the_directory, mode]


@pytest.mark.parametrize("event", INNOCENT)
def test_events_that_leave_the_content(path: Path, file: OpenFile, event: Callable[[Path, OpenFile], None]) -> None:
    event(path, file)
    assert not file.changed()
    assert not file.changed()


@pytest.mark.parametrize("event", [link, mode])
def test_a_change_after_an_innocent_event(path: Path, file: OpenFile, event: Callable[[Path, OpenFile], None]) -> None:
    event(path, file)
    assert not file.changed()
    time.sleep(0.02)
    os.chmod(path, 0o600)
    assert not file.changed()
    time.sleep(0.02)
    rewrite(path, file)
    assert file.changed()


def test_a_change_after_a_move(path: Path, file: OpenFile) -> None:
    move(path, file)
    assert not file.changed()
    time.sleep(0.02)
    rewrite(path.with_name("old"), file)
    assert file.changed()


@pytest.mark.parametrize(("before", "after", "changed"), [("", "", True), ("", "x", False), ("x", "", False)])
def test_a_seal_that_comes_or_goes_explains_the_change_time(
    path: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch, before: str, after: str, changed: bool
) -> None:
    monkeypatch.setattr(seal, "reason", lambda fd: before)
    assert file.seal() == before
    monkeypatch.setattr(seal, "reason", lambda fd: after)
    assert file.seal() == before  # asked once
    os.utime(path, ns=(0, file.mtime_ns))  # moves nothing but the change time
    assert file.changed() is changed


# --- openat2 -------------------------------------------------------------------------------------------------


def test_openat2(tree: Path) -> None:
    opener = Opener(files.FILE_FLAGS)
    root = os.open(tree, os.O_PATH)
    try:
        fd = opener.open(root, b"a/b/g")
        assert fd is not None
        assert os.read(fd, 9) == b"g"
        assert not os.get_inheritable(fd)
        os.close(fd)
        for path, code in (
            (b"inside-dir/g", errno.ELOOP),
            (b"inside", errno.ELOOP),
            (b"outside-dir/secret", errno.ELOOP),
            (b"../secret", errno.EXDEV),
            (b"/etc/passwd", errno.EXDEV),
            (b"f/x", errno.ENOTDIR),
            (b"nothing/x", errno.ENOENT),
        ):
            with pytest.raises(OSError) as caught:
                opener.open(root, path)
            assert caught.value.errno == code
    finally:
        os.close(root)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_host_without_openat2(tree: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("ctypes.get_errno", lambda: code)
    opener = Opener(files.FILE_FLAGS)
    opener._call = lambda *arguments: -1  # type: ignore[assignment]
    assert not opener._probe()
    opener.works = True
    monkeypatch.setattr(files, "_opener", opener)
    assert read(tree, b"/a/b/g") == b"g"
