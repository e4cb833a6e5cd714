# SPDX-License-Identifier: Apache-2.0
"""The one exception that the lab shows to a user."""

from __future__ import annotations


class LabError(Exception):
    """A failure with one line for the user: what failed, why, and what to do."""
