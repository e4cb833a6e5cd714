# SPDX-License-Identifier: Apache-2.0
"""The one exception for things a user can cause and cure."""

from __future__ import annotations


class KtlsError(Exception):
    """A failure that has a name and a cure.

    ``code`` is a stable snake_case word for programs; ``message`` is one line for people: what failed, why,
    and what to do. Line breaks inside the message are folded, so that it stays one line in logs and JSON.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep ``code`` and the folded ``message``."""
        self.code = code
        self.message = " ".join(message.split())
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[KtlsError], tuple[str, str]]:
        """Survive pickling, which would otherwise call ``__init__`` with the message alone."""
        return (type(self), (self.code, self.message))

    def as_dict(self) -> dict[str, str]:
        """Return ``{"code", "message"}``, the form used on sockets and in module results."""
        return {"code": self.code, "message": self.message}
