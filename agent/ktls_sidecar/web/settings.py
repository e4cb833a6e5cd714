# SPDX-License-Identifier: Apache-2.0
"""The part of the configuration that says how files are answered, checked."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field, fields
from typing import Any

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?:[ ]*;[ ]*{_TOKEN}=(?:{_TOKEN}|\"[ !#-\[\]-~]*\"))*", re.ASCII)
_FIELD_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_EXTENSION = re.compile(r"\.?[^./\0\s]+")
_RULES_MAX = 256


@dataclass(frozen=True)
class Settings:
    """How a site answers. All keys are optional in the configuration.

    ``cache_control``: pairs of a pattern and a Cache-Control value; the first pattern that fits the whole path below
    the root decides, none fits: no field. In a pattern ``*`` is any text, also across ``/``; ``?`` is one character;
    ``[ab]`` one of these. Upper and lower case differ. ``docs/`` is answered from ``docs/index.html``, and that is
    the path.
    ``types``: file name extension -> media type, before the built-in table; sent as it is.
    ``precompressed``: serve ``x.br``, ``x.zst`` or ``x.gz`` in place of ``x`` to clients that accept it.
    ``autoindex``: list a directory that has no index file.
    ``index``: the file that answers for a directory.
    """

    cache_control: tuple[tuple[str, str], ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    precompressed: bool = True
    autoindex: bool = False
    index: str = "index.html"

    def __post_init__(self) -> None:
        """Translate the patterns once."""
        rules = tuple((re.compile(fnmatch.translate(pattern)), value) for pattern, value in self.cache_control)
        object.__setattr__(self, "_rules", rules)

    def cache_control_for(self, path: str) -> str | None:
        """Return the Cache-Control value for ``path``, which is below the root and does not begin with a slash."""
        rules: tuple[tuple[re.Pattern[str], str], ...] = self._rules  # type: ignore[attr-defined]
        for pattern, value in rules:
            if pattern.match(path):
                return value
        return None


def parse(data: Any) -> Settings:
    """Check a decoded configuration. Raises ValueError that names the key."""
    if not isinstance(data, dict):
        raise ValueError("it must be an object")
    known = [one.name for one in fields(Settings)]
    unknown = sorted(str(key) for key in set(data) - set(known))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return Settings(**{name: _check(name, value) for name, value in data.items()})


def _check(name: str, value: Any) -> Any:
    if name == "cache_control":
        return _cache_control(value)
    if name == "types":
        return _types(value)
    if name == "index":
        if not isinstance(value, str) or not value or set(value) & set("/\0") or value.startswith("."):
            raise ValueError(f"'index' must be a file name without a slash or a leading dot, not {value!r}")
        return value
    if not isinstance(value, bool):
        raise ValueError(f"{name!r} must be true or false")
    return value


def _cache_control(value: Any) -> tuple[tuple[str, str], ...]:
    example = '\'cache_control\' must be a list of pairs such as ["*.html", "no-cache"]'
    if not isinstance(value, (list, tuple)):
        raise ValueError(example)
    if len(value) > _RULES_MAX:
        raise ValueError(f"'cache_control' has {len(value)} pairs; at most {_RULES_MAX} are allowed")
    found = []
    for item in value:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not all(isinstance(part, str) for part in item):
            raise ValueError(f"{example}; it has {item!r}")
        pattern, text = item
        if not pattern or pattern.startswith("/"):
            raise ValueError(f"'cache_control' has pattern {pattern!r}; write it without the leading slash")
        if not _FIELD_VALUE.fullmatch(text):
            raise ValueError(f"'cache_control' has value {text!r} for {pattern!r}; use printable ASCII")
        found.append((pattern, text))
    return tuple(found)


def _types(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('\'types\' must be an object such as {".mjs": "text/javascript"}')
    found = {}
    for extension, kind in value.items():
        if not isinstance(extension, str) or not _EXTENSION.fullmatch(extension):
            raise ValueError(f"'types' has extension {extension!r}; write one such as .mjs, what follows the last dot")
        if not isinstance(kind, str) or not _MEDIA_TYPE.fullmatch(kind):
            raise ValueError(f"'types' has {kind!r} for {extension!r}; write a media type such as text/css")
        found["." + extension.lstrip(".").lower()] = kind
    return found
