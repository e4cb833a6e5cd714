# SPDX-License-Identifier: Apache-2.0
"""Texts that hosts wrote: nobody vouches for them. Pure."""

from __future__ import annotations

import re

_LONGEST = 600


def harmless(text: object) -> str:
    """One printable line that no terminal obeys, and that Ansible takes for no template wherever it is handed on."""
    words = "".join(char if char.isprintable() else " " for char in " ".join(str(text).split()))
    line = " ".join(words.split())
    line = re.sub(r"\{(?=[{%#])", "{ ", line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
