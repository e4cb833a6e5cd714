# SPDX-License-Identifier: Apache-2.0
"""Everything of ktls-fleet that runs on the control node."""

from __future__ import annotations

import importlib.util
import sys

if "ktls_host" not in sys.modules and importlib.util.find_spec("ktls_host") is None:
    # In an installed collection the host's library is there too, under the collection's name only.
    from ansible_collections.ktls.fleet.plugins.module_utils import ktls_host

    sys.modules["ktls_host"] = ktls_host
