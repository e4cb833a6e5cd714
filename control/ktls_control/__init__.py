# SPDX-License-Identifier: Apache-2.0
"""Everything of ktls-fleet that runs on the control node."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def _hosts_library() -> None:
    """In an installed collection ``ktls_host`` is there under the collection's name only: give it its own.

    Also where pip has installed a ``ktls_host``: that may be another version than this collection's.
    """
    own = Path(__file__).parents[2] / "module_utils" / "ktls_host" / "__init__.py"
    found = importlib.util.find_spec("ktls_host")
    if found is None or not (found.origin and own.samefile(found.origin)):
        name = "ansible_collections.ktls.fleet.plugins.module_utils.ktls_host"
        sys.modules["ktls_host"] = importlib.import_module(name)


if __name__.startswith("ansible_collections.") and "ktls_host" not in sys.modules:
    _hosts_library()
