# SPDX-License-Identifier: Apache-2.0
"""What a lever decided to do, as plain data: check mode shows the same list that is carried out."""

from __future__ import annotations

from dataclasses import dataclass

from .files import FileSpec


@dataclass(frozen=True)
class Step:
    """One thing to do: a command, or a file to write or remove; either ``argv`` or ``file`` is set."""

    code: str
    description: str
    argv: tuple[str, ...] = ()
    file: FileSpec | None = None

    def as_dict(self) -> dict[str, str]:
        """Return the parts that a person or a report needs."""
        return {"code": self.code, "description": self.description}
