# SPDX-License-Identifier: Apache-2.0
"""The command with several workers, as processes: who lives, who dies, and what all of them agree on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_host.jsonsock import JsonSockError
from ktls_sidecar import certificates
from ktls_sidecar.channel import Channel
from ktls_sidecar.config import parse
from ktls_sidecar.openssl import load
from ktls_sidecar.poller import Poller
from ktls_sidecar.supervisor import Supervisor
from ktls_sidecar.worker import Job, Worker
from tests.unit.sidecar.processes import WORKERS, Command, Crew
from tests.unit.sidecar.support import Certificate, Client, eventually


@pytest.fixture
def crew(command: Command, certificate: Certificate) -> Iterator[Crew]:
    running = Crew(command, certificate)
    yield running
    running.end()


def close_all(clients: list[Client]) -> None:
    for client in clients:
        with contextlib.suppress(OSError):
            client.__exit__()


def refused(crew: Crew) -> bool:
    """True when nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", crew.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- working together ---------------------------------------------------------------------------------------------


def test_every_worker_serves_and_they_count_as_one(crew: Crew) -> None:
    assert sorted(crew.pids()) == sorted(children(crew.child.pid))
    assert len(crew.pids()) == WORKERS
    clients = crew.spread()
    status = crew.status()
    assert status["pid"] == crew.child.pid
    assert status["connections"] == {"ktls_tx": 0, "userspace": len(clients)}
    assert sum(worker["connections"] for worker in status["workers"]) == len(clients)
    assert all(abs(worker["started"] - time.time()) < 60 for worker in status["workers"])
    text = crew.call(verb="metrics")["text"]
    assert f'ktls_sidecar_requests_total{{code="200"}} {len(clients)}\n' in text
    assert f"ktls_sidecar_workers {WORKERS}\n" in text
    close_all(clients)
    eventually(lambda: crew.status()["connections"]["userspace"] == 0)
    assert crew.end() == (0, "")


def test_access_log_lines_are_whole(crew: Crew) -> None:
    def load() -> None:
        with crew.client() as client:
            for number in range(150):
                client.get(f"/{'x' * 400}{number}")

    stream = crew.child.stdout
    assert stream is not None
    lines: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: lines.extend(json.loads(line) for line in stream))
    threads = [reader, *(threading.Thread(target=load) for _ in range(6))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    crew.child.terminate()
    reader.join(20)
    assert len(lines) == 6 * 150
    assert {line["status"] for line in lines} == {404}


def test_ipv6_and_ipv4(command: Command, certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    crew = Crew(command, certificate, listen=[{"host": "127.0.0.1", "port": port}, {"host": "::1", "port": port}])
    for host in ("127.0.0.1", "[::1]"):
        url = f"https://localhost:{port}/f"
        curl = ["curl", "-sS", "--fail", "--cacert", str(certificate.ca), "--connect-to", f"::{host}:{port}", url]
        assert subprocess.run(curl, capture_output=True, text=True, timeout=20, check=True).stdout == "f"
    assert crew.end()[0] == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_resumes_in_any_worker(crew: Crew, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(crew.certificate.ca))
    context.minimum_version = context.maximum_version = version

    def visit(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with (
            socket.create_connection(("127.0.0.1", crew.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost", session=session) as sock,
        ):
            sock.sendall(b"GET /f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while sock.recv(4096):
                pass
            return sock.session, bool(sock.session_reused)

    for _ in range(2):
        session, reused = visit(None)
        assert not reused
        before = crew.status()["workers"]
        assert [visit(session)[1] for _ in range(12)] == [True] * 12
        # With 12 visits the chance that one worker of three got all is below 1 in 100 000.
        assert len(before) == WORKERS
        os.kill(crew.child.pid, signal.SIGHUP)
        assert crew.child.stderr is not None
        assert "read again" in crew.child.stderr.readline()
        # New keys came with the reload, the same for all.
        assert not visit(session)[1]


def test_the_most_connections_is_for_all_together(command: Command, certificate: Certificate) -> None:
    crew = Crew(command, certificate, max_connections=6)
    clients = [crew.client() for _ in range(60)]
    answers = [client.get("/f").status for client in clients]
    close_all(clients)
    # Two for each of three workers; all three are hit by 60 with certainty enough.
    assert (answers.count(200), answers.count(503)) == (6, 54)
    crew.end()


# --- mode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rx", "hw"])
def test_every_mode_is_in_the_metrics(crew: Crew, mode: str) -> None:
    assert crew.call(verb="mode", mode=mode)["effective_mode"] == mode
    assert f'ktls_sidecar_mode{{mode="{mode}"}} 1\n' in crew.call(verb="metrics")["text"]


def test_workers_are_told_of_tls12(crew: Crew) -> None:
    assert crew.call(verb="mode", mode="hw", tls12=True)["tls12"] is True
    assert crew.call(verb="mode", mode="tx")["tls12"] is False
    with pytest.raises(JsonSockError) as caught:
        crew.call(verb="mode", mode="rx", tls12=True)
    assert caught.value.code == "bad_tls12"


def drawn(crew: Crew) -> dict[str, int]:
    """Finished handshakes by assigned mode."""
    found: dict[str, int] = {}
    for row in crew.status()["by"]:
        found[row["assigned"]] = found.get(row["assigned"], 0) + row["connections_total"]
    return found


def test_a_mode_change_is_answered_when_all_have_it(crew: Crew) -> None:
    expected = {"userspace": 0, "tx": 0}
    for mode in ("tx", "userspace", "tx", "tx", "userspace"):
        answer = crew.call(verb="mode", mode=mode)
        assert (answer["mode"], answer["effective_mode"], answer["share"]) == (mode, mode, 1.0)
        for _ in range(15):
            with crew.client() as client:
                client.get("/f")
        expected[mode] += 15
        assert {**dict.fromkeys(expected, 0), **drawn(crew)} == expected


def test_a_mode_change_takes_less_than_100_ms(crew: Crew) -> None:
    clients = crew.spread()
    took = []
    for number in range(9):
        start = time.monotonic()
        crew.call(verb="mode", mode=("tx", "userspace")[number % 2])
        took.append(time.monotonic() - start)
    close_all(clients)
    # The median: this machine may be busy with something else for a moment.
    assert sorted(took)[4] < 0.1


def test_a_share_is_drawn_in_all_workers(crew: Crew) -> None:
    assert crew.call(verb="mode", mode="tx", share=0.5)["share"] == 0.5
    for _ in range(60):
        with crew.client() as client:
            client.get("/f")
    found = drawn(crew)
    assert found["tx"] + found["userspace"] == 60
    assert min(found.values()) > 10
    with pytest.raises(JsonSockError) as caught:
        crew.call(verb="mode", mode="tx", share=1.5)
    assert caught.value.code == "bad_share"


def test_the_off_flag_ends_the_order_for_all(crew: Crew) -> None:
    clients = crew.spread()
    crew.call(verb="mode", mode="tx")
    close_all(clients)
    clients = crew.spread()
    crew.off_flag.touch()
    for client in clients:
        assert client.closed()
    with pytest.raises(JsonSockError) as caught:
        crew.call(verb="mode", mode="tx")
    assert caught.value.code == "off_latched"
    crew.off_flag.unlink()
    assert crew.status()["mode"] == "userspace"


def test_a_flag_that_one_worker_saw_for_a_moment_ends_the_order_for_all(crew: Crew) -> None:
    for _ in range(5):
        crew.call(verb="mode", mode="tx")
        before = drawn(crew).get("tx", 0)
        crew.off_flag.touch()
        with crew.client() as client:
            client.get("/f")
        crew.off_flag.unlink()
        eventually(lambda: crew.status()["mode"] == "userspace", 1)
        for _ in range(10):
            with crew.client() as client:
                client.get("/f")
        assert drawn(crew).get("tx", 0) == before


# --- death --------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_nothing_counts_backwards(crew: Crew) -> None:
    crew.call(verb="mode", mode="tx")
    clients = crew.spread()
    before = crew.status()
    victim = before["workers"][1]
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: len(crew.pids()) == WORKERS and victim["pid"] not in crew.pids() and crew._up())
    after = crew.status()
    assert after["connections_total"] == before["connections_total"]
    assert after["bytes"] == before["bytes"]
    assert after["connections"]["userspace"] == before["connections"]["userspace"] - victim["connections"]
    assert after["errors"] == {"worker_died": 1}
    assert after["mode"] == "tx"
    close_all(clients)
    total = drawn(crew)["tx"]
    clients = crew.spread()
    assert drawn(crew) == {"tx": total + len(clients)}, "the new one has the order too"
    close_all(clients)
    assert all(alive(pid) for pid in children(crew.child.pid)), "no zombie"


def test_a_worker_that_dies_again_and_again_comes_back(crew: Crew) -> None:
    for number in range(1, 5):
        os.kill(crew.pids()[0], signal.SIGKILL)
        eventually(lambda number=number: crew.status()["errors"] == {"worker_died": number}, 10)  # type: ignore[misc]
        eventually(crew._up, 10)
        with crew.client() as client:
            assert client.get("/f").status == 200


def test_a_client_in_the_queue_of_a_dead_worker_is_served_by_its_successor(
    command: Command, certificate: Certificate
) -> None:
    crew = Crew(command, certificate, workers=1)
    (pid,) = crew.pids()
    os.kill(pid, signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", crew.port), timeout=10) as raw:
        os.kill(pid, signal.SIGKILL)
        context = ssl.create_default_context(cafile=str(certificate.ca))
        with context.wrap_socket(raw, server_hostname="localhost") as sock:
            sock.sendall(b"GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    crew.end()


def test_a_stuck_worker_delays_no_order_and_takes_nobody_the_old_way(
    command: Command, certificate: Certificate
) -> None:
    crew = Crew(command, certificate, workers=1)
    (stuck,) = crew.pids()
    took = []
    for mode, other in (("tx", "userspace"), ("userspace", "tx"), ("rx", "userspace")):
        before = drawn(crew)
        os.kill(stuck, signal.SIGSTOP)
        start = time.monotonic()
        assert crew.call(verb="mode", mode=mode)["effective_mode"] == mode
        took.append(time.monotonic() - start)
        # It waits in the queue, and is accepted before the worker has read any message.
        raw = socket.create_connection(("127.0.0.1", crew.port), timeout=10)
        os.kill(stuck, signal.SIGCONT)
        context = ssl.create_default_context(cafile=str(certificate.ca))
        with raw, context.wrap_socket(raw, server_hostname="localhost") as sock:
            sock.sendall(b"GET /f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while sock.recv(4096):
                pass
        eventually(lambda before=before: drawn(crew) != before)  # type: ignore[misc]
        after = drawn(crew)
        assert after[mode] == before.get(mode, 0) + 1
        assert after.get(other, 0) == before.get(other, 0)
    assert sorted(took)[1] < 0.1
    crew.end()


def test_a_stuck_worker_delays_the_status_only_for_a_moment(crew: Crew) -> None:
    stuck = crew.pids()[0]
    os.kill(stuck, signal.SIGSTOP)
    assert crew.status()["mode"] == "userspace"
    assert crew.call(verb="mode", mode="tx")["mode"] == "tx"
    os.kill(stuck, signal.SIGCONT)


def test_an_order_that_tells_a_time_to_drain(crew: Crew) -> None:
    assert crew.call(verb="mode", mode="tx", drain_s=None)["drain"] == {"left": 0, "deadline_left_s": None}
    with pytest.raises(JsonSockError) as caught:
        crew.call(verb="mode", mode="userspace", drain_s=-1)
    assert caught.value.code == "bad_drain"
    assert crew.status()["mode"] == "tx", "nothing was changed"
    assert "ktls_sidecar_drain_connections 0\n" in crew.call(verb="metrics")["text"]


def test_workers_do_not_outlive_the_supervisor(crew: Crew) -> None:
    pids = crew.pids()
    clients = crew.spread()
    crew.child.kill()
    crew.child.wait(10)
    eventually(lambda: not any(alive(pid) for pid in pids))
    close_all(clients)
    eventually(lambda: refused(crew))


def test_a_worker_has_nothing_of_the_supervisor_or_of_its_siblings(crew: Crew) -> None:
    def kinds(pid: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                kind = os.readlink(path).split(":")[0]
                found[kind] = found.get(kind, 0) + 1
        return found

    # Also one that was forked while the event loop existed and had clients.
    os.kill(crew.pids()[0], signal.SIGKILL)
    eventually(lambda: crew.status()["errors"] == {"worker_died": 1} and crew._up())
    for pid in crew.pids():
        found = kinds(pid)
        # One listener, one channel, and the two ends of its own loop's self-pipe.
        assert found["socket"] == 4
        assert found["anon_inode"] == 1, "the epoll set of its loop, which is that of its connections too"
    os.kill(crew.pids()[0], signal.SIGTERM)
    os.kill(crew.pids()[0], signal.SIGHUP)
    os.kill(crew.pids()[0], signal.SIGINT)
    time.sleep(0.2)
    assert crew.status()["errors"] == {"worker_died": 1}, "signals are for the supervisor"


def test_no_core_dumps(crew: Crew) -> None:
    for pid in (crew.child.pid, *crew.pids()):
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4:6] == ["0", "0"]


def test_not_dumpable_in_forked_processes_too(command: Command) -> None:
    code = """
import ctypes, os
from ktls_sidecar.process import forbid_dumps
ask = ctypes.CDLL(None).prctl  # PR_GET_DUMPABLE
before = ask(3)
forbid_dumps()
if not (pid := os.fork()):
    os._exit(ask(3))
print(before, ask(3), os.waitpid(pid, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=command.environment, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == ["1", "0", "0"]


# --- the end --------------------------------------------------------------------------------------------------------


def slow(crew: Crew) -> Client:
    """A client in the middle of a large response."""
    client = crew.client()
    client.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.stream.read(1000).startswith(b"HTTP/1.1 200")
    return client


def test_one_signal_drains_all_and_a_second_ends_it(command: Command, certificate: Certificate) -> None:
    (command.directory / "root" / "big").write_bytes(bytes(20_000_000))
    crew = Crew(command, certificate, drain_s=60)
    clients = [slow(crew) for _ in range(8)]
    idle = crew.spread()
    crew.child.terminate()
    for client in idle:
        assert client.closed()
    eventually(lambda: refused(crew))  # each worker closes its own listener
    assert crew.call(verb="health") == {**crew.call(verb="health"), "healthy": False, "health": "draining"}
    assert clients[0].stream.read(19_000_000) == bytes(19_000_000), "a running response goes on"
    assert crew.child.poll() is None
    start = time.monotonic()
    status, errors = crew.end()
    assert time.monotonic() - start < 5
    assert (status, errors) == (0, "")
    close_all(clients)


def test_drain_ends_with_the_last_response(command: Command, certificate: Certificate) -> None:
    (command.directory / "root" / "big").write_bytes(bytes(20_000_000))
    crew = Crew(command, certificate, drain_s=60)
    clients = [slow(crew) for _ in range(4)]
    pids = crew.pids()
    crew.child.terminate()
    for client in clients:
        assert len(client.stream.read()) > 19_990_000
    assert crew.child.wait(10) == 0
    assert not any(alive(pid) for pid in pids)
    assert not os.path.exists(crew.socket)
    crew.end()


# --- certificates ---------------------------------------------------------------------------------------------------


def test_reload_is_for_all_workers_or_for_none(
    command: Command, certificate: Certificate, other_certificate: Certificate, tmp_path: Path
) -> None:
    mine = Certificate(certificate.ca, tmp_path / "cert.pem", tmp_path / "key.pem")
    shutil.copy(certificate.certificate, mine.certificate)
    shutil.copy(certificate.key, mine.key)
    command.settings.update(certificate=str(mine.certificate), key=str(mine.key))
    crew = Crew(command, mine)
    assert crew.child.stderr is not None

    def served_by(ca: Path) -> int:
        count = 0
        for _ in range(12):
            with contextlib.suppress(ssl.SSLError), Client(crew.port, ca):
                count += 1
        return count

    old = crew.spread()
    shutil.copy(other_certificate.certificate, mine.certificate)
    crew.child.send_signal(signal.SIGHUP)
    assert "keeping the old certificate" in crew.child.stderr.readline()
    assert served_by(certificate.ca) == 12
    # Also a worker that is started while the files are wrong.
    os.kill(crew.pids()[0], signal.SIGKILL)
    eventually(lambda: "worker_died" in crew.status()["errors"] and crew._up())
    crew.child.stderr.readline()
    assert served_by(certificate.ca) == 12
    shutil.copy(other_certificate.key, mine.key)
    crew.child.send_signal(signal.SIGHUP)
    assert "read again" in crew.child.stderr.readline()
    assert served_by(other_certificate.ca) == 12
    assert crew.status()["errors"] == {"reload_failed": 1, "worker_died": 1}
    close_all(old)
    crew.end()


class FakeWorker:
    """A worker that answers at once, from a list."""

    serving = True
    silent_ticks = 0

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def ask(self, loop: asyncio.AbstractEventLoop, message: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        self.asked.append(message)
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        future.set_result(self.answers.get(message["verb"], {"ok": True}))
        return future


def reload_with(command: Command, *workers: FakeWorker) -> tuple[bool, bool, list[str]]:
    """Reload. Returns whether the supervisor took the new certificate, whether it counted a failure, what it said."""
    said: list[str] = []
    supervisor = Supervisor(parse({**command.settings, "workers": 1}), load(), None, said.append)
    supervisor._workers = dict(enumerate(workers))  # type: ignore[arg-type]
    supervisor._wake = asyncio.Event()
    before = supervisor._context
    supervisor._loop.run_until_complete(supervisor._reload())
    supervisor._listeners.close()
    supervisor._loop.close()
    return supervisor._context is not before, supervisor._counters.errors["reload_failed"] == 1, said


def test_one_worker_that_cannot_load_keeps_all_on_the_old_certificate(command: Command) -> None:
    refusal = {"ok": False, "code": "bad_certificate", "message": "half written", "generation": 0}
    good, bad = FakeWorker(), FakeWorker(prepare=refusal)
    assert reload_with(command, good, bad) == (False, True, ["keeping the old certificate: half written"])
    assert [message["verb"] for message in good.asked + bad.asked] == ["prepare", "prepare"]


def test_a_worker_that_ends_during_a_reload_does_not_stop_it(command: Command) -> None:
    good, gone = FakeWorker(), FakeWorker(prepare={}, commit={})
    assert reload_with(command, good, gone) == (True, False, ["certificate and key read again"])
    assert [message["verb"] for message in good.asked] == ["prepare", "commit"]
    assert good.asked[0] == gone.asked[0], "the same keys for all"


def test_a_worker_loads_nothing_else_than_the_supervisor_did(command: Command) -> None:
    settings = parse(command.settings)
    context = certificates.load(load(), settings, certificates.new_ticket_keys())
    ours, theirs = socket.socketpair()
    with ours:
        job = Job(settings, load(), context, [], False, None, lambda _line: None)
        worker = Worker(job, Channel(theirs), Poller())
        order = {"id": 1, "verb": "prepare", "ticket_keys": b64encode(bytes(80)).decode()}
        worker._received({**order, "digest": certificates.digest(settings)})
        worker._received({**order, "digest": "of other files"})
        answers = [json.loads(line) for line in ours.recv(4096).splitlines()]
    assert [answer["ok"] for answer in answers] == [True, False]
    assert "changed while they were read" in answers[1]["message"]


# --- sockets from systemd -------------------------------------------------------------------------------------------


def test_sockets_of_systemd_are_shared_by_all_workers(command: Command, certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        command.listeners = [first, second]
        crew = Crew(command, certificate, listen=[{"host": "127.0.0.1", "port": 1}])
        assert crew.port == first.getsockname()[1]
        for sock in (first, second):
            with Client(sock.getsockname()[1], certificate.ca) as client:
                assert client.get("/f").status == 200
        status, errors = crew.end()
        assert status == 0
        assert "using the sockets of ktls-sidecar.socket" in errors
        # systemd keeps its own: a client may connect and wait for the next start.
        socket.create_connection(first.getsockname(), timeout=5).close()


def test_a_socket_of_systemd_that_does_not_listen(command: Command) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        command.listeners = [wrong]
        status, line = command.fail()
    assert (status, "descriptor 3 of the socket unit is no listening TCP socket" in line) == (78, True)


def test_sockets_for_another_process_are_not_taken(command: Command, certificate: Certificate) -> None:
    command.environment.update(LISTEN_FDS="1", LISTEN_PID="1")
    crew = Crew(command, certificate)
    with crew.client() as client:
        assert client.get("/f").status == 200
    crew.end()


def test_a_second_sidecar_of_the_same_user_does_not_share_the_port(crew: Crew, command: Command) -> None:
    other = {"control_socket": str(crew.directory / "other.sock"), "http_socket": None}
    status, line = command.fail(listen=[{"host": "127.0.0.1", "port": crew.port}], **other)
    assert (status, "the port is in use" in line) == (1, True)


# --- all at once ------------------------------------------------------------------------------------------------------


def test_chaos(crew: Crew) -> None:
    """Workers die, modes change and certificates are read again while clients download."""
    body = os.urandom(300_000)
    (crew.directory / "root" / "data").write_bytes(body)
    stop = threading.Event()
    wrong: list[int] = []
    right: list[int] = []

    def download() -> None:
        while not stop.is_set():
            # A client whose worker was killed, in the middle or before, tries again.
            with contextlib.suppress(OSError, EOFError, ValueError, KeyError), crew.client() as client:
                answer = client.get("/data")
                if len(answer.body) == len(body):
                    (right if answer.body == body else wrong).append(1)

    assert crew.child.stderr is not None
    threads = [threading.Thread(target=download) for _ in range(4)]
    threads.append(threading.Thread(target=crew.child.stderr.read))
    assert crew.child.stdout is not None
    threads.append(threading.Thread(target=crew.child.stdout.read))
    for thread in threads:
        thread.start()
    descriptors = len(os.listdir(f"/proc/{crew.child.pid}/fd"))
    chance = random.Random(7)
    before = crew.status()
    end = time.monotonic() + 4
    killed = 0
    try:
        while time.monotonic() < end:
            act = chance.randrange(4)
            if act == 0:
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(chance.choice(crew.pids()), signal.SIGKILL)
                    killed += 1
            elif act == 1:
                crew.child.send_signal(signal.SIGHUP)
            else:
                mode = chance.choice(["userspace", "tx", "rx"])
                assert crew.call(verb="mode", mode=mode, share=0.5)["mode"] == mode
            now = crew.status()
            for name in ("connections_total", "bytes"):
                assert sum(now[name].values()) >= sum(before[name].values())
            before = now
            time.sleep(chance.random() * 0.1)
        eventually(crew._up, 10)
    finally:
        stop.set()
        for thread in threads[:4]:
            thread.join(20)
    assert wrong == []
    assert len(right) > 20
    assert killed > 3
    assert crew.status()["errors"].get("worker_died", 0) <= killed
    eventually(lambda: crew.status()["connections"] == {"ktls_tx": 0, "userspace": 0})
    eventually(lambda: len(os.listdir(f"/proc/{crew.child.pid}/fd")) <= descriptors)
    assert all(alive(pid) for pid in children(crew.child.pid))
    crew.child.terminate()
    assert crew.child.wait(20) == 0
    for thread in threads:
        thread.join(5)
