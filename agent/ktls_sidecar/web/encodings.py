# SPDX-License-Identifier: Apache-2.0
"""Which precompressed sibling of a file a client takes: Accept-Encoding, RFC 9110 section 12.5.3."""

from __future__ import annotations

import re
from functools import lru_cache

IDENTITY = ""

SUFFIXES = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""Content coding -> suffix of the sibling; the first is preferred where a client likes them alike."""

_ITEM = re.compile(
    r"[ \t]*(?P<coding>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*"
    r"(?:;[ \t]*[qQ]=(?P<q>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?",
    re.ASCII,
)
_ALIASES = {"x-gzip": "gzip"}


@lru_cache(maxsize=512)
def acceptable(field: str) -> tuple[str, ...]:
    """Return what to try, best first; :data:`IDENTITY` stands for the file itself and is absent where excluded.

    A member that is no coding with a weight is passed over. The file itself comes after every coding that the client
    does not like less than it; identity is acceptable unless ``identity;q=0`` or ``*;q=0`` says otherwise.
    """
    weights: dict[str, float] = {}
    for item in field.split(","):
        match = _ITEM.fullmatch(item)
        if match is not None:
            coding = match["coding"].lower()
            weights[_ALIASES.get(coding, coding)] = float(match["q"] or 1)
    rest = weights.get("*", 0.0)
    ranked = [(weights.get(coding, rest), coding) for coding in SUFFIXES]
    # Not mentioned at all: acceptable, and less than anything that is.
    identity = weights.get("identity", rest if "*" in weights else 0.0001)
    ranked.append((identity, IDENTITY))
    return tuple(coding for weight, coding in sorted(ranked, key=lambda pair: -pair[0]) if weight > 0)


def may_have_sibling(name: str) -> bool:
    """False for what is itself compressed by one of the codings."""
    return not name.endswith(tuple(SUFFIXES.values()))
