# SPDX-License-Identifier: Apache-2.0
"""The served tree as a whole: from a request to status, header lines and bytes, on real files."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import os
import time
from collections.abc import Mapping
from email.message import Message
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktls_sidecar.web.files import RefusedError
from ktls_sidecar.web.respond import Plan
from ktls_sidecar.web.settings import Settings
from ktls_sidecar.web.site import Site


class Response:
    """An answer, sent to nobody."""

    def __init__(self, plan: Plan, body: bytes) -> None:
        self.plan = plan
        self.status = plan.status
        self.body = body
        self.headers = {name.lower(): value for name, value in plan.headers}
        assert len(self.headers) == len(plan.headers)  # nothing twice
        assert plan.head.endswith(b"\r\n")
        assert b"\r\n\r\n" not in plan.head


def ask(site: Site, target: bytes, fields: Mapping[str, str] | None = None, method: str = "GET") -> Response:
    """Answer as a server would, and close the file."""
    answer = site.answer(method, target, fields or {})
    plan, file = answer
    try:
        body = plan.text
        if method == "GET" and file is not None:
            body = os.pread(file.fd, plan.length, plan.offset)
            for part in plan.parts:
                body += part.prefix + os.pread(file.fd, part.length, part.offset)
        response = Response(plan, body)
        if method == "GET" and plan.status != 304:
            assert response.headers["content-length"] == str(len(body)) == str(plan.body_length)
    finally:
        if file is not None:
            file.close()
    return response


def refusal(site: Site, target: bytes) -> int:
    with pytest.raises(RefusedError) as caught:
        ask(site, target)
    return caught.value.status


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "f.txt").write_bytes(bytes(range(48, 58)) * 10)
    (root / "docs" / "index.html").write_text("index")
    (root / "docs" / "deep").mkdir()
    (root / "docs" / "deep" / "g").write_text("g")
    return root


@pytest.fixture
def site(root: Path) -> Site:
    return Site(str(root), Settings())


def test_the_same_answer_when_the_file_is_known(site: Site) -> None:
    for target in (b"/f.txt", b"/docs/", b"/docs/deep/g", b"/f.txt?x"):
        first, second = ask(site, target), ask(site, target)
        assert first.status == 200
        assert (first.plan.head, first.body) == (second.plan.head, second.body)


def test_plain(site: Site) -> None:
    response = ask(site, b"/f.txt")
    assert response.body == b"0123456789" * 10
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"].startswith('"')
    assert response.headers["vary"] == "Accept-Encoding"
    assert "cache-control" not in response.headers


def test_head_has_the_header_of_get_and_no_file(site: Site) -> None:
    for _ in range(2):
        answer = site.answer("HEAD", b"/f.txt", {"range": "bytes=0-1"})
        assert answer.file is None
        assert answer.plan.head == ask(site, b"/f.txt").plan.head


@pytest.mark.parametrize("method", ["POST", "DELETE", "get", ""])
def test_other_methods(site: Site, method: str) -> None:
    ask(site, b"/f.txt")
    for target in (b"/f.txt", b"/nothing"):
        with pytest.raises(RefusedError) as caught:
            site.answer(method, target, {})
        assert caught.value.status == 405


# --- what is kept between requests ---------------------------------------------------------------------------


def test_changes_are_seen_at_the_next_request(site: Site, root: Path) -> None:
    path = root / "f.txt"
    before = ask(site, b"/f.txt")
    path.write_text("rewritten")
    assert ask(site, b"/f.txt").body == b"rewritten"
    (root / "new").write_text("replaced")
    os.rename(root / "new", path)
    replaced = ask(site, b"/f.txt")
    assert replaced.body == b"replaced"
    assert replaced.headers["etag"] != before.headers["etag"]
    path.unlink()
    assert refusal(site, b"/f.txt") == 404
    path.mkdir()
    assert refusal(site, b"/f.txt") == 404
    path.rmdir()
    path.symlink_to("/etc/passwd")
    assert refusal(site, b"/f.txt") == 403
    path.unlink()
    path.symlink_to("docs/deep/g")
    assert ask(site, b"/f.txt").body == b"g"
    path.unlink()
    os.mkfifo(path)
    assert refusal(site, b"/f.txt") == 403


def test_a_directory_on_the_way_that_becomes_a_link_out(site: Site, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "g").write_text("secret")
    assert ask(site, b"/docs/deep/g").body == b"g"
    os.rename(root / "docs" / "deep", root / "old")
    (root / "docs" / "deep").symlink_to(outside)
    assert refusal(site, b"/docs/deep/g") == 403


def test_a_root_that_is_a_link_is_switched_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "f").write_text(name)
        (tmp_path / name / "d" / "f").write_text(name)
    current = tmp_path / "current"
    current.symlink_to("one")
    site = Site(str(current), Settings())
    for target in (b"/f", b"/d/f"):
        assert ask(site, target).body == b"one"
    (tmp_path / "next").symlink_to("two")
    os.rename(tmp_path / "next", current)
    for target in (b"/f", b"/d/f"):
        assert ask(site, target).body == b"two"


def test_the_etag_tells_rewritten_content_with_the_time_put_back(site: Site, root: Path) -> None:
    path = root / "f.txt"
    before, status = ask(site, b"/f.txt"), path.stat()
    time.sleep(0.02)  # the clock of the file system ticks
    path.write_bytes(b"X" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = ask(site, b"/f.txt")
    assert after.headers["last-modified"] == before.headers["last-modified"]
    assert after.headers["etag"] != before.headers["etag"]
    resumed = ask(site, b"/f.txt", {"range": "bytes=50-", "if-range": before.headers["etag"]})
    assert resumed.status == 200


def test_the_authority_is_not_mistaken_for_a_path(site: Site) -> None:
    assert refusal(site, b"https://host?x/f.txt") == 404  # the root, which has no index
    assert refusal(site, b"https://host") == 404
    assert ask(site, b"https://host/f.txt?y").status == 200


def test_memory_is_bounded(site: Site, root: Path) -> None:
    for number in range(5000):
        ask(site, b"/f.txt?%d" % number)
        ask(site, b"https://h%d/f.txt" % number)
        with contextlib.suppress(RefusedError):
            ask(site, b"/missing%d" % number)
    assert len(site._places) <= 4096


def test_no_descriptor_is_left_behind(root: Path) -> None:
    (root / "f.txt.gz").write_text("gz")
    (root / "h").write_text("h")
    site = Site(str(root), Settings(autoindex=True))
    before = len(os.listdir("/proc/self/fd"))
    fields: tuple[dict[str, str], ...] = (
        {},
        {"accept-encoding": "gzip"},
        {"accept-encoding": "identity;q=0"},
        {"range": "bytes=0-1,3-4"},
        {"range": "bytes=900-"},
        {"if-none-match": "*"},
        {"if-match": '"x"'},
    )
    for target in (b"/f.txt", b"/h", b"/docs", b"/docs/", b"/empty", b"/empty/", b"/nothing", b"/docs/deep/g", b"/"):
        for one in fields:
            for method in ("GET", "HEAD"):
                os.utime(root / "f.txt")
                with contextlib.suppress(RefusedError):
                    ask(site, target, one, method)
                    ask(site, target, one, method)
    assert len(os.listdir("/proc/self/fd")) == before


# --- Cache-Control and types ---------------------------------------------------------------------------------


def test_cache_control_by_pattern(root: Path) -> None:
    rules = (("docs/index.html", "no-cache"), ("docs/*", "max-age=60"), ("*.txt", "max-age=31536000, immutable"))
    site = Site(str(root), Settings(cache_control=rules))
    assert ask(site, b"/docs/").headers["cache-control"] == "no-cache"
    assert ask(site, b"/docs/deep/g").headers["cache-control"] == "max-age=60"
    response = ask(site, b"/f.txt")
    assert response.headers["cache-control"] == "max-age=31536000, immutable"
    again = ask(site, b"/f.txt", {"if-none-match": response.headers["etag"]})
    assert again.status == 304
    for name in ("cache-control", "etag", "vary"):
        assert again.headers[name] == response.headers[name]
    assert "content-length" not in again.headers
    assert ask(site, b"/f.txt", {"range": "bytes=0-1"}).headers["cache-control"] == "max-age=31536000, immutable"
    # An error is not kept by the rule of the file.
    assert "cache-control" not in ask(site, b"/f.txt", {"range": "bytes=1000-"}).headers
    assert "cache-control" not in ask(site, b"/f.txt", {"if-match": '"x"'}).headers


def test_types_of_the_settings_win(root: Path) -> None:
    site = Site(str(root), Settings(types={".txt": "text/x-mine"}))
    assert ask(site, b"/f.txt").headers["content-type"] == "text/x-mine"


# --- precompressed siblings ----------------------------------------------------------------------------------


@pytest.fixture
def coded(root: Path) -> Path:
    for name, content in (("a.js", "plain"), ("a.js.gz", "gzip"), ("a.js.br", "brotli"), ("a.js.zst", "zstd")):
        (root / name).write_text(content)
        os.utime(root / name, (1000, 1000))
    return root


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, zstd", "zstd"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("gzip;q=0.5,br;q=0.5", "br"),
        ("br;q=0, *", "zstd"),
        ("*", "br"),
        ("identity", None),
        ("", None),
        ("deflate", None),
        ("br;q=0.5, identity", None),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("*;q=0, gzip", "gzip"),
        ("gzip;q=2", None),
        ("gzip;q=0.0001", None),
        ("gzip;level=9", None),
    ],
)
def test_coding(coded: Path, accepted: str, coding: str | None) -> None:
    site = Site(str(coded), Settings())
    for _ in range(2):
        response = ask(site, b"/a.js", {"accept-encoding": accepted})
        assert response.headers.get("content-encoding") == coding
        names = {None: b"plain", "gzip": b"gzip", "br": b"brotli", "zstd": b"zstd"}
        assert response.body == names[coding]
        assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        assert response.headers["vary"] == "Accept-Encoding"


def test_nothing_is_acceptable(site: Site, coded: Path) -> None:
    for accepted in ("identity;q=0", "*;q=0", "identity;q=0, gzip"):
        response = ask(site, b"/f.txt", {"accept-encoding": accepted})
        assert response.status == 406
        assert response.headers["vary"] == "Accept-Encoding"
    assert ask(site, b"/a.js", {"accept-encoding": "identity;q=0, gzip"}).body == b"gzip"


def test_every_coding_has_its_own_validators(site: Site, coded: Path) -> None:
    tags = {}
    for accepted in ("identity", "br", "zstd", "gzip"):
        tags[accepted] = ask(site, b"/a.js", {"accept-encoding": accepted}).headers["etag"]
    assert len(set(tags.values())) == 4
    for accepted, tag in tags.items():
        for other in tags:
            fields = {"accept-encoding": other, "if-none-match": tag}
            assert ask(site, b"/a.js", fields).status == (304 if other == accepted else 200)


def test_a_hard_link_as_sibling_has_a_tag_of_its_own(site: Site, root: Path) -> None:
    os.link(root / "f.txt", root / "f.txt.gz")
    assert ask(site, b"/f.txt").headers["etag"] != ask(site, b"/f.txt", {"accept-encoding": "gzip"}).headers["etag"]


def test_ranges_are_of_the_encoded_bytes(site: Site, coded: Path) -> None:
    response = ask(site, b"/a.js", {"accept-encoding": "br", "range": "bytes=0-2"})
    assert (response.status, response.body) == (206, b"bro")
    assert response.headers["content-range"] == "bytes 0-2/6"
    assert response.headers["content-encoding"] == "br"
    several = ask(site, b"/a.js", {"accept-encoding": "br", "range": "bytes=0-0,2-2"})
    assert (several.status, several.body) == (200, b"brotli")


def test_an_outdated_sibling_is_not_used(site: Site, coded: Path) -> None:
    os.utime(coded / "a.js", (1000, 1000.5))
    assert ask(site, b"/a.js", {"accept-encoding": "br"}).body == b"plain"
    os.utime(coded / "a.js.br", (1000, 1001))
    assert ask(site, b"/a.js", {"accept-encoding": "br"}).body == b"brotli"


def test_a_sibling_obeys_the_refusals(site: Site, root: Path) -> None:
    (root.parent / "secret").write_text("secret")
    (root / "f.txt.br").symlink_to("../secret")
    os.mkfifo(root / "f.txt.zst")
    (root / "f.txt.gz").mkdir()
    response = ask(site, b"/f.txt", {"accept-encoding": "gzip, br, zstd"})
    assert "content-encoding" not in response.headers
    assert response.body == b"0123456789" * 10
    (root / "f.txt.gz").rmdir()
    (root / "f.txt.gz").symlink_to("docs/deep/g")
    assert ask(site, b"/f.txt", {"accept-encoding": "gzip"}).body == b"g"
    (root / ".gz").write_text("hidden")
    assert refusal(site, b"/") == 404


def test_siblings_come_and_go(site: Site, coded: Path) -> None:
    fields = {"accept-encoding": "gzip"}
    assert ask(site, b"/a.js", fields).body == b"gzip"
    (coded / "a.js.gz").write_text("changed")
    assert ask(site, b"/a.js", fields).body == b"changed"
    (coded / "a.js.gz").unlink()
    assert ask(site, b"/a.js", fields).body == b"plain"


def test_of_what_is_compressed_there_is_no_sibling(site: Site, coded: Path) -> None:
    (coded / "a.js.gz.gz").write_text("twice")
    response = ask(site, b"/a.js.gz", {"accept-encoding": "gzip"})
    assert response.body == b"gzip"
    assert response.headers["content-type"] == "application/gzip"
    assert "vary" not in response.headers
    assert "content-encoding" not in response.headers


def test_precompressed_off(coded: Path) -> None:
    response = ask(Site(str(coded), Settings(precompressed=False)), b"/a.js", {"accept-encoding": "br"})
    assert response.body == b"plain"
    assert "vary" not in response.headers


def test_without_accept_encoding_nobody_looks_for_siblings(
    site: Site, coded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []

    def access(path: object, mode: int) -> bool:
        looked.append(path)
        return False

    monkeypatch.setattr(os, "access", access)
    ask(site, b"/a.js")
    ask(site, b"/a.js")
    assert looked == []
    ask(site, b"/a.js", {"accept-encoding": "br"})
    assert len(looked) == 1


# --- several ranges ------------------------------------------------------------------------------------------


def parts(response: Response) -> list[tuple[str, bytes]]:
    """Content-Range and body of each part, as an independent parser sees them."""
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + response.body)
    found = []
    for part in message.iter_parts():
        assert isinstance(part, Message)
        assert (part.get_content_type(), part.get_content_charset()) == ("text/plain", "utf-8")
        body = part.get_payload(decode=True)
        assert isinstance(body, bytes)
        found.append((str(part["content-range"]), body))
    return found


def test_several_ranges(site: Site) -> None:
    response = ask(site, b"/f.txt", {"range": "bytes=90-,0-1, 5-5"})
    assert response.status == 206
    assert "content-range" not in response.headers
    assert parts(response) == [
        ("bytes 90-99/100", b"0123456789"),
        ("bytes 0-1/100", b"01"),
        ("bytes 5-5/100", b"5"),
    ]


@pytest.mark.parametrize("field", ["bytes=0-5,3-9", "bytes=3-9, 0-5,4-4", "bytes=0-9,500-600", "bytes=0-9,,"])
def test_ranges_that_are_one(site: Site, field: str) -> None:
    response = ask(site, b"/f.txt", {"range": field})
    assert response.status == 206
    assert response.headers["content-range"] == "bytes 0-9/100"
    assert response.body == b"0123456789"


@pytest.mark.parametrize(
    "field", ["bytes=" + ",".join(f"{n}-{n}" for n in range(0, 66, 2)), "bytes=0-1,x", "bytes=0-1,9-8", "bytes=,"]
)
def test_ranges_that_are_ignored(site: Site, field: str) -> None:
    assert ask(site, b"/f.txt", {"range": field}).status == 200


def test_ranges_outside(site: Site) -> None:
    response = ask(site, b"/f.txt", {"range": "bytes=100-,200-300"})
    assert response.status == 416
    assert response.headers["content-range"] == "bytes */100"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 120), st.integers(0, 120)).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}"),
        min_size=1,
        max_size=10,
    )
)
def test_any_ranges_give_exactly_those_bytes(site: Site, specs: list[str]) -> None:
    content = b"0123456789" * 10
    response = ask(site, b"/f.txt", {"range": "bytes=" + ",".join(specs)})
    wanted: set[int] = set()
    for spec in specs:
        first, last = map(int, spec.split("-"))
        wanted.update(range(first, min(last, 99) + 1))
    if not wanted:
        assert response.status == 416
        return
    multiple = response.headers["content-type"].startswith("multipart/")
    found = parts(response) if multiple else [(response.headers["content-range"], response.body)]
    sent: list[int] = []
    for label, body in found:
        first, last = map(int, label.split(" ")[1].split("/")[0].split("-"))
        assert content[first : last + 1] == body
        sent.extend(range(first, last + 1))
    assert len(sent) == len(set(sent))
    assert set(sent) == wanted
    assert multiple == (len(found) > 1)


# --- directories ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"/docs", "/docs/"),
        (b"/docs?a=b&c", "/docs/?a=b&c"),
        (b"/docs?", "/docs/?"),
        (b"//docs", "/docs/"),
        (b"///docs?//x", "/docs/?//x"),
        (b"/%64ocs?%0d%0a", "/docs/?%0d%0a"),
        (b"/docs?\r\nX: y\xff", "/docs/?%0D%0AX:%20y%FF"),
        (b"https://host/docs", "/docs/"),
    ],
)
def test_redirect_to_the_slash(site: Site, target: bytes, location: str) -> None:
    response = ask(site, target)
    assert response.status == 301
    assert response.headers["location"] == location


def test_redirect_escapes_names(root: Path) -> None:
    (root / "a b?\xff%:").mkdir()
    site = Site(str(root), Settings(autoindex=True))
    assert ask(site, b"/a%20b%3f%c3%bf%25:").headers["location"] == "/a%20b%3F%C3%BF%25%3A/"


def test_no_listing_unless_asked_for(site: Site) -> None:
    for target in (b"/", b"/empty", b"/empty/"):
        assert refusal(site, target) == 404


def test_listing(root: Path) -> None:
    (root / ".hidden").write_text("x")
    (root / "<b>&'\".html").write_text("x")
    (root / "a:b").write_text("x")
    (root / "two\nlines").write_text("x")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/etc/passwd")
    os.close(os.open(os.fsencode(root) + b"/\xff", os.O_CREAT))
    site = Site(str(root), Settings(autoindex=True))
    response = ask(site, b"/")
    text = response.body.decode()
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    hrefs = [piece.split('"')[0] for piece in text.split('href="')[1:]]
    assert hrefs == ["%3Cb%3E&amp;&#x27;%22.html", "a%3Ab", "docs/", "empty/", "f.txt", "link", "%FF"]
    assert "<b>" not in text
    for gone in ("hidden", "fifo", "lines", "../"):
        assert gone not in text
    assert '<a href="../">' in ask(site, b"/empty/").body.decode()
    assert ask(site, b"/docs/").body == b"index"
    assert ask(site, b"/empty").headers["location"] == "/empty/"
    assert ask(site, b"/", method="HEAD").plan.head == response.plan.head
    assert refusal(site, b"/link") == 403
    for missing in (b"/nothing/", b"/f.txt/", b"/nothing"):
        assert refusal(site, missing) == 404


def test_listing_does_not_follow_links_out(root: Path) -> None:
    (root / "out").symlink_to(root.parent)
    (root / "in").symlink_to("empty")
    (root / "self").symlink_to(".")
    site = Site(str(root), Settings(autoindex=True))
    assert refusal(site, b"/out") == 403
    assert refusal(site, b"/out/") == 403
    assert ask(site, b"/in/").status == 200
    assert b"f.txt" in ask(site, b"/self/").body


def test_a_long_listing_is_cut_and_says_so(root: Path) -> None:
    for number in range(1000):
        (root / "empty" / f"{number:04}{'&' * 200}").touch()
    body = ask(Site(str(root), Settings(autoindex=True)), b"/empty/").body
    assert len(body) < 200 * 1024
    shown = body.count(b"<li><a")
    assert f"and {1000 - shown + 1} more".encode() in body  # one of the links is the parent


def test_another_index(root: Path) -> None:
    (root / "empty" / "start.htm").write_text("start")
    site = Site(str(root), Settings(index="start.htm"))
    assert ask(site, b"/empty/").body == b"start"
    assert refusal(site, b"/docs/") == 404


# --- whatever comes ------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    (
        b".. . a b f g x inside inside-dir outside outside-dir sibling to-root secret root loop fifo docs .git .hidden "
        b"%2e%2e ..%2f.. %2f %00 %0a f.gz index.html "
    ).split(b" ")
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "range": st.one_of(st.just("bytes=0-0,2-3"), st.text(max_size=12).map(lambda text: "bytes=" + text)),
        "accept-encoding": st.one_of(st.just("gzip"), st.text(max_size=20)),
        "if-none-match": st.text(max_size=8),
        "if-range": st.text(max_size=8),
        "if-modified-since": st.text(max_size=8),
    },
)


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("maze")
    root = base / "root"
    (root / "a" / "b").mkdir(parents=True)
    (base / "secret").write_text("secret")
    (base / "secret.gz").write_text("secret")
    (root / "a" / ".git").mkdir()
    for name in ("f", "f.gz", "a/index.html", "a/b/g", ".hidden", "a/.git/f"):
        (root / name).write_text("open" if "." not in name.split("/")[-1][:1] else "secret")
    (root / "a" / ".git" / "f").write_text("secret")
    for name, where in (
        ("inside", "a/b/g"),
        ("inside-dir", "a/b"),
        ("outside", "../secret"),
        ("g.gz", "../secret"),
        ("a/b/g.gz", "../../../secret"),
        ("outside-dir", ".."),
        ("to-root", "."),
        ("loop", "loop"),
    ):
        (root / name).symlink_to(where)
    os.mkfifo(root / "fifo")
    return root


@settings(deadline=None)
@given(st.lists(PIECES, max_size=6), FIELDS, st.sampled_from(("GET", "HEAD")), st.booleans())
def test_no_answer_holds_what_is_not_served(
    maze: Path, pieces: list[bytes], fields: dict[str, str], method: str, autoindex: bool
) -> None:
    site = Site(str(maze), Settings(autoindex=autoindex))
    target = b"/" + b"/".join(pieces)
    for _ in range(2):
        try:
            response = ask(site, target, fields, method)
        except RefusedError as refused:
            assert refused.status in (400, 403, 404)
            continue
        assert b"secret" not in response.body
        assert b".git" not in response.body
        assert response.status in (200, 206, 301, 304, 406, 412, 416)


@given(st.binary(max_size=80))
def test_any_target_is_answered_or_refused(maze: Path, target: bytes) -> None:
    site = Site(str(maze), Settings(autoindex=True))
    for _ in range(2):
        with contextlib.suppress(RefusedError):
            ask(site, target)
