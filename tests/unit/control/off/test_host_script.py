# SPDX-License-Identifier: Apache-2.0
"""What runs on the host, in every shell that a host may have, with what may be missing there."""

from __future__ import annotations

import inspect
import json
import subprocess
import time
from pathlib import Path

import pytest

from ktls_control.off.hear import Hearing
from ktls_control.off.run import SCRIPT, plain_reason

KTLS_OFF = Path(__file__).resolve().parents[4] / "agent/units/ktls-off"
SHELLS = ("dash", "busybox sh", "bash")
AGENT = (
    '{"connections": {"ktls_tx": %s, "userspace": 1}, "off": {"flag": true}, "ok": true, "phase": "userspace", '
    '"sidecar": {}}'
)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for place in ("run/ktls", "var/lib/ktls", "proc/net"):
        (tmp_path / place).mkdir(parents=True)
    program(tmp_path / "usr/local/sbin/ktls-off", KTLS_OFF.read_text())
    program(tmp_path / "usr/local/bin/ktls-agent", f"echo '{AGENT % 0}'")
    return tmp_path


def kernel(root: Path, tx: int, opened: int = 5) -> None:
    (root / "proc/net/tls_stat").write_text(f"TlsCurrTxSw {tx}\nTlsCurrRxSw 4\nTlsTxSw {opened}\nTlsTxDevice 0\n")


def say(root: Path, *arguments: str, shell: str = "dash", path: str = "/usr/bin:/bin") -> list[str]:
    first, *more = shell.split()
    with open(SCRIPT, "rb") as script:
        done = subprocess.run(
            [f"/bin/{first}", *more, "-s", "--", *arguments],
            stdin=script, capture_output=True, text=True, timeout=20, check=False,
            env={"KTLS_OFF_PREFIX": str(root), "PATH": path},
        )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def heard(lines: list[str]) -> Hearing:
    hearing = Hearing("web1")
    for line in lines:
        hearing.feed(line, 1.0)
    return hearing


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("reason", ["it's $(touch x) `id` \"; exit 7 #", "-n", "*", "x\ty"])
def test_the_flag_is_raised_with_the_reason_as_it_is(root: Path, shell: str, reason: str) -> None:
    kernel(root, 0)
    hearing = heard(say(root, "", "5", f"why: {reason}", shell=shell))
    assert hearing.ended
    assert hearing.settled
    assert hearing.result().by == "agent"
    assert (root / "run/ktls/off").read_text() == f"why: {reason}\n"


def test_the_script_reads_json_as_the_agent_prints_it() -> None:
    """It looks for words, not for JSON: this is how ``ktls-agent status --json`` writes them."""
    assert json.dumps(json.loads(AGENT % 0), sort_keys=True) == AGENT % 0
    from ktls_agent import cli

    assert "json.dumps(status, sort_keys=True)" in inspect.getsource(cli._one)


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        ("--status", "status"),
        ("-- --boot", "--boot"),
        (" two\nlines ", "two lines"),
        ("--", "ktls off"),
        ("", "ktls off"),
    ],
)
def test_a_reason_is_never_an_option(reason: str, plain: str) -> None:
    assert plain_reason(reason) == plain.lstrip("-")


@pytest.mark.parametrize("shell", SHELLS)
def test_without_an_agent_it_watches_the_kernel_until_none_is_left(root: Path, shell: str) -> None:
    (root / "usr/local/bin/ktls-agent").unlink()
    kernel(root, 3)
    with subprocess.Popen(
        ["sh", "-c", 'sleep 0.7; printf "TlsCurrTxSw 0\\nTlsTxSw 6\\n" > "$1"', "sh", str(root / "proc/net/tls_stat")]
    ):
        lines = say(root, "", "9", "x", shell=shell)
    result = heard(lines).result()
    assert (result.off, result.by, result.left) == (True, "kernel", 0)
    assert [line.split()[2:] for line in lines if line.startswith("@kernel")] == [["3", "5"], ["0", "6"]]
    assert result.last_new_s is not None
    assert result.last_new_s > 1.0, "one more was opened meanwhile"


def test_it_ends_by_itself_when_nothing_drains(root: Path) -> None:
    kernel(root, 3)
    program(root / "usr/local/bin/ktls-agent", f"echo '{AGENT % 2}'")
    began = time.monotonic()
    hearing = heard(say(root, "", "1", "x"))
    assert time.monotonic() - began < 8
    assert hearing.ended
    assert hearing.result().left == 2


def test_sockets_of_other_programs_keep_nobody_waiting(root: Path) -> None:
    kernel(root, 3)
    began = time.monotonic()
    assert heard(say(root, "", "15", "x")).settled, "the agent counts none of its own"
    assert time.monotonic() - began < 8


def test_a_sidecar_in_another_namespace_is_waited_for(root: Path) -> None:
    kernel(root, 0)
    program(root / "usr/local/bin/ktls-agent", f"echo '{AGENT % 2}'")
    assert heard(say(root, "", "1", "x")).result().left == 2


def test_an_agent_that_prints_more_than_a_line(root: Path) -> None:
    kernel(root, 0)
    program(root / "usr/local/bin/ktls-agent", "echo Traceback; echo 'ImportError: no module'; exit 1")
    result = heard(say(root, "", "1", "x")).result()
    assert (result.off, result.by) == (True, "kernel")
    assert "ImportError: no module" in str(result.note)


def test_another_login_uses_sudo_without_a_prompt_for_two_commands_and_nothing_else(root: Path) -> None:
    kernel(root, 0)
    program(root / "bin/id", "echo 1000")
    program(root / "bin/sudo", f'echo "$*" >> {root}/asked; [ "$1" = -n ] || exit 1; shift; exec "$@"')
    assert heard(say(root, "", "1", "x", path=f"{root}/bin:/usr/bin:/bin")).settled
    assert (root / "asked").read_text().splitlines() == [
        f"-n {root}/usr/local/sbin/ktls-off x",
        f"-n {root}/usr/local/bin/ktls-agent status --json",
    ]


def test_a_command_of_the_inventory_may_have_several_words(root: Path) -> None:
    kernel(root, 0)
    program(root / "wrap", 'shift; exec "$KTLS_OFF_PREFIX/usr/local/sbin/ktls-off" "$@"')
    assert heard(say(root, f"{root}/wrap one", "1", "x")).settled


def test_a_command_that_is_not_there_is_an_error_of_the_flag(root: Path) -> None:
    (root / "usr/local/sbin/ktls-off").unlink()
    result = heard(say(root, "", "1", "x")).result()
    assert (result.flag, result.code) == (False, "flag_failed")
    assert "ktls-off" in str(result.error)
