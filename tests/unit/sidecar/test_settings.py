# SPDX-License-Identifier: Apache-2.0
"""The settings of a site: what is taken, what is refused and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_sidecar.web.mediatypes import media_type
from ktls_sidecar.web.settings import Settings, parse


def test_defaults() -> None:
    assert parse({}) == Settings((), {}, True, False, "index.html")


def test_all() -> None:
    found = parse(
        {
            "cache_control": [["*.html", "no-cache"], ["assets/*", "max-age=31536000, immutable"]],
            "types": {"MJS": "text/javascript", ".foo": 'a/b; c="d e"'},
            "precompressed": False,
            "autoindex": True,
            "index": "start.htm",
        }
    )
    assert found.types == {".mjs": "text/javascript", ".foo": 'a/b; c="d e"'}
    assert (found.precompressed, found.autoindex, found.index) == (False, True, "start.htm")
    assert found.cache_control_for("assets/a/b.html") == "no-cache"
    assert found.cache_control_for("assets/a/b.js") == "max-age=31536000, immutable"
    assert found.cache_control_for("other/assets/b.js") is None
    assert found.cache_control_for("a.HTML") is None
    assert media_type("x.foo", found.types) == 'a/b; c="d e"'
    assert media_type("x.MJS", found.types) == "text/javascript"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ([], "object"),
        ({"autoindx": True}, "autoindx"),
        ({"autoindex": 1}, "autoindex"),
        ({"precompressed": "yes"}, "precompressed"),
        ({"index": ""}, "index"),
        ({"index": "a/b"}, "index"),
        ({"index": ".htaccess"}, "index"),
        ({"cache_control": {"*": "no-cache"}}, "cache_control"),
        ({"cache_control": ["*", "no-cache"]}, "cache_control"),
        ({"cache_control": [["*"]]}, "cache_control"),
        ({"cache_control": [["/a/*", "no-cache"]]}, "leading slash"),
        ({"cache_control": [["*", "no-cache\r\nX: y"]]}, "cache_control"),
        ({"cache_control": [["*", ""]]}, "cache_control"),
        ({"cache_control": [["*", "no-cache"]] * 257}, "at most 256"),
        ({"types": []}, "types"),
        ({"types": {"": "a/b"}}, "types"),
        ({"types": {".tar.gz": "a/b"}}, "types"),
        ({"types": {".a": "text"}}, "types"),
        ({"types": {".a": "text/html\r\nX: y"}}, "types"),
        ({"types": {".a": 5}}, "types"),
    ],
)
def test_refused(data: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse(data)
