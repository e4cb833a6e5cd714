# SPDX-License-Identifier: Apache-2.0
"""A download that cannot begin says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_control.download import fetch


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), ("not PEM", "")])
def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    authority = tmp_path / "ca.pem"
    if content is not None:
        authority.write_text(content)
    got = fetch("https://127.0.0.1:1/x", str(authority))
    assert not got.ok
    assert f"the authority to trust, {authority}, cannot be read: {why}" in str(got.error)
