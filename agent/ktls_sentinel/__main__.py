# SPDX-License-Identifier: Apache-2.0
"""``python3 -m ktls_sentinel``."""

from __future__ import annotations

import sys

from .cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
