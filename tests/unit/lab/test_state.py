# SPDX-License-Identifier: Apache-2.0
"""A lab's state, its claim on a name, and the files rendered from it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ktls_lab import api, identity, inventory, paths, ports, sshfiles, state
from ktls_lab.cache import make_once
from ktls_lab.cli import main
from ktls_lab.errors import LabError
from ktls_lab.state import LabState

ROOT = Path(__file__).resolve().parents[3]
Maker = Callable[[str], LabState]


def test_round_trip(make_state: Maker) -> None:
    lab = make_state("one")
    started = lab.with_host(replace(lab.host("web2"), pid=5, start_ticks=6))
    assert state.loads(state.dumps(started), "x") == started
    assert (started.host("web2").pid, started.host("web1").pid) == (5, None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "hosts": [{}]}', '{"schema": 2}'])
def test_damaged_state(text: str) -> None:
    with pytest.raises(LabError, match="ktls lab down"):
        state.loads(text, "/x/state.json")


def test_a_name_is_claimed_once(labs: Path, make_state: Maker) -> None:
    state.claim(make_state("one"))
    with pytest.raises(LabError, match="lab 'one' is already there: 'ktls lab down --name one' ends it"):
        state.claim(replace(make_state("one"), run_dir="/tmp/ktls-lab-other"))
    state.claim(make_state("two"))
    assert state.labs() == ["one", "two"]
    assert sorted(path.name for path in labs.iterdir()) == ["one", "two"], "a refused claim leaves nothing"


def test_up_refuses_a_busy_name_before_it_does_any_work(
    labs: Path, make_state: Maker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_prepare", lambda *_: pytest.fail("an image was prepared"))
    state.claim(make_state("one"))
    assert main(["up", "--name", "one"]) == 1
    assert capsys.readouterr().err == (
        "ktls lab: lab 'one' is already there: 'ktls lab down --name one' ends it, or choose another --name\n"
    )


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", ".hidden", "-x", "x" * 32, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(LabError, match="bad lab name"):
        paths.check_lab_name(name)


def test_down_is_idempotent_and_survives_damage(labs: Path, make_state: Maker) -> None:
    assert api.down("one") is False
    place = state.claim(make_state("one"))
    (place / state.FILE).write_text("{", encoding="utf-8")
    assert api.down("one") is True
    assert not place.exists()


def test_errors_are_one_line_with_exit_status_1(labs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["fault", "web1", "freeze"],
        ["ssh", "web1"],
        ["status", "--name", "x"],
        ["up", "--image", "nope"],
        ["up", "--name", "NOT"],
        ["up", "--hosts", "999"],
    ):
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("ktls lab: "), arguments
        assert error.count("\n") == 1, arguments
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"labs": {}}


def test_usage_errors_are_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fault", "web1", "explode"], ["up", "--hosts", "0"], ["up", "--hosts", "many"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "'many' is not a number of hosts" in capsys.readouterr().err


def test_ssh_config_checks_host_keys(make_state: Maker, tmp_path: Path) -> None:
    directory = tmp_path / "with space"
    directory.mkdir()
    config = directory / "ssh_config"
    config.write_text(sshfiles.ssh_config(make_state("one"), directory), encoding="utf-8")
    run = subprocess.run(["ssh", "-G", "-F", str(config), "web2"], capture_output=True, text=True, check=True)
    seen = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    assert (seen["hostname"], seen["port"], seen["user"]) == ("127.0.0.1", "20004", "root")
    assert seen["stricthostkeychecking"] in {"true", "yes"}
    assert seen["hostkeyalias"] == "web2"
    assert seen["identitiesonly"] == "yes"
    assert seen["userknownhostsfile"] == str(directory / "known_hosts")
    assert seen["identityfile"] == str(directory / "id_ed25519")
    assert (seen["connecttimeout"], seen["serveraliveinterval"], seen["serveralivecountmax"]) == ("8", "3", "3")
    assert seen["controlmaster"] == "false"
    # Ansible asks for 127.0.0.1 and gives port and user itself.
    run = subprocess.run(
        ["ssh", "-G", "-F", str(config), "-p", "20004", "127.0.0.1"], capture_output=True, text=True, check=True
    )
    assert f"userknownhostsfile {directory / 'known_hosts'}" in run.stdout
    assert "stricthostkeychecking true" in run.stdout


def test_known_hosts_names_alias_and_port(make_state: Maker) -> None:
    text = sshfiles.known_hosts(make_state("one"), {"web1": "ssh-ed25519 AAA web1\n", "web2": "ssh-ed25519 BBB web2\n"})
    assert text == "web1,[127.0.0.1]:20002 ssh-ed25519 AAA\nweb2,[127.0.0.1]:20004 ssh-ed25519 BBB\n"


def test_inventory_script(labs: Path, make_state: Maker) -> None:
    state.claim(make_state("one"))
    environment = {"KTLS_LAB": "one", "KTLS_LAB_DIR": str(labs), "PATH": "/usr/bin:/bin"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        # -S: no site-packages, so that only the standard library can be imported.
        return subprocess.run(
            [sys.executable, "-S", str(ROOT / "inventory" / "lab"), *arguments],
            text=True,
            env={**environment, **more},
            capture_output=True,
            check=False,
        )

    listed = json.loads(run("--list").stdout)
    assert listed["ktls_hosts"] == {"hosts": ["web1", "web2"]}
    web2 = listed["_meta"]["hostvars"]["web2"]
    assert web2 == json.loads(run("--host", "web2").stdout)
    assert (web2["ansible_host"], web2["ansible_port"], web2["ansible_user"]) == ("127.0.0.1", 20004, "root")
    assert web2["ansible_ssh_common_args"] == f"-F {labs}/one/ssh_config"
    assert web2["ktls_sidecar_server_name"] == "web2.lab.ktls.internal"
    assert web2["ktls_probe_url"] == "https://127.0.0.1:20005"
    assert web2["ktls_sidecar_ca_dir"] == f"{labs}/one/ca"
    missing = run("--list", KTLS_LAB="two")
    assert missing.returncode == 1
    assert missing.stderr == "inventory/lab: no lab 'two' is running: start it with 'ktls lab up --name two'\n"
    state.save(replace(make_state("one"), ready=False))
    assert "is not up (yet)" in run("--list").stderr


def test_inventory_script_is_executable() -> None:
    assert (ROOT / "inventory" / "lab").stat().st_mode & 0o111 == 0o111
    assert inventory.GROUP == "ktls_hosts"


def test_identities_are_distinct() -> None:
    everyone = [identity.create(index) for index in range(1, identity.MAX_HOSTS + 1)]
    for key in ("name", "fqdn", "address", "mac", "machine_id"):
        assert len({getattr(host, key) for host in everyone}) == len(everyone)
    assert everyone[0].fqdn == "web1.lab.ktls.internal"
    hosts = identity.hosts_file(everyone[:3], everyone[1])
    assert "192.168.150.13 web3.lab.ktls.internal web3\n" in hosts
    assert "127.0.1.1" not in hosts, "a host's own name must lead to its address on the private network"


def test_identity_message_is_fresh(tmp_path: Path) -> None:
    host = identity.create(1)
    identity.keygen(tmp_path / "key", "web1")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    first, second = (identity.message(host, [host], tmp_path / "key", tmp_path / "key.pub") for _ in range(2))
    assert first["seed"] != second["seed"]
    assert second["time"] >= first["time"]


def test_private_networks_are_local_and_differ() -> None:
    groups = {identity.mcast_group() for _ in range(50)}
    assert len(groups) > 45
    assert all(192 <= int(group.split(".")[1]) <= 195 and group.startswith("239.") for group in groups)


def test_ports_are_below_the_range_for_outgoing_connections() -> None:
    source = ports.free_ports()
    taken = [next(source) for _ in range(20)]
    assert len(set(taken)) == 20
    assert all(20000 <= port < 32000 for port in taken)


def test_what_is_made_once_is_never_half_made(tmp_path: Path) -> None:
    place = tmp_path / "thing"
    (tmp_path / ".killed.tmp").mkdir()

    def fail(temporary: Path) -> None:
        (temporary / "part").write_text("x", encoding="ascii")
        raise LabError("no")

    with pytest.raises(LabError):
        make_once(place, fail)
    assert not place.exists()
    assert not list(tmp_path.glob("*.tmp")), "its own and those of killed makers"
    assert make_once(place, lambda temporary: (temporary / "all").touch()) is True
    assert make_once(place, fail) is False
    assert (place / "all").exists()
