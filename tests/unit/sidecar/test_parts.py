# SPDX-License-Identifier: Apache-2.0
"""Configuration, counters, metrics, mode, ULP decisions: the parts without a socket."""

from __future__ import annotations

import asyncio
import errno
import json
import random
import re
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import RequestError
from ktls_sidecar import config, ulp
from ktls_sidecar.channel import Channel
from ktls_sidecar.counters import PATHS, Counters
from ktls_sidecar.merge import Counts, Row, empty, ended, merge
from ktls_sidecar.metrics import render
from ktls_sidecar.mode import ModeSwitch
from ktls_sidecar.output import LineWriter
from ktls_sidecar.report import status
from tests.unit.sidecar.support import report_of


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "must be an object"),
        ({"prot": 1}, "unknown key 'prot'"),
        ({"listen": []}, "'listen'"),
        ({"listen": [{"host": "::", "port": 99999}]}, "port 99999"),
        ({"listen": [{"host": "::", "port": True}]}, "port True"),
        ({"listen": [{"host": "", "port": 1}]}, "host ''"),
        ({"root": "srv"}, "'root' must be an absolute path"),
        ({"key": 5}, "'key'"),
        ({"off_flags": []}, "'off_flags'"),
        ({"drain_s": "10"}, "'drain_s'"),
        ({"drain_s": 0}, "'drain_s'"),
        ({"max_connections": 1.5}, "'max_connections'"),
        ({"access_log": 1}, "'access_log'"),
        ({"zerocopy": "no"}, "'zerocopy'"),
        ({"workers": -1}, "'workers'"),
        ({"workers": True}, "'workers'"),
        ({"workers": 10_000}, "'workers'"),
        ({"http_socket": "x"}, "'http_socket'"),
        ({"ktls_max_age_s": 0}, "'ktls_max_age_s'"),
        ({"ktls_drain_s": -1}, "'ktls_drain_s'"),
        ({"ktls_drain_s": "300"}, "'ktls_drain_s'"),
        ({"ktls_drain_s": True}, "'ktls_drain_s'"),
        ({"ktls_max_bytes": 0.5}, "'ktls_max_bytes'"),
        ({"files": []}, "'files'"),
        ({"certificates": {}}, "'certificates'"),
        ({"certificates": [{"certificate": "/c"}]}, "'certificates'"),
        ({"certificates": [{"certificate": "c", "key": "k"}]}, "'certificate' must be an absolute path"),
        ({"certificates": [{"certificate": "/c", "key": "../k"}]}, "key '../k'"),
        ({"certificates": [{"certificate": "/c", "key": ".."}]}, "key '..'"),
    ],
)
def test_bad_configuration_is_named(tmp_path: Path, data: Any, says: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(KtlsError, match=re.escape(says)) as caught:
        config.load(str(path))
    assert caught.value.code == "bad_config"


def test_defaults_are_those_of_an_installed_host() -> None:
    settings = config.parse({})
    assert [(item.host, item.port) for item in settings.listen] == [("0.0.0.0", 8443), ("::", 8443)]
    assert settings.off_flags == ("/run/ktls/off", "/var/lib/ktls/off", "/run/ktls/lapsed")
    assert settings.ktls_drain_s == 300.0
    assert config.parse({"ktls_drain_s": None}).ktls_drain_s is None
    assert config.parse({"ktls_drain_s": 0}).ktls_drain_s == 0.0


def test_the_key_comes_from_the_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    assert config.Config().key_path() == "/run/credentials/x/tls.key"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(KtlsError, match="no TLS key"):
        config.Config().key_path()


def test_more_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    more = [{"certificate": "/a.pem", "key": "/a.key"}, {"certificate": "/b.pem", "key": "b.key"}]
    beside = config.parse({"certificate": "/c.pem", "certificates": more}).pairs()
    a, b = config.Pair("/a.pem", "/a.key"), config.Pair("/b.pem", "/run/credentials/x/b.key")
    assert beside == (config.Pair("/c.pem", "/run/credentials/x/tls.key"), a, b)
    assert config.parse({"certificates": more}).pairs() == (a, b), "the first is then the default"
    assert config.parse({"certificates": more[::-1]}).pairs() == (b, a)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_counters_follow_connections() -> None:
    clock = Clock()
    counters = Counters(clock=clock)

    def now() -> dict[str, Any]:
        return status(report_of(counters.snapshot(), now=clock.now))

    assert now()["ktls_tx_zero_age_s"] is None
    first = counters.opened("tx", True, False, "TLSv1.3", "A")
    second = counters.opened("rx", True, True, "TLSv1.2", "B")
    other = counters.opened("tx", False, False, "TLSv1.3", "A")
    receiving = counters.opened("rx", False, True, "TLSv1.3", "A")
    first.bytes_total += 10
    other.bytes_total += 3
    second.received_total += 5
    clock.now = 101.0
    assert now()["connections"] == {"ktls_tx": 2, "userspace": 2}
    assert now()["bytes"] == {"ktls_tx": 10, "userspace": 3}
    assert now()["ktls_rx"] == {"connections": 2, "connections_total": 2, "bytes": 5}
    assert now()["last_ktls_tx_established_age_s"] == 1.0
    assert now()["ktls_tx_zero_age_s"] is None
    counters.closed(receiving)
    counters.closed(first)
    assert now()["ktls_tx_zero_age_s"] is None
    counters.closed(second)
    clock.now = 104.0
    assert now()["ktls_tx_zero_age_s"] == 3.0
    assert now()["connections"] == {"ktls_tx": 0, "userspace": 1}
    assert now()["connections_total"] == {"ktls_tx": 2, "userspace": 2}
    found = {(row["assigned"], row["path"], row["protocol"], row["bytes_total"]) for row in now()["by"]}
    assert found == {
        ("rx", "ktls_tx_rx", "TLSv1.2", 0),
        ("rx", "ktls_rx", "TLSv1.3", 0),
        ("tx", "ktls_tx", "TLSv1.3", 10),
        ("tx", "userspace", "TLSv1.3", 3),
    }
    counters.opened("tx", True, False, "TLSv1.3", "A")
    assert now()["ktls_tx_zero_age_s"] is None


def test_a_snapshot_is_plain_json() -> None:
    counters = Counters()
    counters.opened("tx", True, False, "TLSv1.3", "A")
    counters.requests[200] += 1
    counters.limited["age"] += 1
    snapshot = counters.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot


_NAMES = st.sampled_from(["a", "b", "c"])
_COUNTED = st.dictionaries(_NAMES, st.integers(0, 1000), max_size=3)
_TIMES = st.none() | st.floats(0, 1000)


@st.composite
def snapshots(draw: st.DrawFn) -> Counts:
    keys = st.tuples(
        st.sampled_from(["userspace", "tx", "rx"]),
        st.sampled_from(PATHS),
        st.sampled_from(["TLSv1.2", "TLSv1.3"]),
        _NAMES,
    )
    rows: list[Row] = [
        {
            "assigned": assigned,
            "path": path,
            "protocol": protocol,
            "cipher": cipher,
            "connections": draw(st.integers(0, 3)),
            "connections_total": draw(st.integers(3, 100)),
            "bytes_total": draw(st.integers(0, 1 << 50)),
            "received_total": draw(st.integers(0, 1 << 50)),
            "requests_total": draw(st.integers(0, 1 << 50)),
        }
        for assigned, path, protocol, cipher in draw(st.lists(keys, unique=True, max_size=4))
    ]
    return {
        "rows": rows,
        "errors": draw(_COUNTED),
        "errors_by_mode": draw(_COUNTED),
        "client_aborts": draw(_COUNTED),
        "fallbacks": draw(_COUNTED),
        "limited": draw(_COUNTED),
        "requests": draw(_COUNTED),
        "rejected": draw(st.integers(0, 100)),
        "times": draw(st.sampled_from([{}, {"tx": [[1.0, 0.5], [3.0, 0.1]]}, {"tx": [[2.0, 0.2]], "userspace": []}])),
        "ktls_tx_at": draw(_TIMES),
        "ktls_tx_zero_at": draw(_TIMES),
    }


@given(st.lists(snapshots(), max_size=4), st.randoms())
def test_workers_add_up_in_any_order_and_grouping(parts: list[Counts], chance: random.Random) -> None:
    whole = merge(parts)
    shuffled = list(parts)
    chance.shuffle(shuffled)
    assert merge(shuffled) == whole
    cut = chance.randint(0, len(parts))
    assert merge([merge(parts[:cut]), merge(parts[cut:])]) == whole
    assert merge([whole, empty()]) == whole
    values: list[list[list[Any]]] = [[list(row.values()) for row in counts["rows"]] for counts in (whole, *parts)]
    for column in range(4, 8):
        assert sum(row[column] for row in values[0]) == sum(row[column] for rows in values[1:] for row in rows)


@given(snapshots())
def test_totals_outlive_a_process_and_open_connections_do_not(counts: Counts) -> None:
    before, after = status(report_of(counts)), status(report_of(ended(counts, 99.0)))
    for name in ("connections_total", "bytes", "errors", "client_aborts", "fallbacks", "limited"):
        assert after[name] == before[name]
    assert after["connections"] == {"ktls_tx": 0, "userspace": 0}
    assert after["ktls_rx"]["connections"] == 0
    if before["connections"]["ktls_tx"]:
        assert after["ktls_tx_zero_age_s"] == 1.0, "its kTLS connections ended with it"


def test_zero_is_when_the_last_worker_is_at_zero() -> None:
    clock = Clock()
    one, two, never = Counters(clock=clock), Counters(clock=clock), Counters(clock=clock)

    def age() -> float | None:
        merged = merge([one.snapshot(), two.snapshot(), never.snapshot()])
        return cast("float | None", status(report_of(merged, now=clock.now))["ktls_tx_zero_age_s"])

    first, second = (each.opened("tx", True, False, "TLSv1.3", "A") for each in (one, two))
    one.closed(first)
    clock.now = 105.0
    assert age() is None
    two.closed(second)
    clock.now = 107.0
    assert age() == 2.0


def test_metrics_text() -> None:
    counters = Counters()
    counters.opened("tx", True, False, "TLSv1.3", 'odd"cipher\\').bytes_total += 7
    counters.fallbacks["no_tls_ulp"] += 2
    counters.limited["age"] += 3
    counters.requests[200] += 5
    text = render(report_of(counters.snapshot(), share=0.25))
    labels = '{assigned="tx",path="ktls_tx",protocol="TLSv1.3",cipher="odd\\"cipher\\\\"}'
    lines = text.splitlines()
    for expected in (
        f"ktls_sidecar_connections{labels} 1",
        f"ktls_sidecar_bytes_total{labels} 7",
        'ktls_sidecar_fallbacks_total{reason="no_tls_ulp"} 2',
        'ktls_sidecar_limited_total{cause="age"} 3',
        'ktls_sidecar_requests_total{code="200"} 5',
        'ktls_sidecar_mode{mode="tx"} 1',
        'ktls_sidecar_mode{mode="userspace"} 0',
        "ktls_sidecar_off_flag 0",
        "ktls_sidecar_share 0.25",
        "ktls_sidecar_up 1",
        "ktls_sidecar_workers 1",
    ):
        assert expected in lines
    sample = re.compile(r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\.)*"(,[a-z]+="(?:[^"\\\n]|\\.)*")*\})? \d+(\.\d+)?')
    typed = set()
    for line in lines:
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert sample.fullmatch(line), line
            assert line.split("{")[0].split(" ")[0] in typed
    assert text.endswith("\n")


def test_large_counts_are_exact_in_the_metrics() -> None:
    counters = Counters()
    counters.opened("tx", True, False, "TLSv1.3", "A").bytes_total += 12_345_678_901_234_567
    assert " 12345678901234567\n" in render(report_of(counters.snapshot()))


def test_mode_starts_in_userspace_and_follows_orders(tmp_path: Path) -> None:
    seen: list[str] = []
    mode = ModeSwitch([str(tmp_path / "off")], seen.append)
    assert mode.effective() == "userspace"
    mode.order("userspace")
    mode.order("tx")
    mode.order("tx")
    assert (mode.effective(), mode.draw(), mode.generation, seen) == ("tx", "tx", 1, ["tx"])
    mode.order("rx")
    assert (mode.effective(), mode.draw(), mode.generation, seen) == ("rx", "rx", 2, ["tx", "rx"])


def test_a_share_of_connections_draws_the_mode(tmp_path: Path) -> None:
    seen: list[str] = []
    numbers = iter([0.0, 0.25, 0.249, 0.9])
    mode = ModeSwitch([str(tmp_path / "off")], seen.append, chance=lambda: next(numbers))
    mode.order("tx", 0.25)
    assert [mode.draw() for _ in range(4)] == ["tx", "userspace", "tx", "userspace"]
    assert (mode.effective(), mode.share) == ("tx", 0.25)
    mode.order("tx", 0.25)
    mode.order("tx", 1)
    assert seen == ["tx", "tx"], "another share is a change, the same is none"
    assert [mode.draw() for _ in range(3)] == ["tx"] * 3, "without drawing lots"
    mode.order("rx", 0.5)
    mode.order("userspace", 0.5)
    assert (mode.draw(), mode.share) == ("userspace", 1.0)


def test_the_lot_is_fair() -> None:
    mode = ModeSwitch([], lambda _mode: None)
    mode.order("rx", 0.3)
    drawn = [mode.draw() for _ in range(4000)]
    # Six standard deviations.
    assert abs(drawn.count("rx") - 1200) < 6 * 29
    assert set(drawn) == {"rx", "userspace"}
    mode.order("rx", 0)
    assert {mode.draw() for _ in range(200)} == {"userspace"}


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan"), float("inf"), "1", True, None, [1]])
def test_bad_shares(share: Any) -> None:
    mode = ModeSwitch([], lambda _mode: None)
    with pytest.raises(RequestError) as caught:
        mode.order("tx", share)
    assert (caught.value.code, mode.ordered) == ("bad_share", "userspace")


def test_the_off_flag_is_looked_at_for_each_connection(tmp_path: Path) -> None:
    flag = tmp_path / "off"
    mode = ModeSwitch([str(flag)], lambda _mode: None)
    mode.order("tx", 0.5)
    flag.touch()
    assert {mode.draw() for _ in range(20)} == {"userspace"}
    assert (mode.ordered, mode.share) == ("userspace", 1.0)


@pytest.mark.parametrize("which", [0, 1])
def test_either_flag_ends_the_order_for_good(tmp_path: Path, which: int) -> None:
    flags = [tmp_path / "run", tmp_path / "var"]
    mode = ModeSwitch([str(flag) for flag in flags], lambda _mode: None)
    mode.order("tx")
    flags[which].symlink_to("nowhere")  # existence is what counts
    assert mode.effective() == "userspace"
    with pytest.raises(RequestError) as caught:
        mode.order("tx")
    assert caught.value.code == "off_latched"
    mode.order("userspace")
    flags[which].unlink()
    assert mode.effective() == "userspace"
    mode.order("tx")
    assert mode.effective() == "tx"


def test_a_flag_that_cannot_be_looked_at_counts_as_set(tmp_path: Path) -> None:
    assert ulp.flag_exists(str(tmp_path / ("x" * 300)))  # ENAMETOOLONG stands for any odd error
    assert not ulp.flag_exists(str(tmp_path / "off"))
    (tmp_path / "file").touch()
    assert not ulp.flag_exists(str(tmp_path / "file" / "off"))


@pytest.mark.parametrize(
    ("mode", "code"),
    [("HW", "bad_mode"), ("on", "bad_mode"), (None, "bad_mode"), ([], "bad_mode")],
)
def test_other_modes_are_refused(mode: Any, code: str) -> None:
    switch = ModeSwitch([], lambda _mode: None)
    with pytest.raises(RequestError) as caught:
        switch.order(mode)
    assert caught.value.code == code


class Refusing:
    def __init__(self, number: int) -> None:
        self.number = number

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option, value) == (6, 31, b"tls")
        if self.number:
            raise OSError(self.number, "refused")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(0, None), (errno.ENOENT, "no_tls_ulp"), (errno.EPERM, "ulp_eperm"), (errno.ENOTCONN, "ulp_enotconn")],
)
def test_ulp_refusals_have_names(number: int, reason: str | None) -> None:
    assert ulp.attach(cast(socket.socket, Refusing(number))) == reason


@pytest.mark.parametrize(
    ("openssl", "kernel", "expected"),
    [
        ((3, 5, 7), "6.12.117+deb13-cloud-amd64", False),
        ((3, 5, 7), "6.14.0", True),
        ((3, 5, 7), "7.2.12", True),
        ((3, 0, 19), "7.2.12", False),
        ((3, 5, 7), "odd", False),
    ],
)
def test_who_can_change_keys(openssl: tuple[int, int, int], kernel: str, expected: bool) -> None:
    assert ulp.can_rekey(openssl, kernel) is expected


@given(st.lists(st.text(st.characters(blacklist_characters="\n", codec="utf-8"), max_size=3000), max_size=12))
@example(["x" * 3000, "y" * 3000, "z" * 9000, "", "x"])
def test_lines_leave_whole_in_pieces_that_the_kernel_takes_at_once(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    pieces: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        assert fd == 7
        pieces.append(data)
        return len(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ktls_sidecar.output.os.write", write)
        LineWriter(7).write(text)
    assert b"".join(pieces) == text.encode()
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= 4096 or piece.count(b"\n") == 1
    for first, second in zip(pieces, pieces[1:]):
        assert len(first) + len(second[: second.index(b"\n") + 1]) > 4096, "no piece is shorter than it has to be"


def test_a_channel_says_all_in_order_and_notices_the_end() -> None:
    async def talk() -> tuple[list[Any], list[Any]]:
        loop = asyncio.get_running_loop()
        left, right = (Channel(sock) for sock in socket.socketpair())
        # Before anybody listens, and more than the socket takes.
        messages = [{"n": number, "text": "x" * 1000} for number in range(1000)]
        for message in messages:
            left.send(message)
        heard: list[Any] = []
        over = asyncio.Event()
        right.attach(loop, heard.append, over.set)
        left.attach(loop, lambda _message: None, lambda: None)
        while len(heard) < len(messages):
            await asyncio.sleep(0.001)
        left.send({"last": True})
        left.finish(1.0)
        await asyncio.wait_for(over.wait(), 5)
        right.close()
        return heard, [*messages, {"last": True}]

    heard, said = asyncio.run(talk())
    assert heard == said


def test_durations_are_told_while_connections_draw_lots_and_are_bounded() -> None:
    now = [0.0]
    counters = Counters(clock=lambda: now[0])
    for number in range(100):
        now[0] = float(number)
        counters.timed("tx", number / 1000)
    times = counters.snapshot()["times"]["tx"]
    assert times == [[float(number), number / 1000] for number in range(84, 100)]
