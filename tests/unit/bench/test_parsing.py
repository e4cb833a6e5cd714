# SPDX-License-Identifier: Apache-2.0
"""What the benchmark reads from /proc and from the programs it runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import checks, generators, machine, proc, tools
from bench.errors import BenchError
from bench.proc import Stat

WRK = """Running 4s test @ https://127.0.0.1:18443/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.66ms    2.11ms  34.64ms   93.56%
    Req/Sec    12.73k     2.37k   18.02k    70.00%
  Latency Distribution
     50%    1.05ms
     75%    1.49ms
     90%    2.91ms
     99%    9.89ms
  50907 requests in 4.02s, 509.57MB read
Requests/sec:  12659.36
Transfer/sec:    126.72MB
"""
S_TIME = """Collecting connection statistics for 2 seconds
{marks}

1138 connections in 0.80s; 1422.50 connections/user sec, bytes read 1421362
1138 connections in 3 real seconds, {size} bytes read per connection
"""
SS = (
    "ESTAB 0 0 127.0.0.1:42000 127.0.0.1:8443 ino:1 sk:1 <-> ts sack cubic tcp-ulp-tls version: 1.3"
    " cipher: aes-gcm-128 rxconf: none txconf: sw\n"
    "ESTAB 0 0 127.0.0.1:8443 127.0.0.1:42000 ino:2 sk:2 <-> ts sack cubic tcp-ulp-tls{conf} wscale:7,7\n"
)


def test_stat_of_a_process_with_an_evil_name() -> None:
    line = "4711 (a) R 1 (b) S 4242 4711 4711 0 -1 4194560 100 200 0 0 30 7 5 2 20 0 1 0 12345 0 0"
    assert proc.parse_stat(line) == Stat(pid=4711, parent=4242, ticks=37, waited_ticks=7)


def test_tree_takes_all_descendants_and_nobody_else() -> None:
    stats = [Stat(1, 0, 1, 0), Stat(2, 1, 1, 0), Stat(3, 2, 1, 0), Stat(4, 1, 1, 0), Stat(9, 7, 1, 0)]
    assert {stat.pid for stat in proc.tree(2, stats)} == {2, 3}
    assert {stat.pid for stat in proc.tree(1, stats)} == {1, 2, 3, 4}
    assert proc.tree(5, stats) == []


def test_cpu_time_of_ended_children_counts() -> None:
    before = proc.cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert proc.cpu_seconds(os.getpid()) - before >= 0.05


def test_a_server_that_ended_is_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(BenchError, match="ended while it was measured"):
        proc.cpu_seconds(child.pid)


def test_memory_of_ourselves_is_about_right() -> None:
    assert 5_000 < proc.memory(os.getpid()).pss <= proc.memory(os.getpid()).rss + 1_000


def test_smaps_rollup() -> None:
    text = "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss:   1234 kB\nPss:    987 kB\nPss_Dirty:  5 kB\n"
    assert proc.parse_smaps_rollup(text) == proc.Memory(rss=1234, pss=987)
    with pytest.raises(ValueError, match="no Rss and Pss"):
        proc.parse_smaps_rollup("Rss: 1 kB\n")


def test_machine_busy_leaves_idle_time_out() -> None:
    text = "cpu  100 0 50 9999 8888 5 5 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert proc.parse_machine_busy(text) == pytest.approx(160 * proc.TICK_S)


def test_wrk() -> None:
    outcome = generators.parse_wrk(WRK)
    assert (outcome.requests, outcome.seconds, outcome.p99_ms) == (50907, 4.02, 9.89)
    assert outcome.bytes == int(509.57 * (1 << 20))


@pytest.mark.parametrize(("text", "expected"), [("812.00us", 0.812), ("1.05s", 1050.0), ("2.00m", 120_000.0)])
def test_units_of_wrk(text: str, expected: float) -> None:
    assert generators.parse_wrk(WRK.replace("9.89ms", text)).p99_ms == pytest.approx(expected)


@pytest.mark.parametrize(
    "line", ["  Socket errors: connect 0, read 3, write 0, timeout 0", "  Non-2xx or 3xx responses: 12"]
)
def test_errors_that_wrk_saw_spoil_the_round(line: str) -> None:
    with pytest.raises(BenchError, match="wrk saw errors"):
        generators.parse_wrk(WRK.replace("Requests/sec", f"{line}\nRequests/sec"))


def test_nothing_is_not_a_result() -> None:
    with pytest.raises(BenchError, match="measured nothing"):
        generators.parse_wrk(WRK.replace("50907 requests", "0 requests"))
    with pytest.raises(BenchError, match="measured nothing"):
        generators.parse_s_time("connect: Connection refused", 1)


def test_s_time_counts_full_handshakes() -> None:
    assert generators.parse_s_time(S_TIME.format(marks="*" * 1138, size=1249), 1024) == 1138


@pytest.mark.parametrize(
    ("marks", "size", "words"),
    [("**r*", 1249, "full handshakes"), ("rrr", 1249, "full handshakes"), ("***", 200, "got 200 bytes")],
)
def test_resumed_sessions_and_short_answers_spoil_the_round(marks: str, size: int, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        generators.parse_s_time(S_TIME.format(marks=marks, size=size), 1024)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (" version: 1.3 cipher: aes-gcm-128 rxconf: sw txconf: sw", (True, True)),
        (" version: 1.3 cipher: aes-gcm-128 rxconf: none txconf: sw", (True, False)),
        (" rxconf: none txconf: none", (False, False)),
        ("", (False, False)),
    ],
)
def test_ktls_is_seen_on_the_servers_own_socket(conf: str, expected: tuple[bool, bool]) -> None:
    assert checks.ktls_lines(SS.format(conf=conf), 8443) == expected


def test_ktls_of_a_client_is_not_the_servers() -> None:
    assert checks.ktls_lines(SS.splitlines()[0] + "\n", 8443) == (False, False)


def test_what_s_client_says() -> None:
    text = (
        "CONNECTION ESTABLISHED\nProtocol version: TLSv1.3\nCiphersuite: TLS_AES_128_GCM_SHA256\n"
        "Peer certificate: CN = localhost\nVerification: OK\nServer Temp Key: X25519, 253 bits\nDONE\n"
    )
    found = checks.parse_brief(text)
    assert found["Ciphersuite"] == "TLS_AES_128_GCM_SHA256" and "Peer certificate" not in found


def test_servers_that_differ_are_not_compared() -> None:
    first = {"Server Temp Key": "X25519, 253 bits", "kTLS receiving": "yes"}
    checks.same(first, {**first, "kTLS receiving": "no"})
    with pytest.raises(BenchError, match="differ in 'Server Temp Key'"):
        checks.same(first, {**first, "Server Temp Key": "ECDH, P-256, 256 bits"})


def test_missing_programs_are_named_with_their_packages() -> None:
    with pytest.raises(BenchError, match=r"not installed: nginx, wrk; .* nginx-light wrk$"):
        tools.require(which=lambda name: None if name in ("nginx", "wrk") else f"/usr/bin/{name}")
    tools.require(which=lambda name: f"/usr/bin/{name}")


def test_machine() -> None:
    assert machine.cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    assert machine.os_name('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n').endswith("12 (bookworm)")


@given(st.text(max_size=300))
def test_random_text_is_a_plain_error_and_no_result(text: str) -> None:
    with pytest.raises(BenchError, match=r"measured nothing|saw errors"):
        generators.parse_wrk(text)
    with pytest.raises(BenchError, match="measured nothing"):
        generators.parse_s_time(text, 1)
