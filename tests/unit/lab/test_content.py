# SPDX-License-Identifier: Apache-2.0
"""The served files are a pure function, known by hash."""

from __future__ import annotations

import hashlib

import pytest

from ktls_lab import content


def test_sizes_and_hashes() -> None:
    sizes = {name: len(content.file_bytes(name)) for name in content.SIZES}
    assert sizes == {"small.bin": 10_240, "medium.bin": 262_144, "large.bin": 4_194_304}
    for path, sha256 in content.manifest().items():
        assert hashlib.sha256(content.file_bytes(path.removeprefix("/"))).hexdigest() == sha256


def test_content_never_changes_between_releases() -> None:
    """A change here orphans every built image and every recorded hash: it must be meant."""
    assert content.manifest()["/small.bin"] == "7a97ccc83f0f3ba06134fdb5d653482b01098cdb98bff82a13fa3088fd51de90"


def test_files_differ_and_do_not_compress() -> None:
    small, medium = content.file_bytes("small.bin"), content.file_bytes("medium.bin")
    assert medium[: len(small)] != small
    assert len(set(small)) == 256


def test_unknown_file() -> None:
    with pytest.raises(KeyError):
        content.file_bytes("other.bin")
