# SPDX-License-Identifier: Apache-2.0
"""A browser downloads with fetch, several files at once, and hashes what arrived."""

from __future__ import annotations

from pathlib import Path

from . import browser
from .conftest import Site
from .content import SIZES, sha256
from .harness import Native, eventually


def check(found: dict[str, object], site: Site) -> None:
    """Compare what the page found with the files."""
    assert "error" not in found, found
    names = ["small.bin", "record+1.bin", "medium+1.bin", "large.bin", "text.txt"]
    assert found["files"] == {f"{name}#{number}": [200, site.sha256[name]] for name in names for number in range(2)}
    assert found["style"] == "applied"
    part = site.files["large.bin"][1_000_000:2_000_000]
    assert found["part"] == [206, f"bytes 1000000-1999999/{SIZES['large.bin']}", sha256(part)]
    assert found["head"] == [200, str(SIZES["large.bin"])]
    # fetch hides the 304 behind the cached answer; the access log shows it.
    assert found["cached"] == [200, 200, site.sha256["text.txt"]]
    assert found["missing"] == 404


def test_under_mode_switching(switching: Native, site: Site, tmp_path: Path) -> None:
    done = browser.dump_dom(switching.endpoint, "/index.html", tmp_path)
    check(browser.result(done), site)


def test_alone(steady: Native, site: Site, tmp_path: Path) -> None:
    before = len(steady.access_log())
    done = browser.dump_dom(steady.endpoint, "/index.html", tmp_path)
    check(browser.result(done), site)
    # It is written in batches.
    eventually(lambda: ("/text.txt", 304) in [(line["path"], line["status"]) for line in steady.access_log()[before:]])


def test_a_certificate_that_it_does_not_trust(steady: Native, tmp_path: Path) -> None:
    """The browser verifies: without our CA in its database it gets nothing."""
    done = browser.dump_dom(steady.endpoint, "/index.html", tmp_path, trust=False)
    assert b'id="result"' not in done.out
