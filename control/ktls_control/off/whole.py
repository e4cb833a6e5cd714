# SPDX-License-Identifier: Apache-2.0
"""``ktls off`` over a whole fleet, from inside of a rollout: the same steps, said to nobody but the caller."""

from __future__ import annotations

import argparse
from typing import Any

from .cli import Off, add_arguments


def whole_fleet(inventory: str, group: str, *, by: str, reason: str) -> dict[str, Any]:
    """Switch every host of ``group`` off, now; the document that ``ktls off --json`` prints.

    :param by: who asks, for the rollout that is told to end.
    :raises ControlError: when no list of hosts can be had.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = parser.parse_args(["--json"])
    asked.inventory, asked.group, asked.limit, asked.reason = inventory, group, None, reason
    return Off(asked, by=by, quiet=True).perform()
