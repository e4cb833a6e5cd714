# SPDX-License-Identifier: Apache-2.0
"""The version of this release. The zipapp carries it as a generated module; a source tree has none."""

from __future__ import annotations

try:
    from ktls_release_meta import VERSION  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    VERSION = "0+source"

__all__ = ["VERSION"]
