# SPDX-License-Identifier: Apache-2.0
"""curl: manners of HTTP/1.1, protocol versions and cipher suites, under mode switching."""

from __future__ import annotations

import email
import email.policy
import re
from pathlib import Path

import pytest

from tests.authority import Authority

from .clients import Endpoint, curl, curl_argv, parse_answer, run
from .conftest import Site
from .content import COMMON, SIZES, TEXT, sha256
from .harness import Native

TLS12 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
)
TLS13 = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_CCM_SHA256",
)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_arrives_whole(switching: Native, site: Site, name: str) -> None:
    answer = curl(switching.endpoint, f"/{name.replace('+', '%2B')}")
    assert (answer.status, sha256(answer.body)) == (200, site.sha256[name])
    assert answer.headers["content-length"] == str(SIZES[name])
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("suite", [*TLS12, *TLS13])
def test_cipher_suites(switching: Native, site: Site, suite: str) -> None:
    if suite in TLS12:
        options, protocol = ["--tlsv1.2", "--tls-max", "1.2", "--ciphers", suite], "TLSv1.2"
    else:
        options, protocol = ["--tlsv1.3", "--tls13-ciphers", suite], "TLSv1.3"
    done = run([*curl_argv(switching.endpoint, "-v", *options), switching.endpoint.url("/large.bin")])
    assert done.code == 0, done
    assert f"SSL connection using {protocol} / {suite}" in done.err
    assert sha256(done.out) == site.sha256["large.bin"]


def test_versions_before_1_2_are_refused(switching: Native) -> None:
    options = ["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]
    done = run([*curl_argv(switching.endpoint, *options), switching.endpoint.url("/small.bin")])
    assert done.code == 35, done
    assert "alert protocol version" in done.err


def test_ipv6_and_addresses_as_names(switching: Native, site: Site) -> None:
    for host in ("[::1]", "127.0.0.1"):
        done = run([*curl_argv(switching.endpoint), f"https://{host}:{switching.port}/small.bin"])
        assert (done.code, sha256(done.out)) == (0, site.sha256["small.bin"]), done


def test_server_names(switching: Native, site: Site) -> None:
    """By --resolve and by --connect-to; a name that the certificate does not hold is the client's to refuse."""
    port = switching.port
    for option in (["--resolve", f"www.example.test:{port}:127.0.0.1"], ["--connect-to", f"::127.0.0.1:{port}"]):
        done = run([*curl_argv(switching.endpoint, *option), f"https://www.example.test:{port}/small.bin"])
        assert (done.code, sha256(done.out)) == (0, site.sha256["small.bin"]), done
    other = ["--resolve", f"other.example.test:{port}:127.0.0.1"]
    done = run([*curl_argv(switching.endpoint, *other), f"https://other.example.test:{port}/small.bin"])
    assert done.code == 60, done


def test_a_client_that_does_not_trust_us(switching: Native, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    done = run([*curl_argv(Endpoint(switching.port, stranger.path)), switching.endpoint.url("/small.bin")])
    assert done.code == 60, done


# --- ranges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "first", "last"),
    [
        ("0-0", 0, 0),
        ("0-99", 0, 99),
        ("1000000-", 1000000, SIZES["large.bin"] - 1),
        ("-500", SIZES["large.bin"] - 500, SIZES["large.bin"] - 1),
        ("16383-16384", 16383, 16384),
        ("8000000-99999999", 8000000, SIZES["large.bin"] - 1),
        ("0-99999999999999", 0, SIZES["large.bin"] - 1),
    ],
)
def test_a_range(switching: Native, site: Site, spec: str, first: int, last: int) -> None:
    answer = curl(switching.endpoint, "/large.bin", "-r", spec)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZES['large.bin']}"
    assert sha256(answer.body) == sha256(site.files["large.bin"][first : last + 1])


def test_several_ranges(switching: Native, site: Site) -> None:
    """RFC 9110 section 14.6: a multipart body, a part for each range, no Content-Range outside."""
    answer = curl(switching.endpoint, "/large.bin", "-r", "0-9,100000-1100000,-7")
    assert answer.status == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert "content-range" not in answer.headers
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=email.policy.HTTP)
    data, size = site.files["large.bin"], SIZES["large.bin"]
    expected = [(0, 9), (100000, 1100000), (size - 7, size - 1)]
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [part["Content-Range"] for part in parts] == [f"bytes {a}-{b}/{size}" for a, b in expected]
    # email may change line ends inside of binary parts: compare on the wire.
    boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    raw = re.split(rb"\r\n--" + re.escape(boundary) + rb"(?:--)?\r\n", b"\r\n" + answer.body)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in raw[1 : 1 + len(expected)]]
    assert [sha256(body) for body in bodies] == [sha256(data[a : b + 1]) for a, b in expected]


def test_a_range_outside_of_the_file(switching: Native) -> None:
    answer = curl(switching.endpoint, "/large.bin", "-r", f"{SIZES['large.bin']}-")
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{SIZES['large.bin']}"


def test_a_thousand_small_ranges_are_no_amplifier(switching: Native) -> None:
    """CVE-2011-3192: whatever the answer is, it is not much longer than the file."""
    field = ",".join("0-" for _ in range(800))
    answer = curl(switching.endpoint, "/medium.bin", "-H", f"Range: bytes={field}")
    assert answer.status in (200, 206, 416)
    assert len(answer.body) < 2 * SIZES["medium.bin"]


def test_resume(switching: Native, site: Site, tmp_path: Path) -> None:
    target = tmp_path / "large.bin"
    target.write_bytes(site.files["large.bin"][:3_000_001])
    done = run([*curl_argv(switching.endpoint, "-C", "-", "-o", str(target)), switching.endpoint.url("/large.bin")])
    assert done.code == 0, done
    assert sha256(target.read_bytes()) == site.sha256["large.bin"]


def test_if_range(switching: Native, site: Site) -> None:
    etag = curl(switching.endpoint, "/medium.bin", "-I").headers["etag"]
    part = curl(switching.endpoint, "/medium.bin", "-r", "5-9", "-H", f"If-Range: {etag}")
    assert (part.status, part.body) == (206, site.files["medium.bin"][5:10])
    whole = curl(switching.endpoint, "/medium.bin", "-r", "5-9", "-H", 'If-Range: "another"')
    assert (whole.status, sha256(whole.body)) == (200, site.sha256["medium.bin"])


# --- validators ------------------------------------------------------------------------------------------------


def test_head(switching: Native) -> None:
    get = curl(switching.endpoint, "/large.bin", "-r", "0-0")
    head = curl(switching.endpoint, "/large.bin", "-I")
    assert (head.status, head.headers["content-length"]) == (200, str(SIZES["large.bin"]))
    for name in ("etag", "last-modified", "content-type"):
        assert head.headers[name] == get.headers[name]
    assert curl(switching.endpoint, "/nothing", "-I").status == 404


def test_etags(switching: Native, tmp_path: Path) -> None:
    saved = tmp_path / "etag"
    first = curl(switching.endpoint, "/text.txt", "--etag-save", str(saved))
    assert first.body == TEXT
    assert not first.headers["etag"].startswith("W/")
    again = curl(switching.endpoint, "/text.txt", "--etag-compare", str(saved))
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = curl(switching.endpoint, "/text.txt", "-H", f'If-None-Match: "x", W/{first.headers["etag"]}')
    assert other.status == 304
    assert curl(switching.endpoint, "/text.txt", "-H", "If-None-Match: *").status == 304
    assert curl(switching.endpoint, "/text.txt", "-H", f"If-Match: {first.headers['etag']}").status == 200
    assert curl(switching.endpoint, "/text.txt", "-H", 'If-Match: "x"').status == 412


def test_dates(switching: Native, site: Site) -> None:
    path = site.root / "text.txt"
    assert curl(switching.endpoint, "/text.txt", "-z", str(path)).status == 304
    assert curl(switching.endpoint, "/text.txt", "-z", "Sun, 06 Nov 1994 08:49:37 GMT").status == 200
    past = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"
    assert curl(switching.endpoint, "/text.txt", "-H", past).status == 412
    assert curl(switching.endpoint, "/text.txt", "-H", "If-Modified-Since: yesterday").status == 200


# --- the rest of HTTP/1.1 --------------------------------------------------------------------------------------


def test_keep_alive(steady: Native, site: Site, tmp_path: Path) -> None:
    """Twenty requests, one connection."""
    argv = curl_argv(steady.endpoint, "-w", "%{num_connects}\n")
    names = [*COMMON] * 7
    for number, name in enumerate(names):
        argv += ["-o", str(tmp_path / str(number)), steady.endpoint.url(f"/{name}")]
    done = run(argv)
    assert (done.code, sum(map(int, done.out.split()))) == (0, 1), done
    for number, name in enumerate(names):
        assert sha256((tmp_path / str(number)).read_bytes()) == site.sha256[name]


def test_many_at_once(switching: Native, site: Site, tmp_path: Path) -> None:
    # Without keeping connections: a change of the mode ends all idle ones, and curl tries only five of its pool.
    options = ("--parallel", "--parallel-immediate", "--parallel-max", "16", "-H", "Connection: close")
    argv = curl_argv(switching.endpoint, *options)
    for number in range(32):
        argv += ["-o", str(tmp_path / str(number)), switching.endpoint.url(f"/{COMMON[number % 3]}?{number}")]
    done = run(argv)
    assert done.code == 0, done
    for number in range(32):
        assert sha256((tmp_path / str(number)).read_bytes()) == site.sha256[COMMON[number % 3]]


def test_http_1_0(switching: Native, site: Site) -> None:
    answer = curl(switching.endpoint, "/medium.bin", "-0")
    assert (answer.status, sha256(answer.body)) == (200, site.sha256["medium.bin"])


def test_http_2_is_not_spoken(switching: Native, site: Site) -> None:
    """ALPN settles on http/1.1; a client that wants nothing but h2 is refused in the handshake."""
    done = run([*curl_argv(switching.endpoint, "-v", "--http2"), switching.endpoint.url("/small.bin")])
    assert (done.code, sha256(done.out)) == (0, site.sha256["small.bin"]), done
    assert re.search("ALPN.*server accepted.*http/1.1", done.err)


def test_expect_100_continue(switching: Native, tmp_path: Path) -> None:
    """A final answer without the body: RFC 9110 section 10.1.1."""
    body = tmp_path / "body"
    body.write_bytes(b"x" * 2_000_000)
    for option in ("-T", "--data-binary"):
        value = str(body) if option == "-T" else f"@{body}"
        done = run(
            [
                *curl_argv(switching.endpoint, "-D", "/dev/stderr", "-w", "%{size_upload}"),
                *("-H", "Expect: 100-continue", "--expect100-timeout", "30", option, value),
                switching.endpoint.url("/small.bin"),
            ]
        )
        assert done.code == 0, done
        answer = parse_answer(done)
        assert answer.status == 405
        assert {"GET", "HEAD"} <= {method.strip() for method in answer.headers["allow"].split(",")}
        assert done.out.endswith(b"\n0"), "the body was not sent"


def test_a_get_with_a_small_body(switching: Native, site: Site) -> None:
    answer = curl(switching.endpoint, "/small.bin", "-X", "GET", "--data-binary", "hello")
    assert (answer.status, sha256(answer.body)) == (200, site.sha256["small.bin"])
    chunked = curl(switching.endpoint, "/small.bin", "-X", "GET", "-H", "Transfer-Encoding: chunked", "-d", "hello")
    assert (chunked.status, sha256(chunked.body)) == (200, site.sha256["small.bin"])


def test_header_limits(switching: Native) -> None:
    assert curl(switching.endpoint, "/small.bin", "-H", "X-Long: " + "a" * 100_000).status == 431
    assert curl(switching.endpoint, "/" + "a" * 60_000).status == 414
    many = [part for number in range(2000) for part in ("-H", f"X-{number}: {'v' * 20}")]
    assert curl(switching.endpoint, "/small.bin", *many).status == 431


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/../../etc/passwd", 400),
        ("/%2e%2e/etc/passwd", 400),
        ("/dir/..%2f..%2fetc/passwd", 400),
        ("/outside", 403),
        ("/.hidden", 403),
        ("/%2ehidden", 403),
        ("/nowhere/", 404),
        ("/nothing", 404),
        ("/inside", 200),
        ("/dir/a%20b.txt", 200),
        ("/dir/", 200),
        ("/small.bin%00.txt", 400),
        ("/" + "a" * 300, 404),
    ],
)
def test_which_files_are_served(switching: Native, path: str, status: int) -> None:
    answer = curl(switching.endpoint, path, "--path-as-is")
    assert answer.status == status
    assert b"root:" not in answer.body
    assert b"secret" not in answer.body


def test_no_directory_is_listed(switching: Native) -> None:
    assert b"small.bin" not in curl(switching.endpoint, "/").body


def test_media_types(switching: Native) -> None:
    kinds = {"index.html": "text/html", "style.css": "text/css", "text.txt": "text/plain", "page.js": "text/javascript"}
    for name, kind in kinds.items():
        answer = curl(switching.endpoint, f"/{name}", "-I")
        assert answer.headers["content-type"].split(";")[0] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"


# --- precompressed siblings --------------------------------------------------------------------------------------


def test_compressed(switching: Native, site: Site) -> None:
    """curl decodes what it got: with only gzip on offer, the gzip sibling."""
    raw = curl(switching.endpoint, "/style-guide.css", "-H", "Accept-Encoding: gzip")
    assert raw.headers["content-encoding"] == "gzip"
    assert raw.headers["content-type"].split(";")[0] == "text/css"
    assert raw.body == site.files["style-guide.css.gz"]
    decoded = curl(switching.endpoint, "/style-guide.css", "--compressed", "-H", "Accept-Encoding: gzip")
    assert decoded.body == TEXT
    assert "accept-encoding" in decoded.headers["vary"].lower()


@pytest.mark.parametrize(
    ("accept", "sibling"),
    [
        ("br", ".br"),
        ("zstd", ".zst"),
        ("identity", ""),
        ("gzip;q=0, br;q=0.000", ""),
        ("gzip;q=0.5, br;q=0.9", ".br"),
        ("gzip;q=0.9, br;q=0.5, zstd;q=0.1", ".gz"),
        ("compress", ""),
    ],
)
def test_accept_encoding(switching: Native, site: Site, accept: str, sibling: str) -> None:
    answer = curl(switching.endpoint, "/style-guide.css", "-H", f"Accept-Encoding: {accept}")
    assert answer.status == 200
    assert answer.body == site.files[f"style-guide.css{sibling}"]
    assert ("content-encoding" in answer.headers) == bool(sibling)


def test_siblings_have_validators_of_their_own(switching: Native, site: Site) -> None:
    plain = curl(switching.endpoint, "/style-guide.css")
    packed = curl(switching.endpoint, "/style-guide.css", "-H", "Accept-Encoding: gzip")
    assert plain.body == TEXT
    assert plain.headers["etag"] != packed.headers["etag"]
    assert "accept-encoding" in plain.headers["vary"].lower()
    part = curl(switching.endpoint, "/style-guide.css", "-H", "Accept-Encoding: gzip", "-r", "0-9")
    assert (part.status, part.body) == (206, site.files["style-guide.css.gz"][:10])
    field = f"If-None-Match: {packed.headers['etag']}"
    assert curl(switching.endpoint, "/style-guide.css", "-H", "Accept-Encoding: gzip", "-H", field).status == 304
