# SPDX-License-Identifier: Apache-2.0
"""wget, which on Debian speaks TLS with GnuTLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from .clients import Endpoint, run, wget_argv
from .conftest import Site
from .content import COMMON, sha256
from .harness import Native


@pytest.mark.parametrize("protocol", ["TLSv1_2", "TLSv1_3"])
def test_download(switching: Native, site: Site, tmp_path: Path, protocol: str) -> None:
    argv = wget_argv(switching.endpoint, f"--secure-protocol={protocol}", "-O", str(tmp_path / "out"))
    done = run([*argv, switching.endpoint.url("/large.bin")])
    assert done.code == 0, done
    assert sha256((tmp_path / "out").read_bytes()) == site.sha256["large.bin"]


def test_continue(switching: Native, site: Site, tmp_path: Path) -> None:
    target = tmp_path / "large.bin"
    target.write_bytes(site.files["large.bin"][:4_000_001])
    done = run([*wget_argv(switching.endpoint, "-c"), switching.endpoint.url("/large.bin")], cwd=tmp_path)
    assert done.code == 0, done
    assert "206 Partial Content" in done.err
    assert sha256(target.read_bytes()) == site.sha256["large.bin"]
    # Nothing is left to fetch: 416, which is the end for wget.
    done = run([*wget_argv(switching.endpoint, "-c"), switching.endpoint.url("/large.bin")], cwd=tmp_path)
    assert done.code == 0, done
    assert sha256(target.read_bytes()) == site.sha256["large.bin"]


def test_time_stamps(switching: Native, site: Site, tmp_path: Path) -> None:
    """-N takes the time of Last-Modified and asks with it the next time."""
    argv = [*wget_argv(switching.endpoint, "-N", "-S"), switching.endpoint.url("/medium.bin")]
    first = run(argv, cwd=tmp_path)
    assert first.code == 0, first
    fetched = tmp_path / "medium.bin"
    assert sha256(fetched.read_bytes()) == site.sha256["medium.bin"]
    assert int(fetched.stat().st_mtime) == int((site.root / "medium.bin").stat().st_mtime)
    second = run(argv, cwd=tmp_path)
    assert second.code == 0, second
    assert "304 Not Modified" in second.err


def test_keep_alive(steady: Native, site: Site, tmp_path: Path) -> None:
    urls = [steady.endpoint.url(f"/{name}") for name in COMMON]
    done = run([*wget_argv(steady.endpoint), *urls], cwd=tmp_path)
    assert done.code == 0, done
    assert done.err.count("Reusing existing connection") == len(COMMON) - 1
    for name in COMMON:
        (found,) = tmp_path.glob(name.replace("+", "*"))
        assert sha256(found.read_bytes()) == site.sha256[name]


def test_spider_and_errors(switching: Native) -> None:
    assert run([*wget_argv(switching.endpoint, "--spider"), switching.endpoint.url("/large.bin")]).code == 0
    missing = run([*wget_argv(switching.endpoint, "--spider"), switching.endpoint.url("/nothing")])
    assert (missing.code, "404" in missing.err) == (8, True), missing


def test_the_certificate_is_checked(switching: Native, tmp_path: Path) -> None:
    """The client itself refuses a CA that is not ours: what the other tests prove, they prove verified."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    done = run([*wget_argv(Endpoint(switching.port, empty)), switching.endpoint.url("/small.bin")])
    assert done.code == 5, done
