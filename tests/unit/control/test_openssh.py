# SPDX-License-Identifier: Apache-2.0
"""The command line of ssh: what Ansible would use, what is never negotiable, and what its words mean."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ktls_control import openssh
from ktls_control.inventory import Host, host_from_vars


def host(**variables: Any) -> Host:
    return host_from_vars("web1", variables)


def effective(*variables: tuple[str, Any]) -> dict[str, str]:
    """What ssh itself makes of our command line (ssh -G prints its configuration and connects nowhere)."""
    argv = openssh.argv(host(**dict(variables)), ["true"])
    ssh = shutil.which("ssh")
    assert ssh
    done = subprocess.run([ssh, "-G", *argv[1:]], capture_output=True, text=True, check=True)
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_it_goes_where_ansible_would(tmp_path: Path) -> None:
    key = tmp_path / "id"
    key.touch()
    seen = effective(
        ("ansible_host", "192.0.2.7"), ("ansible_port", 2201), ("ansible_user", "admin"),
        ("ansible_ssh_private_key_file", str(key)), ("ansible_ssh_common_args", "-o ProxyJump=jump.example.org"),
    )  # fmt: skip
    assert (seen["hostname"], seen["port"], seen["user"]) == ("192.0.2.7", "2201", "admin")
    assert (seen["identityfile"], seen["identitiesonly"], seen["proxyjump"]) == (str(key), "yes", "jump.example.org")


def test_nobody_turns_verification_off_or_prompts_on() -> None:
    loose = "-o StrictHostKeyChecking=no -o BatchMode=no -o ControlMaster=auto -o ControlPath=/tmp/x -o LogLevel=DEBUG3"
    seen = effective(
        ("ansible_ssh_common_args", loose), ("ansible_ssh_extra_args", "-o PreferredAuthentications=password")
    )
    assert seen["stricthostkeychecking"] in ("true", "yes")
    assert (seen["batchmode"], seen["loglevel"]) == ("yes", "ERROR")
    assert (seen["controlmaster"], seen.get("controlpath", "none")) == ("false", "none")
    assert seen["preferredauthentications"] == "publickey"


def test_no_key_exchange_is_taken_away() -> None:
    ours = effective()["kexalgorithms"].split(",")
    assert ours[0] == "curve25519-sha256"
    assert any("sntrup" in name or "mlkem" in name for name in ours), "a host that insists on a hybrid is still reached"


def test_a_host_is_never_an_option() -> None:
    argv = openssh.argv(host(ansible_host="-oProxyCommand=touch /tmp/x"), ["echo", "a b", "$x"])
    assert argv[-3:] == ["--", "-oProxyCommand=touch /tmp/x", "echo 'a b' '$x'"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "No ED25519 host key is known for [a]:22 and you have requested strict checking.\r\n"
            "Host key verification failed.",
            "not in known_hosts; add it",
        ),
        (
            "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "is not the one in",
        ),
        ("root@a: Permission denied (publickey).", "accepts no key of yours"),
        ("ssh: Could not resolve hostname a: Name or service not known", "its name has no address"),
        ("ssh: connect to host a port 22: Connection refused", "connect to host a port 22: Connection refused"),
        ("Connection timed out during banner exchange", "no answer within 8 s"),
        ("", "ssh ended with status 255"),
    ],
)
def test_its_words(said: str, expected: str) -> None:
    assert expected in openssh.why(said, 255)
