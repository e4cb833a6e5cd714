# SPDX-License-Identifier: Apache-2.0
"""Whether a flag says off, for root's helpers: nothing is switched on while one does."""

from __future__ import annotations

import os

#: Those of the sidecar's configuration: each by itself means off.
FLAGS = ("run/ktls/off", "var/lib/ktls/off", "run/ktls/lapsed")


def flagged(root: str) -> bool:
    """Return whether a flag says off; one that cannot be looked at does."""
    for path in FLAGS:
        try:
            os.lstat(os.path.join(root, path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass
        return True
    return False
