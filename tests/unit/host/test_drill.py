# SPDX-License-Identifier: Apache-2.0
"""A drill: what it proves, what it refuses, and where the host ends when a step goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ktls_host.commands import CommandResult, Runner
from ktls_host.drill import snapshot
from ktls_host.drill.model import Result, Wish
from ktls_host.drill.run import drill
from ktls_host.drill.updates import summary
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import JsonSockError
from ktls_host.proof.openssl import Cell, Proof

OK = {"peer": "ok", "peer_requested": "breaks: x", "own": "breaks: x"}


def cell(name: str = "A", tx: bool = True, **updates: Any) -> Cell:
    return Cell("TLSv1.3", name, "k", True, tx, False, None, {"tx": {**OK, **updates} if tx else None, "rx": None})


class Off:
    """``ktls-off``: the flag is up at once."""

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def wait(self, timeout: float) -> int:
        return self.code


class FakeHost:
    """Agent, sidecar and files, as far as a drill sees them. ``faults``: what goes wrong, by name."""

    def __init__(self, *faults: str) -> None:
        self.faults = set(faults)
        self.now = 0.0
        self.order = "none"
        self.order_id: str | None = None
        self.epoch = 4
        self.mode = "userspace"
        self.flag: str | None = None
        self.ktls = 0
        self.sessions = 10
        self.others = 0
        self.phase = "tx"
        self.protocol = "TLSv1.3"
        self.card = {"encrypted": 500, "sent": 500, "installed": 2, "software": 3}
        self.features = False
        self.files = {"/etc/ktls/agent.json": "file 0640", "module tls": "loaded", "eth1 tls-hw-tx-offload": "off"}
        self.first, self.restored = "off", False
        self.proof = Proof(True, None, "OpenSSL", (cell(),))
        self.looks = 0
        self.told: dict[str, Any] = {}
        self.asked: list[str] = []
        self.offs: list[tuple[str, bool]] = []

    def agent(self, timeout_s: float = 20.0, **request: Any) -> dict[str, Any]:
        verb = request["verb"]
        self.asked.append(verb)
        if "agent dead" in self.faults or f"{verb} fails" in self.faults:
            raise JsonSockError("unreachable", "cannot connect to the agent: start it")
        getattr(self, f"do_{verb}")(request)
        on = self.mode != "userspace"
        probe = {"ok": True, "sha256_ok": True, "ktls_tx": on, "error": None, "protocol": self.protocol}
        if self.mode == "userspace" and "probe after off by kTLS" in self.faults:
            probe["ktls_tx"] = True
        if on and "self-test in userspace" in self.faults:
            probe["ktls_tx"] = False
        return {
            "order": self.order, "order_id": self.order_id, "ordered_phase": self.phase, "phase": self.mode,
            "tested": True, "hw": self.hw(),
            "epoch": self.epoch, "off": {"flag": self.flag is not None, "reason": self.flag}, "probe": probe,
            "revert": self.steps(), "stuck": "revert stuck" in self.faults and self.order == "reverted",
            "sidecar": {"version": "1"}, "version": "1", "boot_id": "b",
        }  # fmt: skip

    def hw(self) -> dict[str, Any] | None:
        """The card, and traffic of others that it encrypts while the phase is on."""
        if "no card" in self.faults:
            return None
        if self.features and "no traffic" not in self.faults:
            for name, count in (("encrypted", 40_000), ("sent", 39_000), ("installed", 1)):
                self.card[name] += count * (name != "encrypted" or "card frozen" not in self.faults)
        card = self.card
        return {
            "tls12_consent": True, "encrypted_bytes": card["encrypted"], "installed": card["installed"],
            "software": card["software"], "open": {"hw": 1, "stale": int("card frozen" in self.faults)},
            "sent": {"hw": card["sent"], "tls12_gcm": 0, "total": 0},
            "interfaces": [{"name": "eth1", "driver": "mlx5_core", "tx_on": self.features}],
        }  # fmt: skip

    def steps(self) -> list[dict[str, str]]:
        """What the shell did is there at once; the agent's helper answers at the third look."""
        if self.order != "reverted":
            return []
        self.looks += 1
        if self.looks < 3:
            return [{"step": "tx", "result": "done", "by": "ktls-off"}]
        slow = self.looks < 5 or "revert stuck" in self.faults
        lease = [{"step": step, "result": "done", "by": "ktls-off"} for step in ("order", "flag", "lease")]
        own = {"step": "nic", "result": "failed" if slow else "done", "by": "agent", "detail": "no answer"}
        return [own, *(lease if "lease ends meanwhile" in self.faults else [])]

    def do_status(self, request: dict[str, Any]) -> None: ...

    def do_probe(self, request: dict[str, Any]) -> None: ...

    def do_order(self, request: dict[str, Any]) -> None:
        order = request["order"]
        assert order["epoch"] >= self.epoch
        if self.order == "pending":
            assert order["epoch"] > self.epoch
        self.order, self.order_id, self.epoch, self.mode = "pending", order["id"], order["epoch"], order["phase"]
        self.phase = order["phase"]
        if self.phase == "hw" and "feature stays off" not in self.faults:
            self.features, self.files["eth1 tls-hw-tx-offload"] = True, "on"
            self.files["/var/lib/ktls-levers/offload:eth1.json"] = "file 0600"
            self.protocol = "TLSv1.2"
        self.sessions += "no session" not in self.faults
        self.ktls = 3
        if "cards switched off" in self.faults:
            self.files["eth1 tls-hw-tx-offload"] = "off [requested on]"

    def do_revert(self, request: dict[str, Any]) -> None:
        self.mode, self.order, self.features = "userspace", "reverted", False
        if self.phase == "hw" and "feature stays on" not in self.faults:
            self.files["eth1 tls-hw-tx-offload"] = "off"
        if "version stays" not in self.faults:
            self.protocol = "TLSv1.3"

    def do_clear(self, request: dict[str, Any]) -> None:
        self.flag = None

    def do_drilled(self, request: dict[str, Any]) -> None:
        self.told = request["drill"]

    def sidecar(self) -> dict[str, Any]:
        if self.flag is not None and self.ktls and "never drains" not in self.faults:
            self.ktls -= 1
        stays = "off does nothing" in self.faults
        mode = self.mode if stays or self.flag is None else "userspace"
        return {"effective_mode": mode, "connections": {"ktls_tx": self.ktls}, "ktls_rx": {"connections": 0}}

    def restore_cards(self) -> None:
        self.restored = True
        self.files["eth1 tls-hw-tx-offload"] = self.first
        self.files.pop("/var/lib/ktls-levers/offload:eth1.json", None)

    def start_off(self, reason: str, unload: bool) -> Off:
        self.offs.append((reason, unload))
        if "off fails" in self.faults:
            return Off(1)
        if "off does nothing" not in self.faults:
            self.flag = self.flag or ("an incident" if "off by others" in self.faults else reason)
            if "agent asleep" not in self.faults:
                self.do_revert({})
        if unload:
            self.files["module tls"] = "not loaded"
        return Off()

    def tls_stat(self) -> dict[str, int]:
        return {"TlsTxSw": self.sessions, "TlsCurrTxSw": self.ktls + self.others}

    def snapshot(self, places: Sequence[str] = ()) -> snapshot.Snapshot:
        self.places = tuple(places)
        changed = {"/etc/ktls/agent.json": "file 0600"} if "file changed" in self.faults and self.offs else {}
        return {**self.files, **changed}

    def there(self, paths: Sequence[str]) -> list[str]:
        return ["/var/lib/ktls/lease"] if "lease stays" in self.faults else []

    def prove(self) -> Proof:
        return self.proof

    def stack(self) -> dict[str, str]:
        return {"kernel": "6.12", "openssl": "3.5"}

    def time(self) -> float:
        return 1000.0 + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(host: FakeHost, **wish: Any) -> Result:
    return drill(host, Wish("d1", **wish))


def test_a_drill_that_passes_leaves_no_trace_and_tells_the_agent() -> None:
    host = FakeHost()
    found = run(host)
    assert found.ok, found
    assert (found.step, found.why, found.left, found.differences) == ("", "", "", ())
    assert (host.mode, host.flag, host.ktls, host.epoch) == ("userspace", None, 0, 4)
    assert host.told["ok"]
    assert host.told["durations"].keys() == {"enable_s", "off_s", "drained_s", "total_s"}
    assert host.offs == [("ktls drill d1", False)]
    assert found.keyupdate is not None
    assert found.keyupdate["tx"] == {"peer": "ok", "peer_requested": "breaks", "own": "breaks"}
    assert found.host == {"kernel": "6.12", "openssl": "3.5", "agent": "1", "sidecar": "1", "boot_id": "b"}


def test_a_lease_that_ends_while_a_slow_host_goes_back_is_no_failure() -> None:
    """Its timer does the same once more, and notes it."""
    for host in (FakeHost("lease ends meanwhile"), ServedHost("lease ends meanwhile")):
        assert run(host).ok


def test_a_fresh_host_has_no_epoch_yet() -> None:
    host = FakeHost()
    host.epoch = 0
    assert run(host).ok
    assert host.epoch == 1


@pytest.mark.parametrize(
    ("fault", "step", "left"),
    [
        ("order fails", "enable", "userspace"),
        ("self-test in userspace", "enable", "userspace"),
        ("no session", "enable", "userspace"),
        ("off fails", "off", "userspace"),
        ("off does nothing", "off", "userspace"),
        ("agent asleep", "undone", "userspace"),
        ("revert stuck", "undone", "userspace"),
        ("probe after off by kTLS", "probe", "userspace"),
        ("never drains", "drain", "userspace"),
        ("lease stays", "clear", "userspace"),
        ("file changed", "compare", "userspace"),
        ("off by others", "clear", "userspace; off is set by others (an incident) and stays"),
    ],
)
def test_each_step_can_fail_and_the_host_ends_in_userspace(fault: str, step: str, left: str) -> None:
    host = FakeHost(fault)
    found = run(host)
    assert (found.ok, found.step, found.left) == (False, step, left), found
    assert found.why
    assert found.code
    assert host.mode == "userspace"
    assert host.told == {} if fault == "drilled fails" else host.told["step"] == step
    assert (host.flag is None) == (fault != "off by others"), "our flag goes, the flag of others stays"


def test_an_agent_that_dies_on_the_way_leaves_the_flag_up() -> None:
    host = FakeHost()
    order = host.do_order

    def dies(request: dict[str, Any]) -> None:
        order(request)
        host.faults.add("agent dead")
        raise JsonSockError("timeout", "it did not answer")

    host.do_order = dies  # type: ignore[method-assign]
    found = run(host)
    assert (found.ok, found.step) == (False, "enable")
    assert "the off flag is set" in found.left
    assert host.flag == "ktls drill d1 failed at enable"


def test_when_nothing_works_it_says_so_plainly() -> None:
    host = FakeHost("off fails", "revert fails")
    found = run(host)
    assert found.left.startswith("NOT SHOWN to be userspace")
    assert "run ktls-off on the host" in found.left


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"flag": "an incident"}, "off_latched"),
        ({"order": "pending"}, "in_use"),
        ({"order": "committed", "mode": "tx"}, "in_use"),
        ({"mode": "tx"}, "in_use"),
        ({"faults": {"agent dead"}}, "unreachable"),
    ],
)
def test_what_is_in_use_is_not_touched(change: dict[str, Any], code: str) -> None:
    host = FakeHost()
    for name, value in change.items():
        setattr(host, name, value)
    found = run(host)
    assert (found.ok, found.refused, found.code, found.step) == (False, True, code, "look")
    assert set(host.asked) == {"status"}
    assert host.offs == []


@pytest.mark.parametrize(("order", "epoch"), [("pending", 5), ("committed", 4)])
def test_with_consent_an_order_is_taken_away_and_the_host_says_what_it_lost(order: str, epoch: int) -> None:
    host = FakeHost()
    host.order, host.order_id, host.mode, host.ktls = order, "r7", "tx", 9
    found = run(host, force=True)
    assert found.ok, found
    assert found.left == f"userspace; tx was {order} before: order it again"
    assert host.epoch == epoch, "of an order that is pending, the next; else the host's own"


def test_where_others_have_kernel_tls_their_sockets_do_not_hold_a_drill_up() -> None:
    host = FakeHost()
    host.others = 5
    assert run(host).ok


def test_a_module_that_was_not_loaded_is_unloaded_again() -> None:
    host = FakeHost()
    host.files["module tls"] = "not loaded"
    assert run(host).ok
    assert [unload for _, unload in host.offs] == [False, True]


def test_cards_that_the_order_switched_off_are_put_back() -> None:
    assert run(FakeHost("cards switched off")).ok


# Phase hw


def test_a_drill_of_hw_is_proved_by_the_cards_own_count() -> None:
    host = FakeHost()
    found = run(host, phase="hw")
    assert found.ok, found
    assert found.card is not None and found.card["encrypted"] >= 100_000 and found.card["installed"] >= 1
    assert (found.phase, found.protocol) == ("hw", "TLSv1.3")
    assert host.told["durations"].keys() == {"enable_s", "card_s", "off_s", "drained_s", "total_s"}
    assert (host.mode, host.files["eth1 tls-hw-tx-offload"], host.protocol) == ("userspace", "off", "TLSv1.3")


@pytest.mark.parametrize("first", ["on", "off"])
def test_a_card_is_after_a_drill_what_its_driver_made_it(first: str) -> None:
    """Off leaves it off and what it was on record: right for a host that is off, and not for one that was drilled."""
    host = FakeHost()
    host.first = host.files["eth1 tls-hw-tx-offload"] = first
    found = run(host, phase="hw")
    assert found.ok, found
    assert host.restored
    assert host.files["eth1 tls-hw-tx-offload"] == first


@pytest.mark.parametrize(
    ("fault", "step", "words"),
    [
        ("no card", "look", "no interface of this host can offload TLS"),
        ("no traffic", "card", "0 bytes encrypted by the card, 0 bytes sent by connections called hw"),
        # Called hw, sessions installed, bytes sent: and yet nothing of it is the card's work.
        ("card frozen", "card", "0 bytes encrypted by the card"),
        ("feature stays off", "card", "TLS transmit offload is off on eth1"),
        ("version stays", "probe", "versions are not as they were: TLSv1.3 before, TLSv1.2 now"),
        ("feature stays on", "compare", "eth1 tls-hw-tx-offload: was off, is on"),
    ],
)
def test_a_drill_of_hw_fails_where_the_card_or_its_way_back_does(fault: str, step: str, words: str) -> None:
    host = FakeHost(fault)
    found = run(host, phase="hw")
    assert (found.ok, found.step, found.refused) == (False, step, step == "look"), found
    assert words in found.why
    assert host.mode == "userspace"


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        (Proof(why="module tls is not loaded"), "could not be made: module tls is not loaded"),
        (Proof(True, None, "x", (cell(tx=False),)), "with no cipher"),
        (Proof(True, None, "x", (cell(peer="breaks: y"),)), "a peer's new keys break"),
    ],
)
def test_a_host_whose_new_keys_break_fails_before_any_order(proof: Proof, why: str) -> None:
    host = FakeHost()
    host.proof = proof
    found = run(host)
    assert (found.ok, found.refused, found.step) == (False, False, "keyupdate")
    assert why in found.why
    assert "order" not in host.asked
    assert not host.told["ok"], "it is on record"


def test_the_matrix_is_summed_over_ciphers() -> None:
    both = summary(Proof(True, None, "x", (cell("A"), cell("B", own="ok"), cell("C", tx=False))))
    assert both["tx"] == {"peer": "ok", "peer_requested": "breaks", "own": "differs by cipher"}
    assert (both["rx"], both["ciphers"]) == (None, 2)


# Snapshots


class NoCards(Runner):
    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        raise AssertionError("no card, no program")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in (("etc/ktls/agent.json", "{}"), ("etc/ktls/tls/key.pem", "secret"), ("etc/ssl/openssl.cnf", "x")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def _new_file(root: Path) -> None:
    (root / "etc/modprobe.d").mkdir()
    (root / "etc/modprobe.d/new.conf").touch()


def _other_content(root: Path) -> None:
    (root / "etc/ssl/openssl.cnf").write_text("y")


CHANGES: dict[str, Callable[[Path], None]] = {
    "/etc/ktls/agent.json": lambda root: (root / "etc/ktls/agent.json").chmod(0o600),
    "/etc/ssl/openssl.cnf": _other_content,
    "/etc/modprobe.d/new.conf": _new_file,
    "/etc/ktls/tls/key.pem": lambda root: (root / "etc/ktls/tls/key.pem").unlink(),
    "module tls": lambda root: (root / "sys/module/tls").mkdir(parents=True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_content_mode_or_existence_is_named(name: str, tree: Path) -> None:
    before = snapshot.take(str(tree), NoCards())
    assert snapshot.differences(before, snapshot.take(str(tree), NoCards())) == ()
    CHANGES[name](tree)
    found = snapshot.differences(before, snapshot.take(str(tree), NoCards()))
    assert [line.partition(": was ")[0] for line in found] == [name]


def test_keys_are_never_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chmod(tree / "etc/ktls/tls/key.pem", 0)
    monkeypatch.setattr("builtins.open", lambda path, *rest, **more: _not_a_key(path))
    with pytest.raises(KtlsError, match="read"):
        snapshot.describe(str(tree / "etc/ktls/agent.json"), "/etc/ktls/agent.json")
    assert "6 bytes" in snapshot.describe(str(tree / "etc/ktls/tls/key.pem"), "/etc/ktls/tls/key.pem")


def _not_a_key(path: object) -> Any:
    raise KtlsError("read", f"read {path}")


# Other datapaths


class ServedHost(FakeHost):
    """nginx, or a service that has to be restarted: switched by a file, with old processes that drain.

    ``sidecar()`` is not there to be asked: what serves is known by the agent alone.
    """

    DROP_IN = "/etc/nginx/conf.d/ktls-on.conf"

    def __init__(self, *faults: str, **about: Any) -> None:
        super().__init__(*faults)
        self.draining = 0
        self.about: dict[str, Any] = {
            "kind": "nginx", "unit": "nginx.service", "program": "nginx", "version": "1.26.3", "experiments": False,
            "modes": ["userspace", "tx+rx", "rx"], "consent": {"tx_rx": True, "restart": False}, "switch": "reload",
            "problem": None, **about,
        }  # fmt: skip

    def agent(self, timeout_s: float = 20.0, **request: Any) -> dict[str, Any]:
        answer = super().agent(timeout_s, **request)
        if self.flag is not None:
            self.ktls = max(0, self.ktls - ("never drains" not in self.faults))
            self.draining = max(0, self.draining - ("old worker stays" not in self.faults))
        both = "tx" not in self.about["modes"]
        if answer["phase"] == "tx" and both:
            answer["phase"] = "tx+rx"
        if "no content" in self.faults:
            answer["probe"]["sha256_ok"] = None
        mode = "tx+rx" if self.mode == "tx" and both else self.mode
        served = {"effective_mode": mode, "pid": 1, "connections": {"ktls_tx": self.ktls, "userspace": 0}}
        draining = {"processes": self.draining, "connections": None} if self.draining else None
        return {**answer, "sidecar": served, "datapath": {**self.about, "draining": draining}}

    def steps(self) -> list[dict[str, str]]:
        found = super().steps()
        return [*found, {"step": "datapath", "result": "done", "by": "ktls-off"}] if found else []

    def do_order(self, request: dict[str, Any]) -> None:
        super().do_order(request)
        self.files[self.DROP_IN] = "file 0644"
        self.draining = 2

    def do_revert(self, request: dict[str, Any]) -> None:
        super().do_revert(request)
        if "drop-in stays" not in self.faults:
            self.files.pop(self.DROP_IN, None)
        self.draining = 2

    def sidecar(self) -> dict[str, Any]:
        raise JsonSockError("unreachable", "there is no sidecar on this host")


SERVICE = {
    "kind": "service", "unit": "lighttpd.service", "program": "lighttpd", "modes": ["userspace", "tx+rx"],
    "switch": "restart", "consent": {"tx_rx": True, "restart": True},
}  # fmt: skip


@pytest.mark.parametrize(
    "host", [ServedHost(), ServedHost("no content", **SERVICE), ServedHost(modes=["userspace", "tx"])]
)
def test_another_datapath_is_drilled_by_what_its_agent_says(host: ServedHost) -> None:
    found = run(host)
    assert found.ok, found
    assert found.means == ("tx" if "tx" in host.about["modes"] else "tx+rx")
    kind, unit = host.about["kind"], host.about["unit"]
    assert found.host["datapath"] == f"{kind} {unit}" and "sidecar" not in str(found.host["datapath"])
    assert found.host["sidecar"] is None
    assert ServedHost.DROP_IN not in host.files and found.compared == len(host.files)
    assert f"/etc/systemd/system/{unit}.d/*" in host.places
    assert found.durations["drained_s"] is not None and found.durations["off_s"] is not None


@pytest.mark.parametrize(
    ("fault", "step", "words"),
    [
        ("drop-in stays", "compare", "/etc/nginx/conf.d/ktls-on.conf: was absent, is file 0644"),
        ("old worker stays", "drain", "every kTLS connection has gone"),
        ("never drains", "drain", "every kTLS connection has gone"),
        ("self-test in userspace", "enable", "the self-test does not prove kTLS"),
    ],
)
def test_what_another_datapath_leaves_behind_is_found(fault: str, step: str, words: str) -> None:
    found = run(ServedHost(fault), drain_s=3.0)
    assert (found.ok, found.step) == (False, step), found
    assert words in found.why


@pytest.mark.parametrize(
    ("about", "code"),
    [
        ({"consent": {"tx_rx": False, "restart": True}}, "tx_means_rx"),
        ({**SERVICE, "consent": {"tx_rx": True, "restart": False}}, "no_restart_consent"),
        ({"modes": ["userspace"]}, "phase_not_for_datapath"),
        ({"problem": "nginx was not switched to tx: [emerg] unknown directive"}, "datapath_problem"),
    ],
)
def test_a_datapath_that_may_not_is_refused_and_not_touched(about: dict[str, Any], code: str) -> None:
    host = ServedHost(**about)
    found = run(host)
    assert (found.refused, found.code) == (True, code)
    assert host.asked == ["status"] and host.offs == []


def test_with_others_in_the_kernel_the_datapaths_own_count_has_to_do() -> None:
    host = ServedHost()
    host.others = 7
    assert run(host).ok


def test_places_of_a_datapath_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "etc/nginx/conf.d").mkdir(parents=True)
    before = snapshot.take(str(tmp_path), Runner(), ("/etc/nginx/conf.d/*",))
    (tmp_path / "etc/nginx/conf.d/ktls-on.conf").write_text("ssl_conf_command Options KTLS;")
    after = snapshot.take(str(tmp_path), Runner(), ("/etc/nginx/conf.d/*",))
    assert [line.split(":")[0] for line in snapshot.differences(before, after)] == ["/etc/nginx/conf.d/ktls-on.conf"]
    assert snapshot.differences(snapshot.take(str(tmp_path), Runner()), before) == ()
