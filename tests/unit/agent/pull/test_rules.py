# SPDX-License-Identifier: Apache-2.0
"""What a valid flag does, and how little anything else does: over real TLS, with real signatures."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from ktls_host.jsonsock import JsonSockError
from tests.authority import Authority

from .conftest import Host, Keys, Server, response


def test_a_valid_off_acts_at_once_and_tells_the_agent(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("off", "kernel bug", serial=7))
    said = host.poll()
    assert host.flags.present() == (True, False), "before anybody is asked for anything"
    assert (said["result"], said["serial"], said["state"]) == ("off", 7, "off")
    host.raiser.settle()
    assert host.flags.present() == (True, True)
    (asked,) = host.asked
    assert asked["verb"] == "off"
    assert "signed flag 7: kernel bug" in asked["reason"]
    assert "publish none before you clear" in (host.flags.read().reason or "")
    host.poll(5)
    host.raiser.settle()
    assert len(host.asked) == 1, "once is enough"
    assert host.puller.status()["raised"] == 1


def test_a_dead_agent_is_not_needed_and_is_told_later(host: Host, server: Server, keys: Keys) -> None:
    os.chmod(host.state, 0o755)
    host.agent_error = JsonSockError("unreachable", "cannot connect")
    durable = host.flags.write_durable
    host.flags.write_durable = lambda reason: (_ for _ in ()).throw(PermissionError(13, "no"))  # type: ignore[method-assign]
    server.serves(keys.sign())
    host.poll()
    host.raiser.settle()
    assert host.flags.present() == (True, False)
    assert "the agent does not take OFF (cannot connect)" in host.problems()
    assert Path(host.config.owed).exists()
    # The host reboots: /run is empty, the server is gone, the debt is not.
    os.unlink(host.config.run_flag)
    server.stop()
    host.restart("boot-2")
    host.raiser.recover()
    assert host.flags.present() == (True, False)
    host.agent_error = None
    host.flags.write_durable = durable  # type: ignore[method-assign]
    host.raiser.settle()
    assert host.flags.present() == (True, True)
    assert not Path(host.config.owed).exists()
    host.restart("boot-3")
    host.flags.clear()
    host.raiser.recover()
    assert host.flags.present() == (False, False), "a debt that was paid is not paid twice"


def test_what_was_cleared_by_hand_in_this_boot_is_not_owed(host: Host, server: Server, keys: Keys) -> None:
    Path(host.config.owed).write_text('{"reason": "x", "boot_id": "boot-1"}')
    host.restart("boot-1")
    host.raiser.recover()
    assert host.nothing_happened()
    assert not Path(host.config.owed).exists()
    Path(host.config.owed).write_text("\0damaged")
    host.restart("boot-1")
    host.raiser.recover()
    assert host.flags.present()[0], "what is owed can only be OFF"


def test_a_run_directory_that_cannot_be_written_is_a_problem_and_the_agent_is_asked(
    host: Host, server: Server, keys: Keys
) -> None:
    os.rmdir(host.run)
    server.serves(keys.sign())
    host.poll()
    assert "run ktls-off as root" in host.problems()
    host.raiser.settle()
    assert [one["verb"] for one in host.asked] == ["off"]
    assert host.flags.present() == (False, True)


def test_none_changes_nothing_and_clears_nothing(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("none", serial=3))
    assert host.poll()["result"] == "none"
    assert host.nothing_happened()
    server.serves(keys.sign("off", serial=4))
    host.poll()
    host.raiser.settle()
    server.serves(keys.sign("none", serial=5))
    assert host.poll(3)["state"] == "none"
    host.raiser.settle()
    assert host.flags.present() == (True, True), "only an operator takes it away"


def test_while_the_flag_says_off_a_clear_lasts_until_the_next_poll(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("off"), headers='ETag: "a"\r\n')
    host.poll()
    host.raiser.settle()
    host.flags.clear()

    def not_modified(sock: object, request: bytes) -> bool:
        assert b'If-None-Match: "a"' in request
        sock.sendall(b"HTTP/1.1 304 Not Modified\r\n\r\n")  # type: ignore[attr-defined]
        return True

    server.behave = not_modified
    said = host.poll()
    assert (said["result"], said["not_modified"]) == ("off", 1)
    host.raiser.settle()
    assert host.flags.present() == (True, True)
    assert len(host.asked) == 2
    # But what is no longer said does not count, however lately it was.
    host.flags.clear()
    server.serves(b"", "404 Not Found")
    assert host.poll()["result"] == "missing"
    server.stop()
    host.fetchers[-1].close()
    assert host.poll()["result"] == "unreachable"
    assert host.flags.present() == (False, False)


def test_an_old_off_acts_with_an_alarm_that_does_not_repeat(
    host: Host, server: Server, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old = keys.sign("off", serial=4, now=1_000_000_000)
    server.serves(keys.sign("none", serial=9))
    host.poll()
    server.serves(old)
    assert host.poll(4)["old"] == 4
    assert host.flags.present()[0], "replaying OFF costs speed, refusing it could cost more"
    alarms = [record for record in caplog.records if "an old flag" in record.message]
    assert [(alarm.levelname, "OFF acts nevertheless" in alarm.message) for alarm in alarms] == [("ERROR", True)]
    assert "serves an old flag: serial 4, 9 was seen" in host.problems()


def test_the_highest_serial_outlives_a_restart(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("none", serial=9))
    host.poll()
    host.puller._write_status()
    host.restart()
    server.serves(keys.sign("none", serial=8))
    assert host.poll()["old"] == 1


@pytest.mark.parametrize("shift_s", [-3600, 3600])
def test_the_hour_of_host_or_signer_does_not_matter(host: Host, server: Server, keys: Keys, shift_s: int) -> None:
    import time

    server.serves(keys.sign("off", now=time.time() + shift_s))
    assert host.poll()["result"] == "off"
    assert host.flags.present()[0]


def test_any_endpoint_suffices_and_none_waits_for_another(
    tmp_path: Path, keys: Keys, authority: Authority, servers: Callable[[], Server]
) -> None:
    import threading
    import time

    dead, alive = servers(), servers()
    silent = threading.Event()
    dead.behave = lambda sock, request: silent.wait(20)
    alive.serves(keys.sign("off"))
    urls = [f"https://127.0.0.1:{one.port}/flag" for one in (dead, alive)]
    host = Host(tmp_path, keys, authority.path, *urls)
    runner = threading.Thread(target=host.puller.run)
    started = time.monotonic()
    runner.start()
    try:
        while not all(host.flags.present()) and time.monotonic() - started < 10:
            time.sleep(0.01)
        assert all(host.flags.present())
        while host.puller.status()["endpoints"][1]["polls"].get("off", 0) < 4 and time.monotonic() - started < 10:
            time.sleep(0.01)
        by_url = {entry["url"]: entry for entry in host.puller.status()["endpoints"]}
        # One poll of the silent server takes TIMEOUT_S; the other is polled every 0.1 s meanwhile.
        assert sum(by_url[urls[0]]["polls"].values()) < by_url[urls[1]]["polls"]["off"]
    finally:
        host.puller.stop()
        silent.set()
        runner.join(10)
    assert not runner.is_alive()


def test_most_polls_are_one_exchange_on_one_connection_and_one_verification(
    host: Host, server: Server, keys: Keys
) -> None:
    server.serves(keys.sign("none"))
    host.poll(20)
    assert (server.connections, len(server.requests)) == (1, 20)
    assert host.verifier.verifications == 1


def test_allowed_signers_are_read_anew_when_the_file_changes(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("none", name="next"))
    assert host.poll()["result"] == "bad_signature"
    keys.allow(keys.line("ops"), keys.line("next"))
    assert host.poll()["result"] == "none"
    keys.allow(keys.line("ops"))
    assert host.poll()["result"] == "bad_signature", "a key that was taken away counts no more, cached or not"


@pytest.mark.parametrize(
    ("version", "headers"), [("1.0", ""), ("1.1", "Connection: close\r\n"), ("1.1", "Content-Length: {}\r\n")]
)
def test_servers_of_every_manner(host: Host, server: Server, keys: Keys, version: str, headers: str) -> None:
    body = keys.sign("off")
    server.says(f"HTTP/{version} 200 OK\r\n{headers.format(len(body))}\r\n".encode() + body)
    assert host.poll(3)["polls"] == {"off": 3}
    assert server.connections == 3


def test_a_kept_connection_that_ends_with_the_request_under_way_is_no_failure(
    host: Host, server: Server, keys: Keys
) -> None:
    body, answered = keys.sign("none"), [0]

    def every_second(sock: ssl.SSLSocket, request: bytes) -> bool:
        answered[0] += 1
        if answered[0] % 2 == 0:
            return False
        sock.sendall(response(body))
        return True

    server.behave = every_second
    assert host.poll(3)["polls"] == {"none": 3}
    assert server.connections == 3


def test_a_kept_connection_that_the_server_closed_is_no_failure(host: Host, server: Server, keys: Keys) -> None:
    body = keys.sign("none")

    def once(sock: object, request: bytes) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)  # type: ignore[attr-defined]
        return False  # without having said so

    server.behave = once
    assert host.poll(5)["polls"] == {"none": 5}
    assert server.connections == 5
