# SPDX-License-Identifier: Apache-2.0
"""One line for each way in which a configuration cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_host import configfile
from ktls_host.errors import KtlsError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        # The parser of Python counts its depth, and gives up with an exception of its own.
        (b"[" * 200_000, "is not JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_cure(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KtlsError) as caught:
        configfile.read(str(path), "deploy it")
    assert caught.value.code == "bad_config"
    assert words in caught.value.message
    assert caught.value.message.endswith("; deploy it")
    assert "\n" not in caught.value.message


def test_what_can_be_read_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text('{"a": [1]}')
    assert configfile.read(str(path), "deploy it") == {"a": [1]}
