# SPDX-License-Identifier: Apache-2.0
"""The request path: any bytes, through the parsers, to the decision what is served.

    python -m tests.fuzz.request --seconds 3600 [--seed N]
    python -m tests.fuzz.request --replay FILE...

What breaks it is written to build/fuzz/request/, made small; put such a file into tests/fuzz/crashers/ and it is a
test. The parser that is fast is held against h11, which decides about everything that it does not take.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NoReturn

import h11

from ktls_sidecar import request as fast_parser
from ktls_sidecar.config import Config
from ktls_sidecar.request import Request
from ktls_sidecar.response import decide, pieces
from ktls_sidecar.web.settings import Settings
from ktls_sidecar.web.site import Site
from tests.conformance import corpus
from tests.conformance.content import make_tree

from . import engine

REPOSITORY = Path(__file__).parents[2]
CRASHERS = Path(__file__).parent / "crashers"
FOUND = REPOSITORY / "build" / "fuzz" / "request"
TRACED = ("/ktls_sidecar/", "/h11/")
HEADER_LIMIT = 16384
#: What a client may get for anything it sends, but for 500, which would be a fault of ours.
STATUSES = frozenset({200, 206, 301, 304, 308, 400, 403, 404, 405, 406, 412, 413, 414, 416, 417, 421, 431, 501, 505})
_AT_ONCE = 40
"""Requests of one input that are looked at."""


class BrokenError(Exception):
    """A promise of the request path does not hold."""


def broken(what: str) -> NoReturn:
    """Raise."""
    raise BrokenError(what)


class RequestTarget:
    """The target. It serves the same tree as the conformance tests, at ``root``."""

    def __init__(self, root: Path) -> None:
        """Make the tree, which must be empty."""
        make_tree(root)
        self._real = os.path.realpath(root).encode() + b"/"
        self.fast: Any = fast_parser
        """The module with the fast parser."""
        settings = (
            Settings(cache_control=(("*.css", "max-age=60"),)),
            Settings(autoindex=True, precompressed=False),
        )
        configs = [Config(root=str(root), files=each) for each in settings]
        self._sites = [(Site(config.root, config.files), config) for config in configs]

    def __call__(self, data: bytes) -> None:
        """Take one input. Raises whatever is wrong."""
        for _ in range(_AT_ONCE):
            reference = by_h11(data)
            self._compare(data, reference)
            if not isinstance(reference, Parsed):
                return
            for site, config in self._sites:
                self._decide(site, config, reference)
            if not reference.keep_alive or not reference.rest:
                return
            data = reference.rest

    # --- parsers -----------------------------------------------------------------------------------------------------

    def _compare(self, data: bytes, reference: Parsed | int | None) -> None:
        plain = self.fast.parse_plain(data, HEADER_LIMIT)
        if plain is not None:
            request, length = plain
            found = _facts(request, data[length:])
            if not isinstance(reference, Parsed):
                broken(f"parse_plain takes what h11 answers with {reference}")
            if found != reference.facts():
                broken(f"parse_plain says {found!r}, h11 {reference.facts()!r}")
        whole = self._read([data])
        rng = random.Random(len(data))
        pieces, at = [], 0
        while at < len(data):
            size = rng.choice((1, 2, 7, 100, 4000))
            pieces.append(data[at : at + size])
            at += size
        cut = self._read(pieces)
        # A limit may be met sooner or later, depending on the pieces; what is taken must be the same.
        if isinstance(whole, tuple) and isinstance(cut, tuple) and whole[:4] != cut[:4]:
            broken(f"in one piece {whole!r}, in several {cut!r}")
        if isinstance(whole, int) and whole not in STATUSES:
            broken(f"a refusal with {whole}")

    def _read(self, pieces: list[bytes]) -> tuple[Any, ...] | int | None:
        reader = self.fast.Reader(HEADER_LIMIT)
        for number, piece in enumerate(pieces):
            reader.feed(piece)
            found = reader.next()
            if isinstance(found, self.fast.Refusal):
                return int(found.status)
            if found is not None:
                return _facts(found, reader.rest() + b"".join(pieces[number + 1 :]))
        return None

    # --- decision ----------------------------------------------------------------------------------------------------

    def _decide(self, site: Site, config: Config, parsed: Parsed) -> None:
        request = Request(parsed.method, parsed.target, parsed.fields, parsed.keep_alive)
        plan, file = decide(site, config, request, overloaded=False)
        try:
            if plan.status not in STATUSES:
                broken(f"status {plan.status}")
            if file is not None:
                # What is held in memory has no descriptor, but the path that it was found by.
                held = file.content is not None
                real = os.path.realpath(file.path) if held else os.readlink(f"/proc/self/fd/{file.fd}".encode())
                if not real.startswith(self._real) or b"/." in real[len(self._real) - 1 :]:
                    broken(f"{request.target!r} opens {real!r}")
            self._check(pieces(plan, request.method == "HEAD", not parsed.keep_alive), request.method, file)
        finally:
            if file is not None:
                file.close()

    def _check(self, sent: list[Any], method: str, file: Any) -> None:
        """Read the response as a client does: h11 again, which refuses what breaks out of a header."""
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        for piece in sent:
            if isinstance(piece, tuple):
                offset, length = piece
                if file is None or offset < 0 or length <= 0 or offset + length > file.size:
                    broken(f"{length} bytes from {offset} of {file}")
                client.receive_data(bytes(length))
            else:
                if b"secret" in piece or b".hidden" in piece.partition(b"\r\n\r\n")[2]:
                    broken(f"something is told: {piece[:500]!r}")
                client.receive_data(piece)
        events = []
        while (event := client.next_event()) is not h11.NEED_DATA:
            events.append(type(event))
            if isinstance(event, h11.EndOfMessage):
                break
        # Whole, and not a byte more: Content-Length is right.
        if events[:1] != [h11.Response] or events[-1:] != [h11.EndOfMessage] or client.trailing_data[0]:
            broken(f"the response is {events}, then {client.trailing_data[0][:100]!r}")


class Parsed:
    """A request as h11 reads it, and what follows it."""

    def __init__(self, event: Any, keep_alive: bool, rest: bytes) -> None:
        """Join repeated fields by a comma (RFC 9110 section 5.3)."""
        self.method = event.method.decode("ascii")
        self.target = bytes(event.target)
        self.fields: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value
        self.keep_alive = keep_alive
        self.rest = rest

    def facts(self) -> tuple[Any, ...]:
        """What another parser must say too."""
        return _facts(self, self.rest)


def _facts(request: Any, rest: bytes) -> tuple[Any, ...]:
    return (request.method, bytes(request.target), dict(request.fields), bytes(rest), bool(request.keep_alive))


def by_h11(data: bytes) -> Parsed | int | None:
    """Read the first request of ``data``: the request, the status of a refusal, or None when there is more to come."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)
    http.receive_data(data)
    request: Any = None
    try:
        while True:
            event = http.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif event is h11.NEED_DATA:
                return None
            elif isinstance(event, h11.EndOfMessage):
                keep_alive = http.their_state is h11.DONE
                return Parsed(request, keep_alive, bytes(http.trailing_data[0]))
            elif not isinstance(event, h11.Data):
                return None
    except h11.RemoteProtocolError as error:
        return int(error.error_status_hint)


def seeds() -> list[bytes]:
    """The corpus of the conformance tests, and what earlier runs found."""
    found = [case.send for case in corpus.load() if len(case.send) < 50_000]
    return found + [path.read_bytes() for path in sorted(CRASHERS.glob("*.bin"))]


def main() -> int:
    """The command. Returns 1 when something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.request", description="fuzz the request path")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="for the same inputs again (default: by chance)")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="run these inputs only")
    options = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as directory:
        target = RequestTarget(Path(directory))
        if options.replay:
            for path in options.replay:
                target(path.read_bytes())
            return 0
        seed = secrets.randbits(32) if options.seed is None else options.seed
        result = engine.fuzz(target, seeds(), TRACED, options.seconds, seed)
    print(result)
    for crasher in result.crashers:
        FOUND.mkdir(parents=True, exist_ok=True)
        (FOUND / crasher.name).write_bytes(crasher.data)
        print(f"{FOUND / crasher.name}: {crasher.error}", file=sys.stderr)
    return 1 if result.crashers else 0


if __name__ == "__main__":
    sys.exit(main())
