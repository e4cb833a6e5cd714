# SPDX-License-Identifier: Apache-2.0
"""Root's helpers: who may ask, what they take for a request, and what each verb does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import config
from ktls_agent.helper import lease, module, nic, serve
from ktls_host import jsonsock, originals
from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError
from ktls_host.nic import drivers
from tests.unit.host.nic.fakenic import RX, TX, FakeHost
from tests.unit.host.test_module_lever import Host as ModuleHost

AGENT = Path(__file__).resolve().parents[3] / "agent"
US = {os.getuid()}


def verbs() -> serve.Verbs:
    def refuse() -> dict[str, Any]:
        raise KtlsError("in_use", "it is in use; wait")

    def fail() -> dict[str, Any]:
        raise OSError(30, "Read-only file system")

    return {"go": lambda: {"went": True}, "refuse": refuse, "fail": fail}


def ask(request: bytes, allowed: Sequence[int] = tuple(US), table: Callable[[], serve.Verbs] = verbs) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        thread = threading.Thread(target=serve.converse, args=(theirs, "test", table, set(allowed)))
        thread.start()
        ours.sendall(request)
        if not request.endswith(b"\n"):
            ours.shutdown(socket.SHUT_WR)
        answer = ours.recv(65536)
        thread.join(10)
        assert not thread.is_alive()
    assert answer.endswith(b"\n")
    parsed: dict[str, Any] = json.loads(answer)
    return parsed


def code(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False
    assert "\n" not in answer["error"]["message"]
    return str(answer["error"]["code"])


# One request


def test_a_verb_is_done_and_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(b'{"verb": "go"}\n') == {"ok": True, "went": True}
    assert code(ask(b'{"verb": "refuse"}\n')) == "in_use"
    assert code(ask(b'{"verb": "fail"}\n')) == "failed"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"test go for uid {os.getuid()} (pid {os.getpid()}): ok"
    assert "in_use: it is in use" in said[1]
    assert "Read-only file system" in said[2]


def test_a_stranger_gets_nothing_done() -> None:
    def table() -> serve.Verbs:
        raise AssertionError("not even looked at")

    assert code(ask(b'{"verb": "go"}\n', allowed=[os.getuid() + 1], table=table)) == "not_permitted"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\n", "bad_request"),
        (b"go\n", "bad_request"),
        (b"[]\n", "bad_request"),
        (b"{}\n", "bad_request"),
        (b'{"verb": "go", "module": "evil"}\n', "bad_request"),
        (b'{"verb": "go"}\n{"verb": "go"}\n', "bad_request"),
        (b'{"verb": "go"}', "bad_request"),
        (b"\xff\xfe\n", "bad_request"),
        (b"[" * 250 + b"\n", "bad_request"),
        (b"x" * 10_000 + b"\n", "bad_request"),
        (b"", "bad_request"),
        (b'{"verb": "stop"}\n', "bad_verb"),
        (b'{"verb": ["go"]}\n', "bad_verb"),
        (b'{"verb": null}\n', "bad_verb"),
    ],
)
def test_malformed_requests(request_: bytes, expected: str) -> None:
    assert code(ask(request_)) == expected


def test_a_peer_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "READ_TIMEOUT_S", 0.1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b'{"verb"')
        serve.converse(theirs, "test", verbs, US)
        assert code(json.loads(ours.recv(4096))) == "bad_request"
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        serve.converse(theirs, "test", verbs, US)


def test_verbs_are_fixed_and_the_agent_is_the_only_other_peer() -> None:
    assert {name: set(serve.verbs_of(name)) for name in serve.NAMES} == {
        "lease": {"arm", "disarm"},
        "module": {"load", "unload"},
        "nic": {"off", "on", "back", "restore", "status"},
        "nginx": {"userspace", "tx", "rx", "check", "status"},
        "service": {"look", "on", "off"},
    }
    assert 0 in serve.allowed_uids()
    assert len(serve.allowed_uids()) <= 2


def test_on_a_passed_connection_and_never_by_hand(tmp_path: Path) -> None:
    """As systemd does it with Accept=yes: the connection is descriptor 3."""
    command = [sys.executable, "-c", "import sys; from ktls_agent.cli import main; sys.exit(main())", "helper", "lease"]
    environment = {**os.environ, "PYTHONPATH": str(AGENT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "started by ktls-lease-helper.socket, not by hand" in done.stderr
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            script = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0'
            whole = ["sh", "-c", script, "sh", *command]
            child = subprocess.Popen(whole, env=environment, stdin=theirs.fileno(), stderr=subprocess.PIPE, text=True)
        ours.settimeout(20)
        ours.sendall(b'{"verb": "restart"}\n')
        assert code(json.loads(ours.recv(4096))) == "bad_verb"
        assert ours.recv(1) == b"", "one request, then it is gone"
    _, said = child.communicate(timeout=20)
    assert child.returncode == 0
    assert said.startswith("lease ? for uid 0")


def test_the_answer_is_what_the_agents_client_reads(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def one() -> None:
            connection, _ = listener.accept()
            with connection:
                serve.converse(connection, "test", verbs, US)

        for request, expected in (({"verb": "go"}, None), ({"verb": "refuse"}, "in_use")):
            thread = threading.Thread(target=one)
            thread.start()
            if expected is None:
                assert jsonsock.call(path, request)["went"] is True
            else:
                with pytest.raises(KtlsError) as caught:
                    jsonsock.call(path, request)
                assert caught.value.code == expected
            thread.join(10)


def test_the_agent_knows_where_its_helpers_are_and_may_have_none() -> None:
    base = {"socket": "/a", "state_dir": "/b", "run_dir": "/c", "sidecar_socket": "/d"}
    raw = {**base, "probe": {"host": "::1", "port": 1, "server_name": "x", "ca": "/ca", "path": "/p"}}
    usual = config.parse(raw, "x")
    assert (usual.lease_socket, usual.module_socket, usual.nic_socket) == tuple(config.HELPER_SOCKETS.values())
    other = config.parse({**raw, "lease_socket": "/l", "module_socket": None, "nic_socket": None}, "x")
    assert (other.lease_socket, other.module_socket, other.nic_socket) == ("/l", None, None)
    odd: Any
    for odd in (5, "", [], False):
        with pytest.raises(KtlsError, match="nic_socket"):
            config.parse({**raw, "nic_socket": odd}, "x")


# lease


class Systemctl(Runner):
    def __init__(self, state: str = "inactive", refuses: bool = False) -> None:
        self.state = state
        self.refuses = refuses
        self.ran: list[str] = []

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        self.ran.append(" ".join(argv))
        if argv[1] in ("start", "stop") and not self.refuses:
            self.state = "active" if argv[1] == "start" else "inactive"
        if argv[1] == "show":
            return CommandResult(0, f"{self.state}\n", "")
        return CommandResult(1, "", "Unit ktls-lease.timer is masked.") if self.refuses else CommandResult(0, "", "")


def test_lease_is_armed_when_the_timer_is_active_and_not_before() -> None:
    systemctl = Systemctl()
    assert lease.arm(systemctl) == {"timer": "active"}
    assert lease.arm(systemctl) == {"timer": "active"}
    assert lease.disarm(systemctl) == {"timer": "inactive"}
    assert {line.split()[-1] for line in systemctl.ran} == {"ktls-lease.timer"}
    with pytest.raises(KtlsError, match="is masked") as caught:
        lease.arm(Systemctl(refuses=True))
    assert caught.value.code == "arm_failed"
    with pytest.raises(KtlsError) as caught:
        lease.disarm(Systemctl("active", refuses=True))
    assert caught.value.code == "disarm_failed"


# module


def test_module_is_loaded_with_what_was_before_on_record(tmp_path: Path) -> None:
    host = ModuleHost(tmp_path)
    root = str(tmp_path)
    assert module.load(root, host) == {"changed": True, "loaded": True, "refcount": 0}  # type: ignore[arg-type]
    record = originals.load("module", root)
    assert record is not None
    assert record.facts == {"loaded": False}
    assert module.load(root, host)["changed"] is False  # type: ignore[arg-type]
    assert not (tmp_path / "etc/modules-load.d/ktls-fleet.conf").exists(), "boot is the operator's choice"
    done = module.unload(root, host)  # type: ignore[arg-type]
    assert (done["changed"], done["loaded"], done["notes"]) == (True, False, [])
    assert host.calls == [("modprobe", "tls"), ("modprobe", "-r", "tls")]


def test_module_in_use_stays_and_a_full_disk_stops_only_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ModuleHost(tmp_path)
    root = str(tmp_path)
    host.load(refcount=2)
    with pytest.raises(KtlsError) as caught:
        module.unload(root, host)  # type: ignore[arg-type]
    assert caught.value.code == "module_in_use"
    assert host.calls == []

    def full(*_: object) -> None:
        raise KtlsError("write_failed", "no space; free some")

    monkeypatch.setattr(originals, "save", full)
    host.load(refcount=0)
    assert module.unload(root, host)["notes"] == ["not recorded: no space; free some"]  # type: ignore[arg-type]
    with pytest.raises(KtlsError, match="no space"):
        module.load(root, host)  # type: ignore[arg-type]
    assert not host.probe().loaded


# nic


@pytest.fixture
def cards(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path, KtlsError)
    host.add("mlx0", "mlx5_core", {TX: "on"})
    host.add("chel0", "cxgb4", {TX: "on", RX: "off fixed"})
    host.add("intel0", "ice", {TX: "off fixed", RX: "off fixed"})
    host.route("mlx0")
    return host


def test_nic_goes_off_everywhere_and_back_to_what_it_was(cards: FakeHost) -> None:
    root = str(cards.root)
    before = nic.status(root, cards)["interfaces"]  # type: ignore[arg-type]
    assert {name: entry["tx"] for name, entry in before.items()} == {"chel0": "on", "mlx0": "on"}
    done = nic.off(root, cards)  # type: ignore[arg-type]
    assert (done["changed"], done["notes"]) == (True, [])
    assert {(entry["tx"], entry["recorded"]) for entry in done["interfaces"].values()} == {("off", True)}
    records = sorted(path.name for path in (cards.root / "var/lib/ktls-levers").glob("offload:*.json"))
    assert records == ["offload:chel0.json", "offload:mlx0.json"], "the names that ktls-off goes by"
    assert nic.off(root, cards)["changed"] is False  # type: ignore[arg-type]
    back = nic.put_back(root, cards)  # type: ignore[arg-type]
    assert back["interfaces"] == before
    assert not list((cards.root / "var/lib/ktls-levers").glob("offload:*.json"))
    assert nic.put_back(root, cards)["changed"] is False  # type: ignore[arg-type]


# phase hw: helper/nic_on.py


@pytest.fixture
def lab_cards(cards: FakeHost) -> FakeHost:
    """One that is on, as its driver has it, and one that is off."""
    cards.request("chel0", TX, False)
    cards.request("mlx0", RX, True)
    return cards


def state(host: FakeHost) -> dict[str, tuple[str, str]]:
    shown = nic.status(str(host.root), host)["interfaces"]  # type: ignore[arg-type]
    return {name: (entry["tx"], entry["rx"]) for name, entry in shown.items()}


def test_nic_on_is_for_sending_and_back_is_what_was_before(lab_cards: FakeHost) -> None:
    host, root = lab_cards, str(lab_cards.root)
    before = state(host)
    assert before == {"chel0": ("off", "off [fixed]"), "mlx0": ("on", "on")}
    done = nic.on(root, host)  # type: ignore[arg-type]
    assert done["changed"] is True
    assert done["before"] == {"chel0": {TX: False, RX: False}, "mlx0": {TX: True, RX: True}}
    assert state(host) == {"chel0": ("on", "off [fixed]"), "mlx0": ("on", "off")}, "receiving is not"
    assert nic.on(root, host)["before"] == done["before"], "again: what was before is still what was before"  # type: ignore[arg-type]
    assert nic.back(root, host)["changed"] is True  # type: ignore[arg-type]
    assert state(host) == before
    assert nic.back(root, host)["changed"] is False  # type: ignore[arg-type]
    assert state(host) == before


def test_nic_on_leaves_a_name_for_ktls_off_where_nothing_had_to_change(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, KtlsError)
    host.add("mlx0", "mlx5_core", {TX: "on"})
    assert nic.on(str(tmp_path), host)["changed"] is False  # type: ignore[arg-type]
    assert (tmp_path / "var/lib/ktls-levers/offload:mlx0.json").exists()
    nic.back(str(tmp_path), host)  # type: ignore[arg-type]
    nic.put_back(str(tmp_path), host)  # type: ignore[arg-type]
    assert list((tmp_path / "var/lib/ktls-levers").iterdir()) == []


def test_nic_back_goes_to_what_was_right_before_and_not_to_what_was_first(lab_cards: FakeHost) -> None:
    host, root = lab_cards, str(lab_cards.root)
    nic.off(root, host)  # type: ignore[arg-type]
    nic.on(root, host)  # type: ignore[arg-type]
    nic.back(root, host)  # type: ignore[arg-type]
    assert {tx for tx, _ in state(host).values()} == {"off"}
    nic.on(root, host)  # type: ignore[arg-type]
    nic.off(root, host)  # type: ignore[arg-type]
    assert nic.back(root, host)["changed"] is False, "off is for good"  # type: ignore[arg-type]
    nic.put_back(root, host)  # type: ignore[arg-type]
    assert state(host)["mlx0"] == ("on", "on"), "undeployed, it is as it was first"


@pytest.mark.parametrize("flag", ["run/ktls/off", "var/lib/ktls/off", "run/ktls/lapsed"])
def test_nic_under_a_flag_goes_off_and_never_on(lab_cards: FakeHost, flag: str) -> None:
    host, root = lab_cards, str(lab_cards.root)
    before = state(host)
    host.write(flag, "")
    with pytest.raises(KtlsError) as caught:
        nic.on(root, host)  # type: ignore[arg-type]
    assert caught.value.code == "off_latched"
    assert state(host) == before
    (host.root / flag).unlink()
    nic.on(root, host)  # type: ignore[arg-type]
    host.write(flag, "")
    nic.back(root, host)  # type: ignore[arg-type]
    assert {tx for tx, _ in state(host).values()} == {"off"}, "what was before is for a host that is not off"


def test_what_the_shell_switched_off_in_hw_is_ours_to_give_back(lab_cards: FakeHost) -> None:
    host, root = lab_cards, str(lab_cards.root)
    before = state(host)
    nic.on(root, host)  # type: ignore[arg-type]
    host.write("run/ktls/off", "")
    for name in before:
        host.request(name, TX, False)  # as ktls-off does it, without a record
    nic.back(root, host)  # type: ignore[arg-type]
    assert {tx for tx, _ in state(host).values()} == {"off"}
    (host.root / "run/ktls/off").unlink()
    done = nic.put_back(root, host)  # type: ignore[arg-type]
    assert state(host) == before
    assert done["notes"] == []


def test_nic_on_that_meets_a_flag_under_way_takes_itself_back(lab_cards: FakeHost) -> None:
    def raise_flag(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("ethtool", "-K"):
            lab_cards.write("run/ktls/off", "")

    lab_cards.before_call = raise_flag
    with pytest.raises(KtlsError) as caught:
        nic.on(str(lab_cards.root), lab_cards)  # type: ignore[arg-type]
    assert caught.value.code == "off_latched"
    assert {tx for tx, _ in state(lab_cards).values()} == {"off"}


def test_nic_on_that_fails_leaves_everything_as_it_was(lab_cards: FakeHost) -> None:
    before = state(lab_cards)
    lab_cards.deaf.add(TX)
    with pytest.raises(KtlsError) as caught:
        nic.on(str(lab_cards.root), lab_cards)  # type: ignore[arg-type]
    assert caught.value.code == "offload_not_effective"
    lab_cards.deaf.clear()
    assert not (lab_cards.root / "var/lib/ktls-levers/hw.json").exists()
    assert state(lab_cards)["mlx0"] == before["mlx0"]


@pytest.mark.parametrize(
    ("driver", "features", "code_"),
    [
        ("ice", {TX: "off fixed"}, "nic_no_tls_offload"),
        ("mlx5_core", {TX: "off fixed"}, "nic_feature_fixed_off"),
        ("tlssim", {TX: "on"}, "lab_device"),
    ],
)
def test_nic_on_says_why_no_card_can(tmp_path: Path, driver: str, features: dict[str, str], code_: str) -> None:
    host = FakeHost(tmp_path, KtlsError)
    host.add("eth0", driver, features)
    with pytest.raises(KtlsError) as caught:
        nic.on(str(tmp_path), host)  # type: ignore[arg-type]
    assert caught.value.code == code_


def test_nic_in_the_lab_the_test_device_is_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setattr(drivers, "LAB_MARKER", str(marker))
    host = FakeHost(tmp_path, KtlsError)
    host.add("eth1", "virtio_net", {TX: "off fixed", RX: "off fixed"})
    host.add_stacked("sim0", "tlssim", "eth1")
    with pytest.raises(KtlsError):
        nic.on(str(tmp_path), host)  # type: ignore[arg-type]
    marker.touch()
    assert nic.on(str(tmp_path), host)["interfaces"]["sim0"]["tx"] == "on"  # type: ignore[arg-type]
    nic.back(str(tmp_path), host)  # type: ignore[arg-type]


def test_on_is_not_done_for_somebody_who_has_left() -> None:
    done: list[str] = []

    def note(verb: str) -> dict[str, Any]:
        done.append(verb)
        return {}

    def table() -> serve.Verbs:
        return {"on": lambda: note("on"), "off": lambda: note("off")}

    for verb in ("on", "off"):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(json.dumps({"verb": verb}).encode() + b"\n")
            ours.close()
            serve.converse(theirs, "nic", table, US)
    assert done == ["off"]
    assert ask(b'{"verb": "on"}\n', table=table) == {"ok": True}, "and for one who waits it is"
    assert done == ["off", "on"]


def test_nic_off_does_not_wait_for_a_record_or_an_edited_rule(cards: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise KtlsError("write_failed", "no space; free some")

    monkeypatch.setattr(originals, "save", full)
    done = nic.off(str(cards.root), cards)  # type: ignore[arg-type]
    assert {entry["tx"] for entry in done["interfaces"].values()} == {"off"}
    assert done["notes"] == ["no space; free some"]


def test_nic_that_does_not_take_it_is_an_error(cards: FakeHost) -> None:
    class Refusing(Runner):
        def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
            if argv[:2] == ("ethtool", "-K"):
                return CommandResult(1, "", "Could not change any device features")
            return cards.run(argv)  # type: ignore[return-value]

    with pytest.raises(KtlsError) as caught:
        nic.off(str(cards.root), Refusing())
    assert caught.value.code == "offload_not_effective"
    assert "\n" not in caught.value.message


def test_hosts_without_such_cards_or_without_ethtool(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, KtlsError)
    host.add("eth0", "virtio_net", {TX: "off fixed", RX: "off fixed"})
    assert nic.off(str(tmp_path), host) == {"changed": False, "interfaces": {}, "notes": []}  # type: ignore[arg-type]
    host.add("mlx0", "mlx5_core")
    host.missing.add("ethtool")
    with pytest.raises(KtlsError) as caught:
        nic.off(str(tmp_path), host)  # type: ignore[arg-type]
    assert caught.value.code == "ethtool_missing"
