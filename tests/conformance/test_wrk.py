# SPDX-License-Identifier: Apache-2.0
"""wrk: short load over connections that are kept. wrk never verifies certificates: it proves nothing but the load."""

from __future__ import annotations

import re

from .clients import run
from .harness import Native


def test_keep_alive_load(steady: Native) -> None:
    """No socket error, no status but 200, and the sidecar counted as many requests as wrk."""
    before = steady.status()
    done = run(["wrk", "-t2", "-c16", "-d3s", "--timeout", "20s", steady.endpoint.url("/small.bin")])
    output = done.out.decode()
    assert done.code == 0, done
    assert "Socket errors" not in output, output
    assert "Non-2xx" not in output, output
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    assert int(found.group(1)) > 100
    after = steady.status()
    assert after["errors"] == {}
    total = sum(after["connections_total"].values()) - sum(before["connections_total"].values())
    assert total >= 16
