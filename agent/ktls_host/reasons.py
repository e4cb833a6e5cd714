# SPDX-License-Identifier: Apache-2.0
"""Why a phase is refused, undecided, or to be taken with care: one shape, one place for the link into the docs."""

from __future__ import annotations

from dataclasses import dataclass

PAGE = "docs/diagnostics.md"


@dataclass(frozen=True)
class Reason:
    """``code`` is stable; ``message`` says what was found; ``cure`` what to do about it. Each is one line."""

    code: str
    message: str
    cure: str

    @property
    def link(self) -> str:
        """Return where the documentation explains the code: a page of this project and an anchor in it."""
        return f"{PAGE}#{self.code}"

    def as_dict(self) -> dict[str, str]:
        """Return plain JSON types, link included."""
        return {"code": self.code, "message": self.message, "cure": self.cure, "link": self.link}
