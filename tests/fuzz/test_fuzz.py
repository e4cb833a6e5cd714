# SPDX-License-Identifier: Apache-2.0
"""What broke the request path once, and some seconds of new inputs. Longer: ``python -m tests.fuzz.request``."""

from __future__ import annotations

import random
import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest

from . import engine
from .mutate import mutate
from .request import FOUND, TRACED, RequestTarget, seeds

BUDGET_S = 15.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> RequestTarget:
    return RequestTarget(tmp_path_factory.mktemp("fuzz"))


def test_what_broke_it_once(target: RequestTarget) -> None:
    """Inputs that earlier runs found, and the corpus of the conformance tests."""
    for data in seeds():
        assert engine.failure(target, data) is None, data[:300]


def test_new_inputs(target: RequestTarget) -> None:
    result = engine.fuzz(target, seeds(), TRACED, BUDGET_S, secrets.randbits(32))
    print(result)
    for crasher in result.crashers:
        FOUND.mkdir(parents=True, exist_ok=True)
        (FOUND / crasher.name).write_bytes(crasher.data)
    assert [f"{FOUND / crasher.name}: {crasher.error}" for crasher in result.crashers] == []
    assert result.runs > 1000


def test_two_parsers_that_disagree_are_found(tmp_path: Path) -> None:
    """A fast parser that takes no notice of a body: the start of request smuggling."""

    def careless(data: bytes, _limit: int) -> object:
        head, end, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if not end or not lines[0].startswith(b"GET / HTTP/1.1"):
            return None
        pairs = [line.decode("latin-1").partition(": ")[::2] for line in lines[1:]]
        fields = {name.lower(): value for name, value in pairs}
        return SimpleNamespace(method="GET", target=b"/", fields=fields, keep_alive=True), len(data) - len(rest)

    reader = SimpleNamespace(feed=lambda data: None, next=lambda: None)
    target = RequestTarget(tmp_path)
    target.fast = SimpleNamespace(parse_plain=careless, Reader=lambda limit: reader, Refusal=int)
    assert engine.failure(target, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") is None
    request = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    assert "BrokenError" in str(engine.failure(target, request))


# --- the fuzzer itself -----------------------------------------------------------------------------------------


def stumbles(data: bytes) -> None:
    """Breaks when a line that is hard to reach is reached."""
    if data.startswith(b"GET") and b"%2e" in data:
        if b"\0" in data:
            raise ZeroDivisionError
        if b"Range" in data:
            raise KeyError


def test_it_finds_what_is_there_and_makes_it_small() -> None:
    result = engine.fuzz(stumbles, [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], [__file__], 4, 1)
    found = {crasher.error.split()[0]: crasher.data for crasher in result.crashers}
    assert set(found) == {"ZeroDivisionError", "KeyError"}
    assert len(found["ZeroDivisionError"]) == len(b"GET%2e\0")
    assert len(found["KeyError"]) == len(b"GET%2eRange")


def test_the_same_seed_gives_the_same_inputs() -> None:
    pool = seeds()
    one, two = random.Random(7), random.Random(7)
    assert [mutate(data, pool, one) for data in pool] == [mutate(data, pool, two) for data in pool]
