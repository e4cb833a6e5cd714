# SPDX-License-Identifier: Apache-2.0
"""Every public call of the binding in any order and with any argument. Runs in a child: see test_openssl_fuzz.py.

Each call is written to descriptor ``--log`` before it is made, so that the calls before a crash are known.
``python -m tests.unit.sidecar.openssl_machine --examples 1000`` for a longer search (paths as in long_binding).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import faulthandler
import gc
import os
import pickle
import resource
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ktls_sidecar.openssl import WANT_READ, WANT_WRITE, OpenSSLError, ServerContext, TlsConnection, load
from tests.unit.sidecar.openssl_support import VERSIONS, Authority, Pair

CLOSED_FD = 3000
"""A descriptor that nothing else gets."""


class ChooserError(Exception):
    """What a chooser raises on purpose."""


class Deceptive(bytes):
    """Claims to be longer than it is."""

    def __len__(self) -> int:
        return 1 << 20


class DeceptiveArray(ctypes.c_char * 10):  # type: ignore[misc]
    """The same for an array."""

    def __len__(self) -> int:
        return 1 << 20


class Parameter:
    """What ctypes would take for a pointer."""

    _as_parameter_ = 0x1000

    def __len__(self) -> int:
        return 1 << 20


small = [-2, -1, 0, 1, 2, 5, 100, 16384, 16385, 65536]
edges = [2**31 - 1, 2**31, 2**32, 2**32 + 5, 2**63 - 1, 2**63, 2**64 + 1, 2**70]
integers = st.sampled_from([*small, *edges, *(-edge for edge in edges)])
others = st.sampled_from([None, True, False, 1.5, float("nan"), "text", "", [], [1], {}, object, object(), ...])
datas: st.SearchStrategy[Any] = st.one_of(
    st.binary(max_size=400),
    st.sampled_from([b"", b"x" * 70000, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x80\x2e\x01"]),
    st.builds(lambda size: ctypes.create_string_buffer(os.urandom(size), size), st.integers(1, 100000)),
    st.builds(Deceptive, st.binary(max_size=20)),
    st.builds(bytearray, st.binary(max_size=20)),
    st.binary(max_size=20).map(lambda data: memoryview(data)),  # noqa: PLW0108 - mypy cannot follow the class
    st.builds(lambda: (ctypes.c_int * 3)(1, 2, 3)),
    st.builds(ctypes.c_char * 0),
    st.builds(ctypes.c_void_p * 2),
    st.builds(DeceptiveArray),
    st.builds(Parameter),
    st.builds(lambda: ctypes.c_void_p(0x1000)),
    st.builds(lambda: ctypes.pointer(ctypes.c_char(b"x"))),
    integers,
    others,
)
lengths = st.one_of(st.none(), st.integers(0, 300), integers, others)
choices = st.sampled_from(["none", "other", "new", "raise", "wrong", "free", "use", "replace", "self", "exit"])


class World:
    """What all examples share."""

    def __init__(self, directory: Path, log: int) -> None:
        self.lib = load()
        self.authority = Authority(directory)
        self.files = self.authority.pair("localhost")
        self.other = self.authority.context(self.lib, "localhost")
        self.client = self.authority.client()
        self.log = log
        path = directory / "file"
        path.write_bytes(b"f" * 100000)
        self.file = os.open(path, os.O_RDONLY)
        self.pipe, _ = os.pipe2(os.O_NONBLOCK)


world: World
calls_left = -1
"""Calls until a crash on purpose; negative: none."""


class Machine(RuleBasedStateMachine):
    """One context and up to three connections with their clients."""

    def __init__(self) -> None:
        super().__init__()
        self.note("--- a new example")
        self.context: ServerContext = ServerContext(world.lib, *world.files)
        self.pairs: list[Pair] = []
        self.sent: dict[Pair, bytes] = {}
        self.received: dict[Pair, bytes] = {}
        self.finished: set[Pair] = set()
        self.last: dict[Pair, tuple[Any, Any]] = {}

    # --- the machinery --------------------------------------------------------------------------------------

    def note(self, line: str) -> None:
        os.write(world.log, line.encode("utf-8", "backslashreplace")[:400] + b"\n")

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call; returns None for a refusal of the documented kinds."""
        self.note(f"{name}{tuple(_short(argument) for argument in arguments)}")
        global calls_left
        calls_left -= 1
        if calls_left == 0:
            ctypes.string_at(8)
        try:
            result = function(*arguments)
            self.note(f"    -> {_short(result)}")
            return result
        except (TypeError, ValueError, OpenSSLError, ChooserError) as error:
            self.note(f"    {type(error).__name__}: {error}")
            return None
        except AttributeError:
            # An object that never was initialised has nothing to lose.
            assert name.startswith("bare."), name
            return None
        except SystemExit:
            assert name.endswith("handshake"), name
            return None

    def pick(self, index: int) -> Pair:
        return self.pairs[index % len(self.pairs)]

    def teardown(self) -> None:
        for pair in self.pairs:
            with contextlib.suppress(OSError):
                pair.close()
        self.pairs.clear()
        assert not world.lib.handshaking

    # --- rules ----------------------------------------------------------------------------------------------

    @initialize(rx=st.booleans(), version=st.sampled_from(VERSIONS))
    def begin(self, rx: bool, version: ssl.TLSVersion) -> None:
        self.connect(rx, version, True)

    @rule(rx=st.booleans(), version=st.sampled_from(VERSIONS), done=st.sampled_from([True, True, False]))
    def open(self, rx: bool, version: ssl.TLSVersion, done: bool) -> None:
        self.connect(rx, version, done)

    def connect(self, rx: bool, version: ssl.TLSVersion, done: bool) -> None:
        self.note(f"connect(rx={rx}, {version.name}, done={done})")
        while len(self.pairs) > 2:
            self.pairs.pop(0).close()
        pair = Pair(self.context, world.client, version, rx=rx)
        if len(self.pairs) % 2 == 0:
            pair.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.sent[pair] = self.received[pair] = b""
        self.pairs.append(pair)
        if done:
            try:
                pair.handshake()
            except (ChooserError, ValueError, TypeError, SystemExit, OpenSSLError, ssl.SSLError) as error:
                self.note(f"    {type(error).__name__}: {error}")

    @rule(
        fd=st.one_of(
            st.just(CLOSED_FD), st.sampled_from(["file", "pipe"]), integers.filter(lambda n: n < 0 or n > 5000), others
        ),
        tx=st.booleans(),
        rx=st.booleans(),
        context=st.one_of(st.none(), others),
    )
    def construct(self, fd: Any, tx: bool, rx: bool, context: Any) -> None:
        """With a descriptor that is no socket of ours, or with something else."""
        number = {"file": world.file, "pipe": world.pipe}.get(fd, fd) if isinstance(fd, str) else fd
        tls = self.call("TlsConnection", TlsConnection, self.context if context is None else context, number, tx, rx)
        if tls is not None:
            for name in ("handshake", "read", "shutdown", "free", "free"):
                self.call(f"odd.{name}", getattr(tls, name))

    @rule(kind=st.sampled_from([TlsConnection, ServerContext]), arguments=st.lists(others, max_size=6))
    def construct_wrongly(self, kind: Any, arguments: list[Any]) -> None:
        self.call(kind.__name__, kind, *arguments)
        bare = kind.__new__(kind)
        for name in dir(kind):
            if not name.startswith("_"):
                self.call(f"bare.{name}", lambda bare=bare, name=name: getattr(bare, name)())
        self.call("bare.__init__", bare.__init__, *arguments)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), data=datas, length=lengths)
    def feed(self, index: int, data: Any, length: Any) -> None:
        self._sized(self.pick(index), "feed", data, length)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), data=datas, length=lengths, again=st.booleans())
    def write(self, index: int, data: Any, length: Any, again: bool) -> None:
        pair = self.pick(index)
        if again and pair in self.last:
            data, length = self.last[pair]
        result = self._sized(pair, "write", data, length)
        if result == WANT_WRITE:
            self.last[pair] = data, length
        elif result is not None:
            self._wrote(pair, result, bytes(data)[:result])

    def write_again(self, index: int, data: Any, again: bool) -> None:
        self.write(index, data, None, again)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), data=datas, again=st.booleans())
    def write_bytes(self, index: int, data: Any, again: bool) -> None:
        pair = self.pick(index)
        if again and pair in self.last:
            data = self.last[pair][0]
        result = self.call("write_bytes", pair.tls.write_bytes, data)
        if result == WANT_WRITE:
            self.last[pair] = data, len(data)
        elif result is not None:
            self._wrote(pair, result, data)

    def _wrote(self, pair: Pair, result: int, data: Any) -> None:
        assert result == WANT_READ or result == len(data) > 0
        if result > 0:
            self.last.pop(pair, None)
            self.sent[pair] += data

    def _sized(self, pair: Pair, name: str, data: Any, length: Any) -> Any:
        if length is None:
            with contextlib.suppress(TypeError):
                length = ctypes.sizeof(data) if isinstance(data, ctypes.Array) else len(data)
        return self.call(name, getattr(pair.tls, name), data, length)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), size=st.sampled_from([1, 1000, 60000]))
    def write_well(self, index: int, size: int) -> None:
        """As programs do: what is unfinished first, then something new."""
        pair = self.pick(index)
        if pair in self.last:
            retry = self.write_bytes if isinstance(self.last[pair][0], bytes) else self.write_again
            retry(index, None, True)
            return
        for _ in range(20):
            data = os.urandom(size)
            result = self.call("write_bytes", pair.tls.write_bytes, data)
            if result == WANT_WRITE:
                self.last[pair] = data, size
            elif result is not None:
                self._wrote(pair, result, data)
            if result != size or size < 60000:
                break

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2))
    def request(self, index: int) -> None:
        """A request that arrives."""
        self.client(index, "write", 1 << 20, False)
        self.read(index, 2)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), times=st.integers(1, 3))
    def read(self, index: int, times: int) -> None:
        tls = self.pick(index).tls
        for _ in range(times):
            result = self.call("read", tls.read)
            assert result is None or isinstance(result, bytes) or result in (0, WANT_READ, WANT_WRITE)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2))
    def handshake(self, index: int) -> None:
        assert self.call("handshake", self.pick(index).tls.handshake) in (None, 0, 1, WANT_READ, WANT_WRITE)

    @precondition(lambda self: self.pairs)
    @rule(
        index=st.integers(0, 2),
        fd=st.one_of(st.just(None), integers, others),
        offset=integers,
        length=st.one_of(integers, others),
    )
    def sendfile(self, index: int, fd: Any, offset: Any, length: Any) -> None:
        fd = world.file if fd is None else fd
        result = self.call("sendfile", self.pick(index).tls.sendfile, fd, offset, length)
        assert result is None

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), request=st.one_of(st.booleans(), integers, others))
    def key_update(self, index: int, request: Any) -> None:
        self.call("key_update", self.pick(index).tls.key_update, request)

    @precondition(lambda self: self.pairs)
    @rule(
        index=st.integers(0, 2), name=st.sampled_from(["input_pending", "pending", "shutdown", "disable_ktls", "free"])
    )
    def simple(self, index: int, name: str) -> None:
        result = self.call(name, getattr(self.pick(index).tls, name))
        assert result in (None, True, False)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2))
    def ask(self, index: int) -> None:
        """Everything that only answers."""
        tls = self.pick(index).tls
        for name, kinds in (
            ("alive", bool),
            ("ktls_send", bool),
            ("ktls_receive", bool),
            ("key_update_pending", bool),
            ("small_fragments", bool),
            ("resumed", bool),
            ("version", str),
            ("cipher", str),
            ("server_name", str),
            ("alpn", str),
        ):
            result = self.call(name, lambda name=name: getattr(tls, name))
            assert result is None or isinstance(result, kinds)
        assert tls.alive in (True, False)

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), how=st.sampled_from([copy.copy, copy.deepcopy, pickle.dumps]))
    def duplicate(self, index: int, how: Any) -> None:
        for thing in (self.pick(index).tls, self.context):
            assert self.call(how.__name__, how, thing) is None

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2))
    def construct_again(self, index: int) -> None:
        pair = self.pick(index)
        self.call("__init__", lambda: pair.tls.__init__(self.context, pair.ours.fileno()))  # type: ignore[misc]
        self.call("__init__", lambda: self.context.__init__(world.lib, *world.files))  # type: ignore[misc]
        # A freed connection may begin anew; what was sent before does not count.
        self.finished.add(pair)

    # --- the client -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.pairs)
    @rule(
        index=st.integers(0, 2),
        what=st.sampled_from(["handshake", "write", "unwrap", "read", "none"]),
        piece=st.sampled_from([1, 5, 100, 1 << 20]),
        damage=st.booleans(),
    )
    def client(self, index: int, what: str, piece: int, damage: bool) -> None:
        pair = self.pick(index)
        self.note(f"client({what}, {piece})")
        with contextlib.suppress(ssl.SSLError, OSError, ValueError, EOFError):
            if what == "handshake":
                pair.client.do_handshake()
            elif what == "write":
                pair.client.write(b"z" * 5000)
            elif what == "unwrap":
                pair.client.unwrap()
        with contextlib.suppress(ssl.SSLError, OSError, ValueError):
            pair.incoming.write(pair.theirs.recv(1 << 16))
        data = pair.outgoing.read(piece)
        if damage and piece == 5 and data:
            data = bytes([data[0] ^ 0x55]) + data[1:]
        if data and pair.tls.feeds:
            self.call("feed", pair.tls.feed, data, len(data))
        elif data:
            with contextlib.suppress(OSError):
                pair.theirs.send(data)
        if what == "read":
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.received[pair] += pair.client.read(1 << 16)
            if pair not in self.finished:
                got, sent = self.received[pair], self.sent[pair]
                waiting = self.last.get(pair)
                if waiting is not None:
                    sent += bytes(waiting[0])
                assert sent.startswith(got), "the client got what was not sent"

    @precondition(lambda self: self.pairs)
    @rule(index=st.integers(0, 2), ours=st.booleans())
    def close_socket(self, index: int, ours: bool) -> None:
        """Closed under the binding's feet; the number stays reserved, as its owner must see to."""
        pair = self.pick(index)
        self.note(f"close_socket(ours={ours})")
        if ours and pair.ours.fileno() >= 0:
            os.dup2(world.pipe, pair.ours.fileno())
        elif not ours:
            pair.theirs.close()

    # --- contexts -------------------------------------------------------------------------------------------

    @rule(choice=choices)
    def choose_by_name(self, choice: str) -> None:
        self.note(f"choose_by_name({choice})")
        pairs, context = self.pairs, self.context

        def select(name: str | None) -> Any:
            self.note(f"    select({name!r}) -> {choice}")
            if choice == "other":
                return world.other
            if choice == "new":
                return world.authority.context(world.lib, "localhost")
            if choice == "self":
                return context
            if choice == "raise":
                raise ChooserError
            if choice == "exit":
                raise SystemExit
            if choice == "replace":
                context.choose_by_name(lambda _name: None)
                gc.collect()
            if choice == "free":
                for pair in pairs:
                    pair.tls.free()
            if choice == "use":
                for pair in list(pairs):
                    for use in ("handshake", "read", "shutdown", "pending", "input_pending", "disable_ktls"):
                        with contextlib.suppress(ValueError, OpenSSLError, RecursionError, ChooserError, TypeError):
                            getattr(pair.tls, use)()
            return 5 if choice == "wrong" else None

        assert context.choose_by_name(select)

    @rule(wrong=st.one_of(integers, others.filter(lambda value: not callable(value))))
    def choose_wrongly(self, wrong: Any) -> None:
        assert self.call("choose_by_name", self.context.choose_by_name, wrong) is None

    @rule(keys=st.one_of(st.just(b"k" * 80), datas))
    def ticket_keys(self, keys: Any) -> None:
        self.call("set_ticket_keys", self.context.set_ticket_keys, keys)
        assert self.context.ticket_keys_length == 80

    @rule()
    def forget(self) -> None:
        """Drop the context while connections use it."""
        self.note("forget()")
        self.context = ServerContext(world.lib, *world.files)
        gc.collect()

    @rule(keep=st.booleans())
    def forget_connections(self, keep: bool) -> None:
        self.note("forget_connections()")
        if keep:
            self.pairs = self.pairs[:1]
        else:
            self.pairs = []
        gc.collect()


def _short(argument: Any) -> str:
    text = repr(argument)
    return text if len(text) < 60 else f"{text[:50]}... ({type(argument).__name__})"


def main() -> int:
    """Search. Exit status 0 means that nothing was found."""
    global world, calls_left
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--log", type=int, default=2, help="descriptor to write the calls to")
    parser.add_argument("--crash-after", type=int, default=-1, help="crash at this call, to test the report")
    options = parser.parse_args()
    faulthandler.enable()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, CLOSED_FD), hard))
    calls_left = options.crash_after
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), options.log)
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=options.examples,
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                verbosity=Verbosity.normal,
                suppress_health_check=list(HealthCheck),
            ),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
