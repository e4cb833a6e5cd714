# SPDX-License-Identifier: Apache-2.0
"""The signed flag on the control node: what is signed, what is refused, and what a web server sees meanwhile."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ktls_control import cli, flag
from ktls_control.errors import ControlError
from ktls_host.flag_document import BEGIN, parse, split


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "ops"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def signers(key: Path, tmp_path: Path) -> Path:
    path = tmp_path / "allowed_signers"
    path.write_text(f'prod namespaces="ktls-flag" {key.with_suffix(".pub").read_text()}')
    path.chmod(0o644)
    return path


def test_what_is_signed_is_verified(
    key: Path, signers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flag"
    arguments = ["flag", "sign", "--key", str(key), "--fleet", "prod", "--off", "--reason", "  resets\non web-07 "]
    assert cli.main([*arguments, "-o", str(out)]) == 0
    assert cli.main(["flag", "verify", str(out), "--allowed-signers", str(signers)]) == 0
    said = capsys.readouterr().out
    assert "says off: resets on web-07" in said
    assert "SHA256:" in said
    assert cli.main(["flag", "verify", str(out), "--allowed-signers", str(signers), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["fleet"], shown["serial"]) == ("off", "prod", shown["issued_at"])
    assert len(out.read_bytes()) < 1024


def test_serials_grow_by_themselves_and_may_be_given(key: Path) -> None:
    at = [parse(split(flag.sign(key, "prod", "none", "x", now=now))[0]).serial for now in (1000.9, 1001.0)]
    assert at == [1000, 1001]
    assert parse(split(flag.sign(key, "prod", "none", "x", serial=7))[0]).serial == 7


def test_a_key_that_an_agent_holds_signs_by_its_public_half(
    key: Path, signers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            while not socket.exists():
                assert agent.poll() is None
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
            public = tmp_path / "only.pub"
            public.write_bytes(key.with_suffix(".pub").read_bytes())
            body = flag.sign(public, "prod", "off", "x")
        finally:
            agent.terminate()
    assert flag.check(body, "x", signers).flag.state == "off"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--off"], "say why with --reason"),
        (["--off", "--reason", " \n "], "say why with --reason"),
        (["--none", "--fleet", "a b"], "fleet"),
        (["--none", "--serial", "0"], "serial"),
        (["--none", "--key", "/nowhere"], "no such key"),
        (["--none", "--publish", "/nowhere"], "No such file"),
        (["--none", "-o", "/nowhere/flag"], "name another file"),
    ],
)
def test_a_mistake_is_one_line(key: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flag", "sign", "--key", str(key), "--fleet", "prod", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_a_file_that_is_no_key_and_a_key_that_nobody_unlocks(tmp_path: Path, key: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no key")
    rubbish.chmod(0o600)
    with pytest.raises(ControlError) as caught:
        flag.sign(rubbish, "prod", "none", "x")
    assert caught.value.code == "sign_failed"
    assert str(rubbish) in caught.value.message
    public = tmp_path / "lonely.pub"
    public.write_bytes(key.with_suffix(".pub").read_bytes())
    with pytest.raises(ControlError, match="does not sign"):
        flag.sign(public, "prod", "none", "x")


def test_no_secret_is_on_any_command_line(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    run = subprocess.run

    def spy(argv: list[str], **options: object) -> object:
        seen.append(argv)
        return run(argv, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", spy)
    flag.sign(key, "prod", "off", "the reason is in a file")
    (argv,) = seen
    assert argv[:5] == ["ssh-keygen", "-Y", "sign", "-f", str(key)]
    assert "reason" not in " ".join(argv)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((b"off", b"none"), "bad_signature"),
        ((b"prod", b"test"), "bad_signature"),
        ((b"serial: ", b"serial: 0"), "bad_flag"),
    ],
)
def test_verify_refuses_what_a_host_refuses(
    key: Path, signers: Path, tmp_path: Path, change: tuple[bytes, bytes], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flag"
    path.write_bytes(flag.sign(key, "prod", "off", "x").replace(*change, 1))
    assert cli.main(["flag", "verify", str(path), "--allowed-signers", str(signers), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == code
    assert str(path) in captured.err


# Publication


def test_a_flag_is_published_whole_with_a_date_of_its_own(key: Path, tmp_path: Path) -> None:
    dates = []
    for state in ("none", "off", "none", "off"):
        body = flag.sign(key, "prod", state, "x")
        path = flag.publish(body, tmp_path)
        assert path.read_bytes() == body
        assert path.stat().st_mode & 0o777 == 0o644
        dates.append(path.stat().st_mtime)
    assert dates == sorted(set(dates)), "servers make validators of whole seconds"
    assert all(date == int(date) for date in dates)
    assert [entry.name for entry in tmp_path.iterdir()] == ["flag"]


def test_publish_reads_a_flag_and_refuses_one_that_hosts_refuse(
    key: Path, signers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    body = flag.sign(key, "prod", "none", "x")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
    assert cli.main(["flag", "publish", str(site), "--allowed-signers", str(signers)]) == 0
    assert (site / "flag").read_bytes() == body
    bad = tmp_path / "bad"
    bad.write_bytes(body.split(BEGIN)[0].replace(b"none", b"off") + BEGIN + body.split(BEGIN)[1])
    assert cli.main(["flag", "publish", str(site), "--file", str(bad), "--allowed-signers", str(signers)]) == 1
    bad.write_bytes(b"x" * 10_000)
    assert cli.main(["flag", "publish", str(site), "--file", str(bad)]) == 1
    assert (site / "flag").read_bytes() == body
    assert capsys.readouterr().err.count("\n") == 2


def test_a_publication_that_fails_leaves_the_old_flag_and_no_litter(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = flag.sign(key, "prod", "none", "x")
    flag.publish(old, tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ControlError, match="No space left"):
        flag.publish(flag.sign(key, "prod", "off", "x"), tmp_path)
    assert (tmp_path / "flag").read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["flag"]


def test_a_link_in_the_way_is_refused(key: Path, tmp_path: Path) -> None:
    (tmp_path / "flag").symlink_to("/etc/passwd")
    with pytest.raises(ControlError, match="is not a file"):
        flag.publish(flag.sign(key, "prod", "off", "x"), tmp_path)
