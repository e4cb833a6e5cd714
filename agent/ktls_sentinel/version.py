# SPDX-License-Identifier: Apache-2.0
"""The version of the release that this code came with."""

from __future__ import annotations

try:
    # Made when the zipapp is built.
    from ktls_release_meta import VERSION  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    VERSION = "0+source"

__all__ = ["VERSION"]
