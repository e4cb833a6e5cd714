# SPDX-License-Identifier: Apache-2.0
"""HTTP manners of a file server: which file, which bytes of it, which status. No sockets here."""

from __future__ import annotations
