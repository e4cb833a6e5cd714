# SPDX-License-Identifier: Apache-2.0
"""One client: handshake, requests, responses, end. Driven by its socket's events, without a task of its own."""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import response
from .accesslog import AccessLog
from .config import Config
from .counters import Counters, Tally
from .faults import IO_ERROR, KEY_UPDATE, blame, kind_of
from .hello import Hello
from .leave import is_ordered
from .lifetime import AGE, DRAINED, Lifetime
from .linger import Linger
from .openssl import WANT_WRITE, TlsConnection, TlsError, left_by_peer
from .peers import Peers
from .poller import HUNG_UP, READABLE, WRITABLE, Poller
from .request import Reader, Refusal, Request, parse_plain
from .seal import is_immutable
from .transfer import AGAIN, DONE, BufferPool, Transfer, TransferError, transfer
from .ulp import set_zerocopy
from .web.files import OpenFile
from .web.site import Site

_RESET = struct.pack("ii", 1, 0)
_RECEIVE_SIZE = 65536
_LINGER_S, _IDLE_LINGER_S = 1.0, 0.25
"""How long a client that has everything may take to close: after a response, and when it was idle (seconds)."""
_RETIRE_GRACE_S = 1.0
_TURN = 16
"""How many receives and responses a client gets before it is the turn of others."""

HANDSHAKE, IDLE, REQUEST, RESPOND, CLOSING, CLOSED = "handshake", "idle", "request", "send", "closing", "closed"


@dataclass
class Shared:
    """What all connections of one server use."""

    config: Config
    counters: Counters
    log: AccessLog
    fault: Callable[[str, str, str], None]
    """Called with kind, remote address and detail for each error of ours."""
    can_rekey: bool
    loop: asyncio.AbstractEventLoop
    poller: Poller
    site: Site
    peers: Peers
    look: Callable[[], object]
    """Takes note of the mode in force now, and may call :meth:`Connection.retire` of any connection."""
    ask: select.poll = field(default_factory=select.poll)
    buffers: BufferPool = field(default_factory=BufferPool)
    receive: ctypes.Array[ctypes.c_char] = field(default_factory=lambda: ctypes.create_string_buffer(_RECEIVE_SIZE))


class Connection:
    """A client on ``sock``, which is connected and non-blocking and becomes ours.

    ``assigned``: the mode that the server drew for it. ``refusal``: why it does not get that. ``tls12``: it is to be
    TLS 1.2 with AES-GCM, if its client can do that. ``closed`` is called once, when all is freed.
    """

    __slots__ = (
        "_assigned",
        "_closed",
        "_deadline",
        "_fd",
        "_file",
        "_flushing",
        "_hello",
        "_hung_up",
        "_input",
        "_keep",
        "_ktls",
        "_ktls_rx",
        "_labels",
        "_lifetime",
        "_limited",
        "_linger",
        "_overloaded",
        "_phase",
        "_queued",
        "_readable",
        "_reader",
        "_refusal",
        "_remote",
        "_request",
        "_retiring",
        "_sent",
        "_served",
        "_shared",
        "_sock",
        "_started",
        "_status",
        "_tally",
        "_tls",
        "_transfer",
        "_turn",
        "_want_tx",
        "_zerocopy",
    )

    def __init__(
        self,
        shared: Shared,
        sock: socket.socket,
        remote: str,
        tls: TlsConnection,
        closed: Callable[[Connection], None],
        assigned: str = "userspace",
        refusal: str | None = None,
        overloaded: bool = False,
        tls12: bool = False,
    ) -> None:
        """Prepare; :meth:`start` begins."""
        self._shared = shared
        self._sock = sock
        self._fd = sock.fileno()
        self._remote = remote
        self._tls = tls
        self._closed = closed
        self._assigned = assigned
        self._want_tx = assigned != "userspace"
        self._refusal = refusal
        self._overloaded = overloaded
        self._hello = Hello() if tls12 else None
        self._phase = HANDSHAKE
        self._deadline = time.monotonic() + shared.config.handshake_timeout_s
        self._lifetime: Lifetime | None = None
        self._limited = False
        self._served = 0
        self._sent = 0
        self._retiring = self._queued = False
        self._ktls = self._ktls_rx = self._zerocopy = False
        self._labels = ""
        self._tally: Tally | None = None
        self._readable = self._hung_up = self._flushing = False
        self._input = b""
        self._reader: Reader | None = None
        self._request: Request | None = None
        self._file: OpenFile | None = None
        self._transfer: Transfer | None = None
        self._keep = False
        self._turn = 0
        self._status = 0
        self._started = 0.0
        self._linger: Linger | None = None

    # --- called by the server -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve. Raises OSError when the socket cannot be watched; then nothing has begun."""
        self._shared.poller.add(self._fd, self._ready)

    def retire(self, ktls_allowed: bool) -> None:
        """End soon: after the response under way, or now if no request is under way."""
        self._retiring = True
        if self._phase == HANDSHAKE:
            if self._want_tx and not ktls_allowed:
                self._want_tx = False
                self._hello = None
                self._tls.disable_ktls()
        elif self._phase == IDLE:
            # A client that has just connected, or whose bytes are here, has a request on its way: it gets a moment.
            self._deadline = min(self._deadline, time.monotonic() + _RETIRE_GRACE_S)
            if self._served and not self._input_waits():
                self._guarded(self._stop)

    def check(self, now: float) -> None:
        """End the connection if its time is up; ``now`` is time.monotonic()."""
        if self._linger is not None:
            self._guarded(self._linger.poke)
        elif now > self._deadline:
            self._guarded(self._stop, "" if self._phase == IDLE else f"{self._phase}_timeout")
        elif self._phase == IDLE and self._over(now) == AGE and not self._input_waits():
            self._guarded(self._stop)

    def abort(self) -> None:
        """End now, whatever is under way."""
        self._close()

    def drop_unordered(self, mode: str) -> None:
        """End now if the kernel does more for this connection than ``mode`` orders: its time to finish is over."""
        if not is_ordered(mode, self._ktls, self._ktls_rx, self._assigned):
            self._guarded(self._cut)

    def _cut(self) -> None:
        if self._linger is not None and self._linger.delivered:
            self._close()
            return
        self._shared.counters.limited[DRAINED] += 1
        # By a reset: what the client does not take would keep the kernel's TLS state of this socket for minutes.
        self._forget_unsent()
        self._close()

    # --- events ---------------------------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        if events & READABLE:
            self._readable = True
            self._hung_up = bool(events & HUNG_UP)
        if self._queued:
            return  # its turn comes
        phase = self._phase
        if phase in (IDLE, REQUEST):
            if events & READABLE or self._flushing:
                self._guarded(self._drive)
        elif phase == RESPOND:
            if events & WRITABLE:
                self._guarded(self._drive)
        elif phase == HANDSHAKE:
            self._guarded(self._handshake)
        elif events & READABLE and self._linger is not None:
            self._guarded(self._linger.poke)

    def _yield(self) -> None:
        if not self._queued:
            self._queued = True
            self._shared.poller.later(self._resume)

    def _resume(self) -> None:
        self._queued = False
        if self._phase in (IDLE, REQUEST, RESPOND):
            self._guarded(self._drive)

    def _guarded(self, action: Callable[..., None], *arguments: str) -> None:
        """Nothing that one connection does may end the server."""
        try:
            action(*arguments)
        except TransferError as error:
            self._fault(error.kind, str(error))
            self._close()
        except TlsError as error:
            self._classify(error)
            self._close()
        except OSError as error:
            if left_by_peer(error.errno or 0):
                self._shared.counters.client_aborts["reset"] += 1
            else:
                self._fault(kind_of(error.errno), str(error))
            self._close()
        except Exception as error:
            self._fault("internal", f"{type(error).__name__}: {error}")
            self._close()

    # --- handshake ------------------------------------------------------------------------------------------

    def _handshake(self) -> None:
        tls = self._tls
        if self._want_tx:
            # So that no key enters the kernel after the order, or the flag, that ends this.
            self._shared.look()
        while True:
            if tls.feeds and not self._flushing and not tls.input_pending():
                count = self._receive()
                if count < 0:
                    return
                if count == 0:
                    self._stop("handshake")
                    return
                self._look_at_hello(count)
            result = tls.handshake()
            self._flushing = result == WANT_WRITE
            if result == 1:
                break
            if result == 0:
                self._stop("handshake")
                return
            if self._flushing or not tls.feeds:
                return
        config = self._shared.config
        self._ktls, self._ktls_rx = tls.ktls_send, tls.ktls_receive
        protocol, cipher = tls.version, tls.cipher
        self._tally = self._shared.counters.opened(self._assigned, self._ktls, self._ktls_rx, protocol, cipher)
        self._labels = self._shared.log.labels(protocol, cipher, self._ktls, self._ktls_rx)
        if self._want_tx and not self._ktls:
            self._shared.counters.fallbacks[self._refusal or response.fallback_reason(tls)] += 1
        elif self._want_tx and not self._ktls_rx and not tls.feeds:
            self._shared.counters.fallbacks[response.rx_fallback_reason(tls)] += 1
        if (self._ktls or self._ktls_rx) and protocol == "TLSv1.3" and not self._shared.can_rekey:
            self._lifetime = Lifetime(time.monotonic(), config.ktls_max_age_s, config.ktls_max_bytes)
        self._phase = IDLE
        self._deadline = time.monotonic() + (_RETIRE_GRACE_S if self._retiring else config.idle_timeout_s)
        # The first request may have come with the end of the handshake.
        self._readable = True
        self._drive()

    def _look_at_hello(self, count: int) -> None:
        """Decide on TLS 1.2 when the whole ClientHello is here, and before OpenSSL answers it."""
        hello = self._hello
        if hello is None or hello.able is not None:
            return
        hello.take(ctypes.string_at(self._shared.receive, count))
        if hello.able:
            self._tls.at_most_tls12()

    # --- requests and responses -----------------------------------------------------------------------------

    def _drive(self) -> None:
        """Go on until the socket has nothing to give or takes nothing more, or until it is the turn of others."""
        self._turn = _TURN
        while True:
            if self._turn <= 0:
                self._yield()
                return
            phase = self._phase
            if phase == RESPOND:
                if not self._push():
                    return
            elif phase in (CLOSING, CLOSED):
                return
            elif (self._input or self._reader is not None) and self._take():
                continue
            elif not self._pull():
                return

    def _take(self) -> bool:
        """Begin to answer the next request; False when it is not all here."""
        reader = self._reader
        if reader is None:
            found = parse_plain(self._input, self._shared.config.header_limit)
            if found is not None:
                request, end = found
                self._input = self._input[end:]
                self._respond(request)
                return True
            reader = self._reader = Reader(self._shared.config.header_limit)
            data, self._input = self._input, b""
            reader.feed(data)
            if self._phase == IDLE:
                self._phase = REQUEST
                self._deadline = time.monotonic() + self._shared.config.request_timeout_s
        result = reader.next()
        if result is None:
            if not reader.closed:
                return False
            self._finish(_LINGER_S)
            return True
        self._input, self._reader = reader.rest(), None
        self._respond(result)
        return True

    def _respond(self, request: Request | Refusal) -> None:
        shared = self._shared
        self._started = now = time.monotonic()
        self._phase = RESPOND
        self._deadline = now + shared.config.send_timeout_s
        if isinstance(request, Refusal):
            self._request = request.request
            decided, self._file, self._keep = response.refusal(request), None, False
        else:
            self._request = request
            try:
                decided, self._file = response.decide(shared.site, shared.config, request, self._overloaded)
            except OSError as error:
                self._fault(IO_ERROR, f"cannot open a file: {error.strerror}")
                decided, self._file = response.unreadable(), None
            self._keep = request.keep_alive and not self._overloaded
        self._keep = self._keep and not self._retiring and self._over(now) is None
        head_only = self._request is not None and self._request.method == "HEAD"
        pieces = response.pieces(decided, head_only, not self._keep)
        assert self._tally is not None  # set by the handshake
        file = self._file if len(pieces) > 1 else None
        self._status = decided.status
        shared.counters.requests[decided.status] += 1
        self._tally.requests_total += 1
        self._served += 1
        if file is not None and file.content is None and self._ktls and shared.config.zerocopy:
            allowed = is_immutable(file.fd)
            if allowed != self._zerocopy:
                self._zerocopy = set_zerocopy(self._sock, allowed)
        self._transfer = transfer(self._tls, self._sock, shared.buffers, self._tally, pieces, file, self._ktls)

    def _push(self) -> bool:
        """Send. False when the socket takes nothing more now, or when it is the turn of others."""
        current = self._transfer
        assert current is not None
        before = current.sent
        outcome = current.step()
        if outcome != DONE:
            if current.sent != before:
                self._deadline = time.monotonic() + self._shared.config.send_timeout_s
            if outcome == AGAIN:
                self._yield()
            return False
        self._end_response(complete=True)
        self._turn -= 1
        if self._keep and not self._retiring:
            self._phase = IDLE
            self._deadline = time.monotonic() + self._shared.config.idle_timeout_s
        else:
            self._finish(_LINGER_S)
        return True

    def _end_response(self, complete: bool) -> None:
        current, self._transfer = self._transfer, None
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if current is not None:
            current.release()
            self._sent += current.sent
            took = time.monotonic() - self._started
            if complete:
                self._shared.counters.timed(self._assigned, took)
            self._shared.log.response(
                self._labels,
                self._remote,
                self._request,
                self._status,
                current.sent,
                complete,
                took,
            )
            self._request = None

    def _over(self, now: float) -> str | None:
        """Return why this connection has lived long enough; counts that once."""
        why = self._lifetime.over(now, self._sent) if self._lifetime is not None else None
        if why is not None and not self._limited:
            self._limited = True
            self._shared.counters.limited[why] += 1
        return why

    # --- reading --------------------------------------------------------------------------------------------

    def _pull(self) -> bool:
        """Decrypt what the client sent and keep it; False when there is nothing now, or at the end.

        Records without data are not counted by anybody else: a client may send KeyUpdates for ever.
        """
        tls = self._tls
        while True:
            if self._turn <= 0:
                return True  # what the client sends has no end; _drive sees to that
            self._turn -= 1
            if tls.feeds and not tls.input_pending():
                count = self._receive()
                if count < 0:
                    return False
                if count == 0:
                    return self._end_of_input()
            try:
                result = tls.read()
            except TlsError as error:
                if tls.feeds or error.errno or not error.peer_left:
                    raise
                # The stream ended without close_notify: as common as with one.
                return self._end_of_input()
            if (self._ktls or self._ktls_rx) and not self._shared.can_rekey and tls.key_update_pending:
                # The answer would leave with keys that the kernel does not take: end cleanly before it is sent.
                self._no_key_update("the client asked for new keys, which kTLS cannot do on this host")
                self._stop()
                return False
            if isinstance(result, bytes):
                assert self._tally is not None  # set by the handshake
                self._tally.received_total += len(result)
                self._keep_input(result)
                return True
            if result == 0:
                return self._end_of_input()
            self._flushing = result == WANT_WRITE
            if self._flushing:
                return False
            if not tls.feeds and not self._more_in_socket():
                return False

    def _keep_input(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.feed(data)
        else:
            self._input = self._input + data if self._input else data

    def _end_of_input(self) -> bool:
        if self._reader is None:
            if self._ktls:
                self._finish(_LINGER_S)
            else:
                # What TCP has, it delivers after a close too.
                self._tls.shutdown()
                self._close()
            return False
        self._reader.feed(b"")
        return True

    def _receive(self) -> int:
        """Feed TLS from the socket: bytes, 0 at the end of the stream, -1 when there is nothing now."""
        if not self._readable:
            return -1
        shared = self._shared
        try:
            count = self._sock.recv_into(shared.receive)
        except (BlockingIOError, InterruptedError):
            self._readable = False
            return -1
        if count:
            self._tls.feed(shared.receive, count)
            if count < _RECEIVE_SIZE and not self._hung_up:
                # All there was, so what comes next is an edge (epoll(7), question 9).
                self._readable = False
        return count

    def _more_in_socket(self) -> bool:
        """Ask the kernel, where OpenSSL reads from the socket: it also stops after a record that is not data."""
        if self._tls.pending():
            return True
        ask = self._shared.ask
        ask.register(self._fd, select.POLLIN)
        try:
            return any(events & select.POLLIN for _, events in ask.poll(0))
        finally:
            ask.unregister(self._fd)

    def _input_waits(self) -> bool:
        if self._input or self._reader is not None:
            return True
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    # --- the end --------------------------------------------------------------------------------------------

    def _stop(self, abort: str = "") -> None:
        """End. ``abort`` names what the client did, or is empty."""
        if abort:
            self._shared.counters.client_aborts[abort] += 1
            if self._phase == RESPOND:
                self._forget_unsent()
        elif self._phase == IDLE:
            # The last response may still be on its way.
            self._finish(_IDLE_LINGER_S)
            return
        if self._phase not in (RESPOND, CLOSING):
            # Half a response must not look finished, and OpenSSL may still point at its buffer.
            self._tls.shutdown()
        self._close()

    def _finish(self, linger_s: float) -> None:
        self._phase = CLOSING
        self._deadline = float("inf")  # kept by Linger
        shared = self._shared
        self._linger = Linger(
            shared.loop,
            self._sock,
            self._tls,
            self._ktls,
            linger_s,
            shared.config.send_timeout_s,
            shared.receive,
            self._lingered,
        )
        self._linger.start()

    def _forget_unsent(self) -> None:
        """Let the close be a reset: else the kernel keeps what the client does not take, for minutes (socket(7))."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _lingered(self, error: TlsError | None) -> None:
        if self._linger is not None and self._linger.unsent:
            self._forget_unsent()
        if error is not None:
            self._classify(error)
        self._close()

    def _close(self) -> None:
        if self._phase == CLOSED:
            return
        self._end_response(complete=False)
        self._phase = CLOSED
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._shared.poller.remove(self._fd)
        self._tls.free()
        self._sock.close()
        tally, self._tally = self._tally, None
        if tally is not None:
            self._shared.counters.closed(tally)
        self._closed(self)

    def _classify(self, error: TlsError) -> None:
        if self._phase == HANDSHAKE and self._hello is not None and self._hello.able and not error.peer_left:
            # It may be that TLS 1.2 is what failed: this client has another one, from userspace, when it comes again.
            self._shared.peers.remember(self._remote)
        ours, kind = blame(error, self._phase == HANDSHAKE, self._ktls_rx)
        if kind == KEY_UPDATE:
            self._no_key_update(str(error))
        elif ours:
            self._fault(kind, str(error))
        else:
            self._shared.counters.client_aborts[kind] += 1

    def _no_key_update(self, detail: str) -> None:
        self._shared.peers.remember(self._remote)
        self._fault(KEY_UPDATE, f"{detail}; its next connections stay in userspace for a while")

    def _fault(self, kind: str, detail: str) -> None:
        self._shared.counters.errors[kind] += 1
        self._shared.counters.errors_by_mode[self._assigned] += 1
        self._shared.fault(kind, self._remote, detail)
