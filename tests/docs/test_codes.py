# SPDX-License-Identifier: Apache-2.0
"""Every code that control node or host can show is explained somewhere in docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .pages import ROOT, blocks, pages

_RAISED = re.compile(r"\b(?:ControlError|KtlsError|RequestError|RefusedError|Reason)\(\s*\"([a-z0-9_]+)\"")


def codes() -> dict[str, str]:
    """Codes, with a file that gives each."""
    found: dict[str, str] = {}
    for place in ("agent", "control"):
        for path in sorted((ROOT / place).rglob("*.py")):
            for code in _RAISED.findall(path.read_text(encoding="utf-8")):
                found.setdefault(code, str(path.relative_to(ROOT)))
    return found


def told() -> Iterator[str]:
    """Words of code and headings in docs/."""
    for page in pages():
        if "docs" in page.parts:
            yield from re.findall(r"^### (\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            for block in blocks(page):
                if block.kind == "inline":
                    yield block.text


def test_every_code_is_explained() -> None:
    explained = set(told())
    assert {code: where for code, where in codes().items() if code not in explained} == {}


def test_the_sources_were_really_read() -> None:
    assert {"off_latched", "bad_epoch", "need_net_admin"} <= set(codes())
    assert len(codes()) > 150
