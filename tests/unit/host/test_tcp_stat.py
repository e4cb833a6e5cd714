# SPDX-License-Identifier: Apache-2.0
"""/proc/net/snmp and netstat: pairs of lines, whatever names a kernel has."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from ktls_host import tcp_stat

SNMP = """Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab RetransSegs OutRsts
Tcp: 1 200 120000 -1 10 11 12 13 14 15 16
Udp: InDatagrams
Udp: 99
"""
NETSTAT = """TcpExt: SyncookiesSent TCPAbortOnData TCPAbortOnClose TCPAbortOnTimeout
TcpExt: 1 2 3 4
IpExt: InNoRoutes TCPAbortOnMemory
IpExt: 7 8
"""
FOUND = {
    "TcpPassiveOpens": 11, "TcpEstabResets": 13, "TcpRetransSegs": 15, "TcpOutRsts": 16, "TcpExtTCPAbortOnData": 2,
    "TcpExtTCPAbortOnClose": 3, "TcpExtTCPAbortOnTimeout": 4,
}  # fmt: skip


def written(directory: Path, snmp: str = SNMP, netstat: str = NETSTAT) -> str:
    (directory / "snmp").write_text(snmp)
    (directory / "netstat").write_text(netstat)
    return str(directory)


def test_what_is_wanted_is_found_by_name_in_its_own_group(tmp_path: Path) -> None:
    assert tcp_stat.read(written(tmp_path)) == FOUND


def test_lines_that_do_not_fit_say_nothing(tmp_path: Path) -> None:
    torn = SNMP.replace(" 16\n", "\n")
    found = tcp_stat.read(written(tmp_path, snmp=torn))
    assert {name for name in found if not name.startswith("TcpExt")} == set()
    assert tcp_stat.read(written(tmp_path, snmp=SNMP.replace(" 13 ", " x "))) == {
        name: value for name, value in FOUND.items() if name != "TcpEstabResets"
    }
    assert tcp_stat.read(written(tmp_path, "", "")) == {}


def test_half_of_it_is_not_known_at_all(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "netstat").unlink()
    assert tcp_stat.read(str(tmp_path)) == {}


def test_the_kernel_of_this_machine_counts_a_reset() -> None:
    before = tcp_stat.read()
    if not before:
        return  # a sandbox without /proc/net
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        assert _is_reset(client)
    after = tcp_stat.read()
    assert after["TcpEstabResets"] > before["TcpEstabResets"]
    assert after["TcpOutRsts"] > before["TcpOutRsts"]


def _is_reset(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False
