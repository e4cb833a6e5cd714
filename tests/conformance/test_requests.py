# SPDX-License-Identifier: Apache-2.0
"""The corpus of odd, broken and hostile requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from . import corpus
from .clients import request
from .conftest import Site
from .content import sha256
from .harness import Native
from .raw import Raw

CASES = corpus.load()


@pytest.fixture(scope="module")
def outcomes(steady_process: Native) -> dict[str, str]:
    """All of them, several at a time: they must not disturb each other either."""
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda case: corpus.outcome(steady_process.endpoint, case), CASES))
    return {case.name: end for case, end in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_request(outcomes: dict[str, str], case: corpus.Case) -> None:
    assert outcomes[case.name] in case.expect


def test_it_still_serves(outcomes: dict[str, str], steady: Native, site: Site) -> None:
    """And what clients do wrong is counted as theirs: the fixture looks for errors of ours."""
    client = Raw(steady.endpoint)
    assert sha256(client.ask(request("/large.bin")).body) == site.sha256["large.bin"]
    client.close()
    assert len(outcomes) == len(CASES)


def test_nothing_of_the_host_was_told(steady: Native) -> None:
    """No refusal shows a path of this machine."""
    client = Raw(steady.endpoint)
    for path in ("/outside", "/nowhere/", "/nothing", "/.hidden", "/plain.txt/x", "/%zz"):
        body = client.ask(request(path)).body
        assert str(steady.directory).encode() not in body
        assert b"Traceback" not in body
        assert b"Errno" not in body
    client.close()
