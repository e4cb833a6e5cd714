# SPDX-License-Identifier: Apache-2.0
"""A host with network cards that is a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host.errors import KtlsError

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import FakeHost
else:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    from fakenic import FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host with a ConnectX card, a Chelsio card and an Intel card; the first carries the default route."""
    played = FakeHost(tmp_path, KtlsError)
    played.add("mlx0", "mlx5_core")
    played.add("chel0", "cxgb4", {"tls-hw-rx-offload": "off fixed"})
    played.add("intel0", "ice", {"tls-hw-tx-offload": "off fixed", "tls-hw-rx-offload": "off fixed"})
    played.route("mlx0")
    return played
