# SPDX-License-Identifier: Apache-2.0
"""Configuration files of the programs on a host: JSON, read whole."""

from __future__ import annotations

import json
from typing import Any

from .errors import KtlsError


def read(path: str, cure: str) -> Any:
    """Return what the file at ``path`` holds. Raises :class:`KtlsError` ``bad_config``, with ``cure`` at the end."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise KtlsError("bad_config", f"cannot read {path}: {error.strerror}; {cure}") from error
    except (ValueError, RecursionError) as error:
        raise KtlsError("bad_config", f"{path} is not JSON: {error}; {cure}") from error
