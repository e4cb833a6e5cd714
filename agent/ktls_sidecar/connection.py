# SPDX-License-Identifier: Apache-2.0
"""One client: handshake, requests, responses, end."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import socket
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11

from .accesslog import AccessLog
from .config import Config
from .counters import Counters, Tally
from .openssl import WANT_WRITE, TlsConnection, TlsError, left_by_peer
from .openssl.constants import SSL_AD_BAD_RECORD_MAC
from .transfer import BufferPool, Transfer, TransferError
from .web.dates import format_date
from .web.files import OpenFile, RefusedError, open_target, parse_target
from .web.respond import Plan, plan, reason, refuse

_RECEIVE_SIZE = 65536
_BODY_LIMIT = 65536
_LINGER_S, _IDLE_LINGER_S = 1.0, 0.25
"""How long a client that has everything may take to close: after a response, and when it was idle (seconds)."""
_POLL_S, _POLL_MAX_S = 0.002, 0.1
_RETIRE_GRACE_S = 1.0

HANDSHAKE, IDLE, REQUEST, RESPOND, CLOSING = "handshake", "idle", "request", "send", "closing"


@dataclass
class Shared:
    """What all connections of one server use."""

    config: Config
    counters: Counters
    log: AccessLog
    fault: Callable[[str, str, str], None]
    """Called with kind, remote address and detail for each error of ours."""
    can_rekey: bool
    buffers: BufferPool = field(default_factory=BufferPool)
    receive: ctypes.Array[ctypes.c_char] = field(default_factory=lambda: ctypes.create_string_buffer(_RECEIVE_SIZE))


class _EndError(Exception):
    """This connection is over. ``abort`` names what the client did, or is empty."""

    def __init__(self, abort: str = "") -> None:
        self.abort = abort
        super().__init__(abort)


class _Length:
    """Stands for body bytes that h11 only counts."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


class Connection:
    """A client on ``sock``, which is connected and non-blocking and becomes ours.

    ``want_tx``: the server's mode asks for kTLS TX. ``refusal``: why the ULP could not be attached.
    """

    def __init__(
        self,
        shared: Shared,
        sock: socket.socket,
        remote: str,
        tls: TlsConnection,
        want_tx: bool,
        refusal: str | None,
        overloaded: bool,
    ) -> None:
        """Prepare; :meth:`run` does the work."""
        self._shared = shared
        self._sock = sock
        self._fd = sock.fileno()
        self._remote = remote
        self._tls = tls
        self._want_tx = want_tx
        self._refusal = refusal
        self._overloaded = overloaded
        self._loop = asyncio.get_running_loop()
        self._phase = HANDSHAKE
        self._deadline = time.monotonic() + shared.config.handshake_timeout_s
        self._served = 0
        self._retiring = False
        self._ktls = False
        self._protocol = self._cipher = ""
        self._tally: Tally | None = None
        self._read_waiter: asyncio.Future[int] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._reading = False
        self._transfer: Transfer | None = None

    # --- called by the server -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the connection ends. Raises nothing but CancelledError."""
        shared = self._shared
        try:
            await self._handshake()
            await self._serve()
            await self._finish(_LINGER_S)
        except _EndError as end:
            if end.abort:
                shared.counters.client_aborts[end.abort] += 1
            elif self._phase == IDLE:
                # The last response may still be on its way.
                await self._finish(_IDLE_LINGER_S)
            if self._phase not in (RESPOND, CLOSING):
                # Half a response must not look finished, and OpenSSL may still point at its buffer.
                self._tls.shutdown()
        except TransferError as error:
            self._fault(error.kind, str(error))
        except TlsError as error:
            self._classify(error)
        except OSError as error:
            if left_by_peer(error.errno or 0):
                shared.counters.client_aborts["reset"] += 1
            else:
                self._fault("io_error", str(error))
        except Exception as error:  # one connection must not end the server
            self._fault("internal", f"{type(error).__name__}: {error}")
        finally:
            self._close()

    def retire(self, ktls_allowed: bool) -> None:
        """End soon: after the response under way, or now if no request is under way."""
        self._retiring = True
        if self._phase == HANDSHAKE:
            if self._want_tx and not ktls_allowed:
                self._want_tx = False
                self._tls.disable_ktls()
        elif self._phase == IDLE:
            if self._served and not self._input_waits():
                self._interrupt(_EndError())
            # A client that has just connected, or whose bytes are here, has a request on its way: it gets a moment.
            self._deadline = min(self._deadline, time.monotonic() + _RETIRE_GRACE_S)

    def check(self, now: float) -> None:
        """End the connection if its time is up; ``now`` is time.monotonic()."""
        if now > self._deadline:
            self._interrupt(_EndError("" if self._phase in (IDLE, CLOSING) else f"{self._phase}_timeout"))

    # --- handshake ------------------------------------------------------------------------------------------

    async def _handshake(self) -> None:
        tls = self._tls
        while True:
            result = tls.handshake()
            if result == 1:
                break
            if result == WANT_WRITE:
                await self._writable()
            elif not tls.input_pending() and not await self._receive():
                raise _EndError("handshake")
        self._ktls = tls.ktls_send
        self._protocol, self._cipher = tls.version, tls.cipher
        self._tally = self._shared.counters.opened(
            "tx" if self._want_tx else "userspace", self._ktls, tls.ktls_receive, self._protocol, self._cipher
        )
        if self._want_tx and not self._ktls:
            self._shared.counters.fallbacks[self._fallback_reason()] += 1

    def _fallback_reason(self) -> str:
        if self._refusal is not None:
            return self._refusal
        if self._protocol not in ("TLSv1.2", "TLSv1.3"):
            return "version"
        if not any(mode in self._cipher for mode in ("GCM", "CHACHA20", "CCM")) or "CCM8" in self._cipher:
            return f"cipher:{self._cipher}"
        return "max_fragment" if self._tls.small_fragments else "other"

    # --- requests -------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        config = self._shared.config
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=config.header_limit)
        while True:
            self._phase = IDLE
            self._deadline = time.monotonic() + config.idle_timeout_s
            if self._retiring and not self._served:
                self._deadline = time.monotonic() + _RETIRE_GRACE_S
            refusal: Plan | None = None
            request: Any = None
            try:
                request = await self._next_request(http)
                if request is None:
                    return
            except h11.RemoteProtocolError as error:
                refusal = _protocol_refusal(http, error)
                if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                    return
            except RefusedError as error:
                refusal = refuse(error.status, error.text)
            self._phase = RESPOND
            if not await self._respond(http, request, refusal):
                return
            http.start_next_cycle()

    async def _next_request(self, http: Any) -> Any:
        """Return the next h11.Request, its body read and dropped; None when the client is done."""
        request: Any = None
        body = 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    return request
                data = await self._read()
                if data and self._phase == IDLE:
                    self._phase = REQUEST
                    self._deadline = time.monotonic() + self._shared.config.request_timeout_s
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
                if event.method not in (b"GET", b"HEAD"):
                    return request
            elif isinstance(event, h11.Data):
                body += len(event.data)
                if body > _BODY_LIMIT:
                    raise RefusedError(413, "a GET here takes no body")
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:  # ConnectionClosed
                return None

    async def _respond(self, http: Any, request: Any, refusal: Plan | None) -> bool:
        """Answer. Returns True when another request may follow."""
        config, started = self._shared.config, time.monotonic()
        self._deadline = started + config.send_timeout_s
        file: OpenFile | None = None
        decided = refusal
        try:
            if decided is None:
                decided, file = self._decide(request)
            head_only = request is not None and request.method == b"HEAD"
            close = self._retiring or self._overloaded or refusal is not None or http.their_state is not h11.DONE
            head = _head(http, decided, close, head_only)
            assert self._tally is not None  # set by the handshake
            use_file = file if decided.length and not head_only else None
            transfer = Transfer(
                self._tls,
                self._shared.buffers,
                self._tally,
                head if head_only else head + decided.text,
                use_file,
                decided.offset,
                decided.length,
                use_sendfile=self._ktls and use_file is not None,
            )
            self._shared.counters.requests[decided.status] += 1
            self._served += 1
            complete = False
            try:
                await self._send(transfer)
                complete = True
            finally:
                transfer.release()
                self._log(request, decided.status, transfer.sent, complete, time.monotonic() - started)
        finally:
            if file is not None:
                file.close()
        return bool(not self._retiring and http.our_state is h11.DONE and http.their_state is h11.DONE)

    def _decide(self, request: Any) -> tuple[Plan, OpenFile | None]:
        config = self._shared.config
        if self._overloaded:
            return refuse(503, "too many connections", [("Retry-After", "5")]), None
        method = request.method.decode("ascii")
        if method not in ("GET", "HEAD"):
            return refuse(405, "only GET and HEAD are served", [("Allow", "GET, HEAD")]), None
        if len(request.target) > config.uri_limit:
            return refuse(414, "the path is too long"), None
        try:
            file = open_target(config.root, parse_target(request.target))
        except RefusedError as error:
            return refuse(error.status, error.text), None
        except OSError as error:
            self._fault("io_error", f"cannot open a file: {error.strerror}")
            return refuse(500, "the file cannot be read"), None
        return plan(method, _fields(request), file), file

    def _log(self, request: Any, status: int, sent: int, complete: bool, duration_s: float) -> None:
        self._shared.log.write(
            time=round(time.time(), 3),
            remote=self._remote,
            method=_printable(request.method) if request is not None else None,
            path=_printable(request.target) if request is not None else None,
            status=status,
            bytes=sent,
            complete=complete,
            duration_s=round(duration_s, 4),
            protocol=self._protocol,
            cipher=self._cipher,
            ktls_tx=self._ktls,
        )

    # --- TLS over the event loop ----------------------------------------------------------------------------

    async def _read(self) -> bytes:
        """Return decrypted bytes, or b"" when the client has finished."""
        tls = self._tls
        while True:
            result = tls.read()
            if self._ktls and not self._shared.can_rekey and tls.key_update_pending:
                # The answer would leave with keys that the kernel does not take: end cleanly before it is sent.
                self._fault("key_update", "the client asked for new keys, which kTLS cannot do on this host")
                raise _EndError
            if isinstance(result, bytes):
                return result
            if result == 0:
                return b""
            if result == WANT_WRITE:
                await self._writable()
            elif not tls.input_pending() and not await self._receive():
                return b""

    async def _receive(self) -> int:
        """Wait for bytes of the socket and feed them to TLS; 0 at the end of the stream."""
        waiter = self._read_waiter = self._loop.create_future()
        if not self._reading:
            self._loop.add_reader(self._fd, self._on_readable)
            self._reading = True
        count: int = await waiter
        return count

    def _on_readable(self) -> None:
        waiter = self._read_waiter
        if waiter is None or waiter.done():
            # The client pipelines while we send: leave it in the socket, which slows the client down.
            self._stop_reading()
            return
        try:
            count = self._sock.recv_into(self._shared.receive)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._stop_reading()
            self._interrupt(error)
            return
        if count == 0:
            self._stop_reading()
        elif self._phase != CLOSING:
            try:
                self._tls.feed(self._shared.receive, count)
            except TlsError as error:
                self._interrupt(error)
                return
        self._read_waiter = None
        waiter.set_result(count)

    def _stop_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    async def _writable(self) -> None:
        waiter = self._write_waiter = self._loop.create_future()
        self._loop.add_writer(self._fd, self._on_writable)
        try:
            await waiter
        finally:
            self._loop.remove_writer(self._fd)

    async def _send(self, transfer: Transfer) -> None:
        if transfer.step():
            return
        self._transfer = transfer
        try:
            await self._writable()
        finally:
            self._transfer = None

    def _on_writable(self) -> None:
        waiter, transfer = self._write_waiter, self._transfer
        if waiter is None or waiter.done():
            return
        if transfer is not None:
            before = transfer.sent
            try:
                finished = transfer.step()
            except (TlsError, TransferError) as error:
                self._interrupt(error)
                return
            if transfer.sent != before:
                self._deadline = time.monotonic() + self._shared.config.send_timeout_s
            if not finished:
                return
        self._write_waiter = None
        waiter.set_result(None)

    def _interrupt(self, error: BaseException) -> None:
        """Raise ``error`` where :meth:`run` waits; nothing happens if it does not wait."""
        waiters = (self._read_waiter, self._write_waiter)
        self._read_waiter = self._write_waiter = None
        for waiter in waiters:
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)

    def _input_waits(self) -> bool:
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    # --- the end --------------------------------------------------------------------------------------------

    async def _finish(self, linger_s: float) -> None:
        """Say goodbye so that the client gets everything, and give it ``linger_s`` seconds to close first.

        What the kernel took for kTLS may still wait outside of TCP's queue, because that was full. A FIN or a close
        would overtake and drop it (net/tls/tls_sw.c, tls_sw_release_resources_tx). So close_notify goes out when the
        queue is empty, which pushes the rest before it; it is the end of the stream to a TLS client, and the
        connection is not half-closed. A close with unread input would reset the connection, so input is dropped.
        """
        self._phase = CLOSING
        self._stop_reading()
        self._deadline = float("inf")  # kept here
        notified = False
        before, patience = -1, time.monotonic() + self._shared.config.send_timeout_s
        pause = _POLL_S
        while not self._client_has_closed():
            now, queued = time.monotonic(), self._queued()
            if not notified and (queued == 0 or not self._ktls):
                notified = self._tls.shutdown()
                before = -1
            elif notified and queued == 0:
                patience = min(patience, now + linger_s)
            if queued != before:
                before = queued
                if queued:
                    patience = now + self._shared.config.send_timeout_s
            if now > patience:
                return
            await asyncio.sleep(pause)
            pause = min(_POLL_MAX_S, pause * 1.5)

    def _queued(self) -> int:
        """Bytes that TCP has and the client has not acknowledged. SIOCOUTQ of tcp(7)."""
        count = ctypes.c_int(0)
        fcntl.ioctl(self._fd, termios.TIOCOUTQ, count)
        return count.value

    def _client_has_closed(self) -> bool:
        """Read and drop what there is; True at the end of the stream or after an error."""
        try:
            while self._sock.recv_into(self._shared.receive):
                pass
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        return True

    def _close(self) -> None:
        self._stop_reading()
        self._loop.remove_writer(self._fd)
        self._tls.free()
        self._sock.close()
        tally, self._tally = self._tally, None
        if tally is not None:
            self._shared.counters.closed(tally)

    def _classify(self, error: TlsError) -> None:
        aborts = self._shared.counters.client_aborts
        if error.peer_left:
            aborts["handshake" if self._phase == HANDSHAKE else "reset"] += 1
        elif error.is_internal:
            self._fault("ssl_error", str(error))
        elif "no suitable record layer" in str(error):
            self._fault("key_update", str(error))
        elif self._phase == HANDSHAKE:
            aborts["handshake"] += 1
        elif error.alert == SSL_AD_BAD_RECORD_MAC:
            # The client says that what we sent did not decrypt.
            self._fault("bad_record_mac", str(error))
        elif error.operation == "SSL_sendfile":
            self._fault("sendfile_failed", str(error))
        elif error.operation == "SSL_read":
            aborts["alert" if error.alert is not None else "bad_record"] += 1
        else:
            self._fault("io_error" if error.errno else "ssl_error", str(error))

    def _fault(self, kind: str, detail: str) -> None:
        self._shared.counters.errors[kind] += 1
        self._shared.fault(kind, self._remote, detail)


_date: tuple[int, str] = (0, "")


def _now() -> str:
    global _date
    second = int(time.time())
    if _date[0] != second:
        _date = (second, format_date(second))
    return _date[1]


def _head(http: Any, decided: Plan, close: bool, head_only: bool) -> bytes:
    headers = [("Date", _now()), ("Server", "ktls-sidecar"), *decided.headers, ("X-Content-Type-Options", "nosniff")]
    if close:
        headers.append(("Connection", "close"))
    head = http.send(h11.Response(status_code=decided.status, headers=headers, reason=reason(decided.status)))
    if decided.body_length and not head_only:
        http.send_with_data_passthrough(h11.Data(data=_Length(decided.body_length)))
    http.send(h11.EndOfMessage())
    return bytes(head)


def _fields(request: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _protocol_refusal(http: Any, error: Any) -> Plan:
    status = int(error.error_status_hint)
    if status == 431 and b"\n" not in http.trailing_data[0]:
        return refuse(414, "the request line is too long")
    if status == 431:
        return refuse(431, "the header is too long")
    return refuse(status if status in (400, 501) else 400, "this is not valid HTTP/1.1")


def _printable(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")
