# SPDX-License-Identifier: Apache-2.0
"""The sentinel on a real wire: two network namespaces, real servers, real packets. Needs root."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ktls_host.errors import KtlsError
from ktls_host.probe_object import PROBE_NAME, PROBE_SIZE, probe_bytes
from ktls_sentinel.capture import Capture

from . import packets
from .conftest import NAME, PEER, PLAIN_PORT, SERVER, TLS_PORT, Watcher, Wire, ip

Start = Callable[..., Watcher]


def plain_server(wire: Wire, namespace: str | None = None) -> None:
    place = namespace or wire.a
    argv = [sys.executable, "-m", "http.server", str(PLAIN_PORT), "--bind", "::", "--directory", str(wire.directory)]
    wire.spawn(place, *argv, log="plain.log")
    wire.listening(PLAIN_PORT, place)


def download_plain(wire: Wire, host: str = SERVER, name: str = PROBE_NAME, namespace: str | None = None) -> None:
    url = f"http://{host}:{PLAIN_PORT}/{name}"
    done = wire.run(namespace or wire.b, "curl", "-sSf", "-o", "/dev/null", url)
    assert done.returncode == 0, done.stderr


def target(**more: Any) -> dict[str, Any]:
    return {"name": "files1", "host": SERVER, "port": TLS_PORT, "server_name": NAME, **more}


def test_tls_is_clean_and_its_packets_were_seen(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    sentinel = watch()
    status = sentinel.wait(lambda status: status["armed"])
    assert status["why"] is None
    assert status["leaks"] == []
    assert status["since"] <= status["now"]
    entry = status["targets"]["files1"]
    assert (entry["tls"], entry["probes"], entry["error"]) == ("TLSv1.2", 1, None)
    assert "GCM" in entry["cipher"]
    assert entry["payload_bytes"] > PROBE_SIZE
    assert entry["packets"] > 2
    assert entry["last_ok"] <= status["now"]
    assert sentinel.wait(lambda status: status["targets"]["files1"]["probes"] == 2)["leaks"] == []
    assert sentinel.end() == 0, sentinel.log()


def test_plaintext_is_found_latched_over_a_restart_and_cleared(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    plain_server(wire)
    marks = wire.directory / "ran"
    # Its second target is no TLS server; its port is looked at all the same.
    targets = [target(), target(name="plain", port=PLAIN_PORT)]
    command = ["/bin/sh", "-c", f'echo "$KTLS_LEAKS" >> {marks}; grep CapAmb /proc/self/status >> {marks}']
    # As systemd starts it: with a capability that children would inherit.
    prefix = ("setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw")
    sentinel = watch(prefix, targets=targets, on_leak=command)
    status = sentinel.wait(lambda status: status["armed"] and status["targets"]["plain"]["failures"] > 0)
    assert status["targets"]["plain"]["error"] == "this is no TLS server"
    download_plain(wire)
    status = sentinel.wait(lambda status: bool(status["leaks"]) and not status["on_leak"]["pending"])
    (leak,) = status["leaks"]
    assert leak["src"] == f"{SERVER}:{PLAIN_PORT}"
    assert leak["dst"].startswith("192.0.2.2:")
    assert 0 <= leak["block"] < PROBE_SIZE // 32
    assert status["leaked_frames"] > 1
    assert status["armed"], "it goes on watching"
    download_plain(wire)
    assert json.loads(marks.read_text().splitlines()[0]) == [leak]
    assert marks.read_text().count("CapAmb:\t0000000000000000") == 1, "run once, without our capability"
    assert sentinel.end() == 0
    for path in [*(wire.directory / "state").iterdir(), wire.directory / "sentinel.log"]:
        # sha256("ktls-fleet probe 1:" + block number) is what would be there.
        assert all(len(word) < 63 for word in path.read_text().split()), f"{path} holds what may be payload"

    sentinel = watch(targets=targets, on_leak=command)
    assert sentinel.wait(lambda status: status["armed"])["leaks"] == [leak]
    assert sentinel.clear()["cleared"] == 1
    assert sentinel.status()["leaks"] == []
    assert sentinel.end() == 0
    sentinel = watch()
    assert sentinel.wait(lambda status: status["armed"])["leaks"] == []
    assert marks.read_text().count("CapAmb") == 1


def test_plaintext_is_found_over_ipv6_and_in_segments_of_64_kilobytes(wire: Wire, watch: Start) -> None:
    plain_server(wire)
    sentinel = watch(targets=[target(port=PLAIN_PORT)])
    sentinel.wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
    download_plain(wire, "[2001:db8::1]")
    (leak,) = sentinel.wait(lambda status: bool(status["leaks"]))["leaks"]
    assert leak["src"] == f"[2001:db8::1]:{PLAIN_PORT}"
    # veth hands over what the sender put together: fewer frames than an MTU of 1500 would need.
    assert sentinel.status()["leaked_frames"] < PROBE_SIZE / 1460 / 2


def test_after_more_than_the_ring_holds(wire: Wire, watch: Start) -> None:
    """Each part of the ring goes back to the kernel."""
    (wire.directory / "large").write_bytes(os.urandom(1 << 20) * 24)
    plain_server(wire)
    sentinel = watch(targets=[target(port=PLAIN_PORT)])
    sentinel.wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
    download_plain(wire, name="large")
    assert sentinel.status()["leaks"] == []

    def found(status: dict[str, Any]) -> bool:
        # While the ring is full, what comes is lost, and counted.
        download_plain(wire)
        return bool(status["leaks"])

    sentinel.wait(found)


def test_what_this_machine_sends_is_no_leak(wire: Wire, watch: Start) -> None:
    plain_server(wire, wire.b)
    sentinel = watch(targets=[target(port=PLAIN_PORT)])
    sentinel.wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
    download_plain(wire, PEER, namespace=wire.a)
    plain_server(wire)
    download_plain(wire)
    (leak,) = sentinel.wait(lambda status: bool(status["leaks"]))["leaks"]
    assert leak["src"] == f"{SERVER}:{PLAIN_PORT}"


@pytest.mark.parametrize("tags", [(), (0x8100,), (0x88A8, 0x8100), (0x8100, 0x8100, 0x8100)], ids=len)
def test_tagged_frames_of_the_wire(wire: Wire, watch: Start, tags: tuple[int, ...]) -> None:
    """The kernel takes the outer tag out before it asks the filter; what is left is ours to read."""
    sentinel = watch()
    sentinel.wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
    payload = b"\x17\x03\x03\x05\xa0" + probe_bytes()[32 * 77 + 1 :][:63]
    frame = packets.ethernet(packets.ipv4(packets.tcp(payload)), tags=tags)
    sending = "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); "
    done = wire.run(wire.a, sys.executable, "-c", f"{sending} s.send(bytes.fromhex(sys.argv[1]))", frame.hex())
    assert done.returncode == 0, done.stderr
    (leak,) = sentinel.wait(lambda status: bool(status["leaks"]))["leaks"]
    assert (leak["src"], leak["dst"], leak["block"]) == ("192.0.2.1:8443", "192.0.2.2:40000", 78)


def test_a_download_goes_through_its_interface_or_not_at_all(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    ip("-n", wire.b, "link", "add", "other", "type", "veth", "peer", "name", "nowhere")
    ip("-n", wire.b, "link", "set", "other", "up")
    ip("-n", wire.b, "link", "set", "nowhere", "up")
    try:
        sentinel = watch(interface="other", timeout_s=1.0)
        status = sentinel.wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
        assert not status["armed"]
        assert status["targets"]["files1"]["last_ok"] is None
        assert "files1" in status["why"]
    finally:
        ip("-n", wire.b, "link", "del", "other")


def test_not_armed_and_says_why(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "local": ({"host": "192.0.2.2"}, "192.0.2.2 is this very machine: nothing goes over a wire"),
        "refused": ({"port": 9}, "Connection refused"),
        "name": ({"server_name": "other.example.org"}, "the certificate was not accepted: Hostname mismatch"),
        "path": ({"path": "/other.bin"}, "other content than the probe file's"),
    }
    targets = [target(name=name, **change) for name, (change, _) in wrong.items()]
    status = watch(targets=targets).wait(lambda status: all(entry["failures"] for entry in status["targets"].values()))
    assert not status["armed"]
    assert status["since"] is None
    assert status["why"] == f"no target is watched: local: {status['targets']['local']['error']} (and 3 more)"
    for name, (_, why) in wrong.items():
        entry = status["targets"][name]
        assert why in entry["error"]
        assert (entry["probes"], entry["last_ok"]) == (0, None)


def test_another_authority_is_not_taken(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    status = watch(ca=None).wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
    assert "certificate was not accepted" in status["why"]


@pytest.mark.parametrize(
    ("interface", "why"),
    [("lo", "is the loopback interface"), ("eth9", "interface eth9: No such device")],
)
def test_interfaces_without_a_wire(interface: str, why: str) -> None:
    with pytest.raises(KtlsError, match=why) as caught:
        Capture(interface, [443])
    assert caught.value.code == "no_capture"


def test_a_server_without_tls_1_2_is_named(wire: Wire, watch: Start) -> None:
    wire.tls_server("-tls1_3")
    status = watch().wait(lambda status: status["targets"]["files1"]["failures"] >= 1)
    assert "TLS 1.2 with AES-GCM was not agreed on" in status["why"]


def test_any_version_where_it_is_asked_for(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    status = watch(tls="any").wait(lambda status: status["armed"])
    assert status["targets"]["files1"]["tls"] == "TLSv1.3"


def test_a_range_is_enough(wire: Wire, watch: Start) -> None:
    """openssl s_server has no ranges, and then the whole file comes, which is checked too."""
    wire.tls_server()
    status = watch(bytes=4096).wait(lambda status: status["armed"])
    assert status["targets"]["files1"]["payload_bytes"] > PROBE_SIZE


def test_the_link_goes_down_and_comes_back(wire: Wire, watch: Start) -> None:
    wire.tls_server()
    sentinel = watch()
    since = sentinel.wait(lambda status: status["armed"])["since"]
    ip("-n", wire.b, "link", "set", "eth0", "down")
    try:
        status = sentinel.wait(lambda status: not status["armed"])
        assert status["why"] == "interface eth0 is down"
    finally:
        ip("-n", wire.b, "link", "set", "eth0", "up")
        ip("-n", wire.b, "address", "replace", "2001:db8::2/64", "dev", "eth0", "nodad")
    assert sentinel.wait(lambda status: status["armed"])["since"] > since


def test_without_the_capability_it_says_so(wire: Wire, watch: Start) -> None:
    status = watch(("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")).wait(
        lambda status: status["targets"]["files1"]["failures"] >= 1
    )
    assert status["why"] == "no packet socket (Operation not permitted); the service needs CAP_NET_RAW"
