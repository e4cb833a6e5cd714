# SPDX-License-Identifier: Apache-2.0
"""The one exception whose text is meant for the operator."""

from __future__ import annotations


class ControlError(Exception):
    """A failure that the operator can mend.

    :param code: stable snake_case name, for JSON output.
    :param message: one line: what failed, on which host, why, and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
