# SPDX-License-Identifier: Apache-2.0
"""What a rollout may conclude from its sentinels, and how they are asked."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_control import sentinel
from ktls_control.errors import ControlError
from ktls_control.inventory import Host, host_from_vars
from ktls_control.sentinel_targets import share, target
from ktls_host.jsonsock import serve_unix

SINCE, NOW = 1000.0, 1100.0
HOSTS = ["files1", "files2"]
LEAK = {"at": 5.0, "src": "192.0.2.1:8443", "dst": "192.0.2.9:4", "block": 7}


def entry(last_ok: float | None = 1095.0, **more: Any) -> dict[str, Any]:
    return {"probes": 3, "last_ok": last_ok, "error": None, "tls": "TLSv1.2", "packets": 9, "payload_bytes": 9, **more}


def status(skew: float = 0.0, targets: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An answer of a sentinel whose clock is ``skew`` seconds ahead."""
    shown = {name: entry() for name in HOSTS} if targets is None else targets
    shown = {
        name: {**each, "last_ok": each["last_ok"] + skew} if each["last_ok"] is not None else each
        for name, each in shown.items()
    }
    base: dict[str, Any] = {"ok": True, "armed": True, "why": None, "interval_s": 15.0, "leaks": [], "targets": shown}
    return {**base, "now": NOW + skew, "asked_at": NOW, **more}


def seen(*statuses: dict[str, Any], hosts: list[str] | None = None) -> tuple[str, str]:
    named = {f"peer{index}": each for index, each in enumerate(statuses, 1)}
    return sentinel.judge(named, HOSTS if hosts is None else hosts, SINCE, NOW)


@pytest.mark.parametrize("skew", [0.0, 5000.0, -5000.0])
def test_clean_whatever_its_clock_says(skew: float) -> None:
    assert seen(status(skew)) == ("clean", "watched by peer1")


def test_two_sentinels_share_the_hosts() -> None:
    first, second = status(targets={"files1": entry()}), status(targets={"files2": entry()})
    assert seen(first, second)[0] == "clean"
    assert seen(first, status(targets={"files2": entry()}, armed=False, why="eth0 is down")) == (
        "blind", "peer2 is not armed: eth0 is down",
    )  # fmt: skip
    assert seen(first, status(targets={}, armed=False, why="x"), hosts=["files1"])[0] == "clean"


@pytest.mark.parametrize(
    ("given_status", "why"),
    [
        (status(armed=False, why="interface eth0 is down"), "peer1 is not armed: interface eth0 is down"),
        (status(asked_at=NOW - 61), "peer1: its answer is 61 s old"),
        ({"ok": False, "error": {"code": "cut_off", "message": "peer1 unreachable: no route"}}, "peer1 unreachable"),
        ({"ok": True}, "peer1: its answer is not that of a sentinel"),
        ({}, "peer1: no answer"),
        (status(targets={"files1": entry()}), "files2: no sentinel watches it; run playbook sentinel.yml"),
        (status(targets={"files1": entry(), "files2": entry(None)}), "files2: peer1 has not seen a download of it yet"),
        (
            status(targets={"files1": entry(), "files2": entry(None, error="refused")}),
            "files2: peer1 has not seen a download of it yet: refused",
        ),
        (
            status(targets={"files1": entry(), "files2": entry(999.0)}),
            "files2: peer1 has not seen a download of it since its order",
        ),
        (
            status(targets={"files1": entry(), "files2": entry(1039.0, error="refused")}),
            "files2: the last download that peer1 saw is 61 s old: refused",
        ),
        (
            status(targets={"files1": entry(), "files2": entry(1106.0)}),
            "files2: peer1 says that its last download is yet to come",
        ),
        (status(targets={"files1": entry(), "files2": entry(math.nan)}), "files2: peer1 has not seen a download of it"),
        (
            status(targets={"files1": entry(), "files2": entry(tls="TLSv1.3")}),
            "files2: peer1 downloads over TLSv1.3, which no card takes; set ktls_sentinel_tls to 1.2",
        ),
    ],
)
def test_blind_with_the_reason(given_status: dict[str, Any], why: str) -> None:
    sight, found = seen(given_status)
    assert sight == "blind"
    assert found.startswith(why)


def test_nobody_watches() -> None:
    assert sentinel.judge({}, HOSTS, SINCE, NOW) == (
        "blind", "no machine watches the wire: none is in group ktls_sentinels",
    )  # fmt: skip


def test_many_reasons_are_cut() -> None:
    assert seen(status(targets={}), hosts=[f"h{index}" for index in range(9)])[1].endswith("(and 4 more)")


@pytest.mark.parametrize(
    "more",
    [{}, {"armed": False, "why": "x"}, {"asked_at": 0.0}, {"targets": None}, {"ok": False}],
    ids=["armed", "not armed", "old answer", "damaged", "refused"],
)
def test_a_leak_is_a_leak_whatever_else_is_wrong(more: dict[str, Any]) -> None:
    sight, why = seen(status(), {**status(leaks=[LEAK, {**LEAK, "src": "192.0.2.2:8443"}]), **more}, {"ok": False})
    assert sight == "leak"
    assert why.startswith(
        "peer2 saw plaintext of 192.0.2.1:8443 on the wire (block 7 of the probe file), and of 1 more"
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just("files1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("ok", "armed", "now", "asked_at", "interval_s", "targets", "leaks", "error")


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING), st.dictionaries(st.sampled_from(list(entry())), ANYTHING))
def test_answers_of_any_shape_are_judged_and_never_clean_by_accident(
    change: dict[str, Any], host: dict[str, Any]
) -> None:
    odd = {**status(targets={"files1": entry()}), "targets": {"files1": {**entry(), **host}}, **change}
    sight, why = sentinel.judge({"peer1": odd}, ["files1"], SINCE, NOW)
    assert why
    if sight == "clean":
        assert odd["armed"] is True
        assert odd["ok"] is True
        assert odd["targets"]["files1"]["tls"] == "TLSv1.2"
        age = odd["now"] - odd["targets"]["files1"]["last_ok"]
        assert math.isfinite(age)
        assert age <= 100


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Host]:
    """A sentinel's socket on this machine."""
    loop, path = asyncio.new_event_loop(), str(tmp_path / "s")
    server = loop.run_until_complete(serve_unix(path, lambda request, _: {"asked": request["verb"]}))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield host_from_vars("peer1", {"ansible_connection": "local", "ktls_sentinel_socket": path})
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_they_are_asked_over_the_socket_of_the_sentinel(answering: Host, tmp_path: Path) -> None:
    gone = host_from_vars("peer2", {"ktls_reach": "socket", "ktls_sentinel_socket": str(tmp_path / "none")})
    found = sentinel.ask([answering, gone])
    assert list(found) == ["peer1", "peer2"]
    assert found["peer1"]["asked"] == "status"
    assert found["peer1"]["asked_at"] > 1e9
    assert found["peer2"]["ok"] is False
    assert found["peer2"]["error"]["code"] == "unreachable"


def test_hosts_are_shared_and_nobody_watches_itself() -> None:
    hosts = [f"h{index}" for index in range(10)]
    shares = {name: share(hosts, ["p1", "p2", "h3"], name) for name in ("p1", "p2", "h3")}
    assert sorted(itertools.chain(*shares.values())) == sorted(hosts)
    assert "h3" not in shares["h3"]
    assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 2
    with pytest.raises(ControlError, match="h1 would watch itself"):
        share(["h1"], ["h1"], "h1")
    with pytest.raises(ControlError, match="is not in the group"):
        share(["h1"], ["p1"], "p2")


def test_a_target_from_the_variables_of_a_host() -> None:
    assert target("files1", {}) == {"name": "files1", "host": "files1", "port": 8443, "server_name": "files1"}
    variables = {
        "ansible_host": "10.0.0.1", "ktls_sentinel_address": "192.0.2.1", "ktls_sidecar_port": "443",
        "ktls_sidecar_server_name": "files1.example.org",
    }  # fmt: skip
    assert target("a", variables) == {
        "name": "a", "host": "192.0.2.1", "port": 443, "server_name": "files1.example.org",
    }  # fmt: skip
    assert target("a", {"ansible_host": "10.0.0.1"})["host"] == "10.0.0.1"
