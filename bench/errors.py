# SPDX-License-Identifier: Apache-2.0
"""What stops a benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """One line for the user: what failed, why, what to do."""
