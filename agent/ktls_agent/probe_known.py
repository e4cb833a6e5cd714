# SPDX-License-Identifier: Apache-2.0
"""What the self-probe of a server that is not ours downloads: what was recorded when the service was taken.

Read anew for each probe: a hash that is taken anew counts at once. Without one the probe is a handshake.
"""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import urlsplit

from .config import ProbeConfig

_LIMIT = 64 * 1024


def current(config: ProbeConfig) -> ProbeConfig:
    """Return what to probe now. Never raises: a record that cannot be read is none."""
    if config.known is None:
        return config
    try:
        with open(config.known, encoding="utf-8") as stream:
            found = json.loads(stream.read(_LIMIT))["baseline"]
        parts = urlsplit(str(found["url"]))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return replace(config, path=path, sha256=str(found["sha256"]), size=int(found["size"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return config
