# SPDX-License-Identifier: Apache-2.0
"""For all tests: what the control side remembers is theirs alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is for bench/ to say: on a busy machine a time limit is a test that fails for nothing.
settings.register_profile("ktls", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ktls")


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep runs, epochs and kept lists of hosts out of the home directory; children inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTLS_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield
