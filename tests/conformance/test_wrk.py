# SPDX-License-Identifier: Apache-2.0
"""wrk: short load over connections that are kept. wrk never verifies certificates: it proves nothing but the load."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.authority import Authority, KeyPair

from .clients import environment, run
from .conftest import Site
from .harness import Native, eventually, running


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


def test_the_mode_changes_under_load(tmp_path: Path, site: Site, pair: KeyPair, authority: Authority) -> None:
    """64 large downloads at once must not keep an order waiting. The aim is 0.1 s; a busy machine gets a second."""
    with running(tmp_path, site.root, pair, authority.path) as native:
        argv = ["wrk", "-t1", "-c64", "-d60s", native.endpoint.url("/large.bin")]
        load = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment())
        try:
            eventually(lambda: sum(native.status()["connections"].values()) >= 60, 20, "64 connections")
            times = []
            for number in range(20):
                began = time.monotonic()
                # Raises when a worker does not take it in time.
                native.mode(("tx", "userspace")[number % 2])
                times.append(time.monotonic() - began)
                time.sleep(0.1)
        finally:
            load.kill()
            load.wait()
    assert max(times) < 1.0, times
