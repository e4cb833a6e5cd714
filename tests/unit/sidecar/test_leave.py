# SPDX-License-Identifier: Apache-2.0
"""The order that all workers share, and the end of connections whose kTLS is no longer ordered."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.jsonsock import RequestError
from ktls_sidecar import connection, ulp
from ktls_sidecar import transfer as transfer_module
from ktls_sidecar.counters import Counters
from ktls_sidecar.leave import Leave, is_ordered, seconds_of
from ktls_sidecar.merge import empty, not_ordered
from ktls_sidecar.mode import ModeFollower, ModeSwitch
from ktls_sidecar.openssl import TlsConnection
from ktls_sidecar.page import MODES, Order, OrderPage, pack, unpack
from tests.unit.sidecar.support import Certificate, Client, Sidecar, eventually, running

BODY = os.urandom(8 * 1024 * 1024)
_ORDERS = st.builds(
    Order, st.sampled_from(MODES), st.integers(0, 1_000_000).map(lambda n: n / 1e6), st.integers(0, 2**32)
)
_LOW = 2**32 - 1


# --- the page -----------------------------------------------------------------------------------------------------


@given(_ORDERS)
def test_a_word_holds_a_whole_order(order: Order) -> None:
    found = unpack(pack(order))
    assert found is not None
    assert found._replace(generation=order.generation) == order
    assert found.generation == order.generation % 2**32
    assert pack(order) < 2**64


@given(_ORDERS, st.integers(1, 255))
def test_halves_of_two_orders_are_no_order(order: Order, later: int) -> None:
    old, new = pack(order), pack(order._replace(mode="tx", generation=order.generation + later))
    assert unpack((old >> 32 << 32) | (new & _LOW)) is None
    assert unpack((new >> 32 << 32) | (old & _LOW)) is None


def test_a_torn_word_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    page = OrderPage()
    seen: list[str] = []
    follower = ModeFollower([], seen.append, page)
    old, new = pack(Order("userspace", 1.0, 0)), pack(Order("rx", 0.5, 1))
    words = iter([(new >> 32 << 32) | (old & _LOW)] * 3 + [new] * 4)
    monkeypatch.setattr(OrderPage, "word", property(lambda _page: next(words)))
    assert (follower.effective(), follower.share, follower.generation, seen) == ("rx", 0.5, 1, ["rx"])


def test_another_process_sees_the_order() -> None:
    page = OrderPage()
    switch = ModeSwitch([], lambda _mode: None, page=page)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        follower = ModeFollower([], lambda _mode: None, page)
        until = time.monotonic() + 10
        while follower.effective() != "tx" and time.monotonic() < until:
            time.sleep(0.001)
        os.write(theirs, f"{follower.ordered} {follower.share} {follower.generation}".encode())
        os._exit(0)
    switch.order("tx", 0.25)
    os.waitpid(pid, 0)
    assert os.read(ours, 100) == b"tx 0.25 1"
    os.close(ours)
    os.close(theirs)


# --- followers ------------------------------------------------------------------------------------------------------


def test_a_flag_ends_an_order_for_a_follower_too_until_the_next(tmp_path: Path) -> None:
    flag = tmp_path / "off"
    page = OrderPage()
    seen: list[str] = []
    switch = ModeSwitch([], lambda _mode: None, page=page)
    follower = ModeFollower([str(flag)], seen.append, page)
    switch.order("tx", 0.5)
    flag.touch()
    assert follower.draw() == "userspace"
    flag.unlink()
    assert (follower.draw(), follower.generation) == ("userspace", 1), "the flag is gone and the order is not back"
    switch.order("userspace")
    assert follower.effective() == "userspace"
    switch.order("tx")
    assert follower.draw() == "tx"
    assert seen == ["tx", "userspace", "tx"]


@given(st.lists(st.tuples(st.sampled_from(MODES), st.sampled_from([0.0, 0.25, 1.0]), st.booleans()), max_size=12))
def test_a_follower_that_looks_now_and_then_has_the_last_order(orders: list[tuple[str, float, bool]]) -> None:
    page = OrderPage()
    switch = ModeSwitch([], lambda _mode: None, page=page)
    follower = ModeFollower([], lambda _mode: None, page)
    for mode, share, look in orders:
        switch.order(mode, share)
        if look:
            follower.follow()
    follower.follow()
    assert (follower.ordered, follower.share, follower.generation) == (switch.ordered, switch.share, switch.generation)


# --- the deadline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "tx", "rx", "expected"),
    [
        ("userspace", False, False, True),
        ("userspace", True, False, False),
        ("userspace", False, True, False),
        ("tx", True, False, True),
        ("tx", True, True, False),
        ("rx", True, True, True),
        ("rx", False, False, True),
    ],
)
def test_what_is_ordered(mode: str, tx: bool, rx: bool, expected: bool) -> None:
    assert is_ordered(mode, tx, rx) == expected


def test_the_deadline_is_set_by_going_down_only() -> None:
    leave = Leave(300.0)
    leave.moved("userspace", "rx", 10.0)
    assert leave.until is None
    leave.moved("rx", "tx", 20.0)
    assert leave.until == 320.0
    leave.moved("tx", "userspace", 30.0)
    assert leave.until == 330.0
    leave.begin(None, 31.0)
    assert leave.until is None
    never = Leave(usual_s=None)
    never.moved("tx", "userspace", 1.0)
    assert never.until is None


@pytest.mark.parametrize("value", [-1, 86401, "5", True, float("nan"), [1]])
def test_bad_times(value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        seconds_of(value)
    assert caught.value.code == "bad_drain"


def test_what_is_left_is_counted_by_mode() -> None:
    counts = empty()
    for number, path in enumerate(("userspace", "ktls_tx", "ktls_tx_rx")):
        counts["rows"].append(
            {
                "assigned": "rx",
                "path": path,
                "protocol": "TLSv1.3",
                "cipher": "A",
                "connections": 10**number,
                "connections_total": 0,
                "bytes_total": 0,
                "received_total": 0,
                "requests_total": 0,
            }
        )
    assert [not_ordered(counts, mode) for mode in MODES] == [110, 100, 0, 100]
    counters = Counters()
    for tx, rx, number in ((False, False, 1), (True, False, 10), (True, True, 100)):
        for _ in range(number):
            counters.opened("rx", tx, rx, "TLSv1.3", "A")
    assert [counters.not_ordered(mode) for mode in MODES] == [110, 100, 0, 100]


# --- connections, as far as userspace can play the kernel's ---------------------------------------------------------


@pytest.fixture
def play_ktls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are taken for kTLS, and userspace sends what the kernel would."""
    real: Any = transfer_module.transfer
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    monkeypatch.setattr(TlsConnection, "ktls_send", property(lambda _self: True))

    def play(*arguments: Any) -> Any:
        return real(*arguments[:-1], False)

    monkeypatch.setattr(connection, "transfer", play)


def reading(sidecar: Sidecar) -> Client:
    """A client in the middle of a download."""
    client = sidecar.client()
    client.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    while client.stream.readline() != b"\r\n":
        pass
    assert client.stream.read(1000) == BODY[:1000]
    return client


def finishes(client: Client) -> bool:
    """True when the download ends well."""
    try:
        return client.stream.read(len(BODY) - 1000) == BODY[1000:]
    except OSError:
        return False


@pytest.fixture
def sidecar(tmp_path: Path, certificate: Certificate, request: pytest.FixtureRequest) -> Any:
    with running(tmp_path, certificate, **getattr(request, "param", {})) as found:
        (found.root / "big").write_bytes(BODY)
        yield found


@pytest.mark.usefixtures("play_ktls")
@pytest.mark.parametrize("sidecar", [{"ktls_drain_s": 0.6}], indirect=True)
@pytest.mark.parametrize("by_flag", [False, True])
def test_who_has_not_finished_at_the_deadline_is_cut(sidecar: Sidecar, by_flag: bool) -> None:
    sidecar.call(verb="mode", mode="tx")
    slow, quick = reading(sidecar), reading(sidecar)
    assert sidecar.status()["drain"] == {"left": 0, "deadline_left_s": None}
    if by_flag:
        sidecar.off_flag.touch()
        eventually(lambda: sidecar.status()["effective_mode"] == "userspace")
    else:
        sidecar.call(verb="mode", mode="userspace")
    drain = sidecar.status()["drain"]
    assert drain["left"] == 2
    assert 0 < drain["deadline_left_s"] <= 0.6
    assert finishes(quick), "there was time to finish"
    eventually(lambda: sidecar.status()["drain"] == {"left": 0, "deadline_left_s": None})
    assert not finishes(slow)
    status = sidecar.status()
    assert (status["limited"], status["errors"]) == ({"drained": 1}, {})


@pytest.mark.usefixtures("play_ktls")
def test_an_order_may_shorten_the_time_or_lift_it(sidecar: Sidecar) -> None:
    sidecar.call(verb="mode", mode="tx")
    with reading(sidecar) as client:
        left = sidecar.call(verb="mode", mode="userspace")["drain"]["deadline_left_s"]
        assert 295 < left <= 300
        assert sidecar.call(verb="mode", mode="userspace", drain_s=None)["drain"] == {
            "left": 1,
            "deadline_left_s": None,
        }
        sidecar.call(verb="mode", mode="userspace")
        assert sidecar.status()["drain"]["deadline_left_s"] is None, "the same order again changes nothing"
        sidecar.call(verb="mode", mode="userspace", drain_s=0)
        eventually(lambda: sidecar.status()["drain"]["left"] == 0)
        assert not finishes(client)


@pytest.mark.usefixtures("play_ktls")
@pytest.mark.parametrize("sidecar", [{"ktls_drain_s": 0.5}], indirect=True)
def test_who_is_ordered_again_is_not_cut(sidecar: Sidecar) -> None:
    sidecar.call(verb="mode", mode="tx")
    with reading(sidecar) as client:
        sidecar.call(verb="mode", mode="userspace")
        sidecar.call(verb="mode", mode="tx")
        assert sidecar.status()["drain"]["left"] == 0
        time.sleep(1.0)
        assert finishes(client)
    assert sidecar.status()["limited"] == {}


def test_no_key_enters_the_kernel_after_the_flag(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was accepted before it, and shakes hands after it."""
    refused: list[bool] = []
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    monkeypatch.setattr(TlsConnection, "disable_ktls", lambda _self: refused.append(True))
    sidecar.call(verb="mode", mode="tx")
    real = connection.Connection._handshake

    def late(self: connection.Connection) -> None:
        sidecar.off_flag.touch()
        real(self)

    monkeypatch.setattr(connection.Connection, "_handshake", late)
    with sidecar.client() as client:
        assert refused == [True]
        assert client.get("/big").status == 200
