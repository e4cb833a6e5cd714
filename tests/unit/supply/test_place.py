# SPDX-License-Identifier: Apache-2.0
"""A release takes the place of nothing but an earlier release."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_control import signed
from tools.releasing import ReleaseError
from tools.releasing.make import check_place, make


def earlier(place: Path) -> Path:
    place.mkdir()
    for name in ("release.json", signed.SUMS, "ktls-1.0.pyz"):
        (place / name).write_text("x")
    return place


def test_nothing_an_empty_directory_and_an_earlier_release_are_taken(tmp_path: Path) -> None:
    check_place(tmp_path / "nothing")
    check_place(tmp_path)
    check_place(earlier(tmp_path / "release"))


@pytest.mark.parametrize("what", ["a file", "a link", "a home", "a release and a directory", "a release and a link"])
def test_what_somebody_else_put_there_stays(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("mine")
    elif what == "a link":
        place.symlink_to(tmp_path)
    elif what == "a home":
        place.mkdir()
        (place / "thesis.txt").write_text("mine")
    else:
        earlier(place)
        if what.endswith("link"):
            (place / "link").symlink_to("release.json")
        else:
            (place / "letters").mkdir()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ReleaseError, match="name a"):
        make(tmp_path, place, allow_dirty=True)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
