# SPDX-License-Identifier: Apache-2.0
"""The command line: exit statuses, one-line errors, and no needless imports."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import cli, config, page
from ktls_host.errors import KtlsError

STATUS: dict[str, Any] = {
    "ok": True, "host": {"name": "web1"}, "phase": "tx", "order": "pending", "order_id": "o1", "ordered_phase": "tx",
    "epoch": 4, "lease_left_s": 12.3, "revert_reason": None, "off": {"flag": False, "age_s": None, "reason": None},
    "connections": {"ktls_tx": 3, "userspace": 1}, "bytes": {"ktls_tx": 990, "userspace": 10},
    "sockets": {"ktls_tx": 3, "ktls_rx": 0, "userspace": 1}, "sockets_error": None, "sidecar_error": None,
    "sidecar": {},
    "probe": {"ok": True, "ktls_tx": True, "protocol": "TLSv1.3", "cipher": "X", "at_age_s": 2.0, "error": None},
    "problems": ["epoch was damaged"],
}  # fmt: skip


class Answering(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.heard.append(json.loads(self.rfile.readline()))  # type: ignore[attr-defined]
        self.wfile.write(json.dumps(self.server.reply).encode() + b"\n")  # type: ignore[attr-defined]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Answering) as found:
        found.heard, found.reply = [], STATUS  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_status_for_people_and_programs(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--socket", server.server_address]) == 0
    shown = capsys.readouterr().out
    assert "web1: phase tx, order pending (o1, tx, epoch 4), reverts in 12 s unless confirmed" in shown
    assert "99.0 % of 1000 bytes by kTLS" in shown
    assert "PROBLEM: epoch was damaged" in shown
    assert cli.main(["status", "--json", "--socket", server.server_address]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_order_and_confirm_send_what_was_typed(server: Any) -> None:
    line = ["--id", "o1", "--epoch", "4", "--phase", "tx", "--lease", "60", "--plan-sha256", "ab"]
    assert cli.main(["order", *line, "--socket", server.server_address]) == 0
    assert cli.main(["confirm", "--id", "o1", "--epoch", "4", "--socket", server.server_address]) == 0
    key = ["--id", "o1", "--epoch", "4", "--socket", server.server_address]
    assert cli.main(["extend", "--lease", "90", *key]) == 0
    assert cli.main(["cancel", *key]) == 0
    assert cli.main(["revert", "--reason", "x", "--unload", "--socket", server.server_address]) == 0
    sent = {"id": "o1", "epoch": 4, "phase": "tx", "lease_s": 60.0, "plan_sha256": "ab"}
    assert server.heard == [
        {"verb": "order", "order": sent},
        {"verb": "confirm", "id": "o1", "epoch": 4},
        {"verb": "extend", "id": "o1", "epoch": 4, "lease_s": 90.0},
        {"verb": "cancel", "id": "o1", "epoch": 4},
        {"verb": "revert", "reason": "x", "unload": True},
    ]


def test_a_stuck_host_says_so(server: Any) -> None:
    failed = {"step": "nic", "result": "failed", "detail": "no answer", "at": 0.0, "by": "agent"}
    shown = page.render(
        {**STATUS, "order": "stuck", "revert_reason": "lease_expired", "revert": [failed], "lapsed": True}
    )
    assert "userspace until the next order" in shown
    assert "order stuck (o1, tx, epoch 4)" in shown
    assert ": lease_expired" in shown
    assert "revert: nic FAILED: no answer" in shown


def test_refusal_is_one_line_and_status_one(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = {"ok": False, "error": {"code": "off_latched", "message": "the off flag is set"}}
    assert cli.main(["clear", "--socket", server.server_address]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the off flag is set" in err


def test_usage_is_two_and_unreachable_is_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["order", "--id", "x"])
    assert caught.value.code == 2
    assert cli.main(["status", "--socket", str(tmp_path / "none")]) == 3
    err = capsys.readouterr().err.splitlines()[-1]
    assert "start the service" in err


def test_off_works_without_the_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--run-flag", str(tmp_path / "run-off"), "--durable-flag", str(tmp_path / "durable-off")]
    assert cli.main(["off", "--reason", "fire", "--socket", str(tmp_path / "none"), *flags]) == 0
    assert json.loads((tmp_path / "run-off").read_text())["reason"] == "fire"
    assert (tmp_path / "durable-off").exists()
    assert "obeys it by itself" in capsys.readouterr().err
    flags = ["--run-flag", "/proc/x/off", "--durable-flag", "/proc/x/off"]
    assert cli.main(["off", "--socket", str(tmp_path / "none"), *flags]) == 1
    assert "run ktls-off as root" in capsys.readouterr().err


def test_off_that_did_not_switch_is_a_failure(server: Any) -> None:
    off = {"flag": True, "age_s": 0.0, "reason": "x"}
    for status, expected in (
        ({"off": off, "phase": "tx"}, 1),
        ({"off": off, "phase": "userspace", "sidecar": None, "sidecar_error": "gone"}, 1),
        ({"phase": "userspace"}, 1),
        ({"off": off, "phase": "userspace"}, 0),
    ):
        server.reply = {**STATUS, **status}
        assert cli.main(["off", "--socket", server.server_address]) == expected
    server.reply = {**STATUS, "sidecar": None, "sidecar_error": "gone"}
    assert "phase not known" in page.render(server.reply)


def test_guards_that_see_nothing_are_shown_while_they_should_act() -> None:
    guards = {"armed": True, "dry_run": False, "rules": {"bad_record": {"state": "blind"}, "x": {"state": "ok"}}}
    assert "guards: armed, BLIND: bad_record" in page.render({**STATUS, "guards": guards})
    guards["rules"] = {"x": {"state": "over"}}
    assert "guards: armed, all see" in page.render({**STATUS, "guards": guards})
    assert "guards" not in page.render({**STATUS, "guards": {**guards, "armed": False}})


def test_a_client_imports_neither_asyncio_nor_ssl(server: Any) -> None:
    program = (
        "import sys; from ktls_agent import cli; cli.main(['status', '--socket', sys.argv[1]]);"
        "sys.exit(bool({'asyncio', 'dataclasses', 'ssl', 'zipfile', 'subprocess', 'hashlib'} & set(sys.modules)))"
    )
    agent = Path(__file__).resolve().parents[3] / "agent"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, server.server_address],
        env={"PYTHONPATH": str(agent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "web1: phase tx" in done.stdout, done.stderr
    assert done.returncode == 0, "a client imported what only the service needs"


GOOD: dict[str, Any] = {
    "socket": "/a", "state_dir": "/b", "run_dir": "/c", "sidecar_socket": "/d",
    "probe": {"host": "127.0.0.1", "port": 8443, "server_name": "x", "ca": "/ca", "path": "/p"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"socket": 5}, "socket"),
        ({"typo": 1}, "typo"),
        ({"group": 5}, "group"),
        ({"probe": None}, "probe"),
        ({"probe": {**GOOD["probe"], "port": 0}}, "probe.port"),
        ({"probe": {**GOOD["probe"], "port": True}}, "probe.port"),
        ({"probe": {**GOOD["probe"], "verify": False}}, "probe.verify"),
        ({"probe": {**GOOD["probe"], "ca": ""}}, "probe.ca"),
        ({"lease_socket": ""}, "lease_socket"),
        ({"nic_socket": 7}, "nic_socket"),
    ],
)
def test_bad_configuration_names_its_key(change: dict[str, Any], named: str) -> None:
    assert config.parse(GOOD, "x").run_flag == "/c/off"
    assert config.parse(GOOD, "x").lease_socket == "/run/ktls-lease.sock"
    assert config.parse({**GOOD, "lease_socket": None}, "x").lease_socket is None
    with pytest.raises(KtlsError, match=named) as caught:
        config.parse({**GOOD, **change}, "agent.json")
    assert caught.value.code == "bad_config"


def test_serve_without_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{")
    for name in ("none.json", "bad.json"):
        assert cli.main(["serve", "--config", str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
