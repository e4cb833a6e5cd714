# SPDX-License-Identifier: Apache-2.0
"""The configuration, and what somebody may have written into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.errors import KtlsError
from ktls_sentinel import cli, config

TARGET = {"name": "files1", "host": "192.0.2.1", "port": 8443, "server_name": "files1.example.org"}
GOOD: dict[str, Any] = {"interface": "eth0", "targets": [TARGET]}


def test_defaults_and_everything_given() -> None:
    found = config.parse(GOOD, "x")
    assert found == config.SentinelConfig("eth0", (config.Target("files1", "192.0.2.1", 8443, "files1.example.org"),))
    assert found.targets[0].path == "/ktls-probe.bin"
    assert (cli._CONFIG, cli._SOCKET) == (config.DEFAULT_PATH, config.SOCKET), "cli.py does without the import"
    more = {
        "ca": "/etc/ca.pem", "interval_s": 30, "timeout_s": 5, "bytes": 8192, "tls": "any", "workers": 2,
        "on_leak": ["/usr/local/bin/off", "now"], "socket": "/run/x/s", "state_dir": "/var/lib/x",
    }  # fmt: skip
    six = {"name": "b", "host": "2001:db8::1", "port": 443, "server_name": "b", "path": "/p"}
    found = config.parse({**GOOD, **more, "targets": [TARGET, six]}, "x")
    assert (found.bytes, found.on_leak, found.targets[1].host) == (8192, ("/usr/local/bin/off", "now"), "2001:db8::1")
    assert config.parse({**GOOD, "ca": None}, "x").ca is None


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"interface": ""}, "interface"),
        ({"interface": "../x"}, "interface"),
        ({"interface": "a" * 16}, "interface"),
        ({"interface": None}, "interface"),
        ({"targets": []}, "targets"),
        ({"targets": [TARGET] * 101}, "targets"),
        ({"targets": [TARGET, TARGET]}, "two of one name"),
        ({"targets": ["files1"]}, "targets[0] is not an object"),
        ({"targets": [{**TARGET, "port": 0}]}, "targets[0].port"),
        ({"targets": [{**TARGET, "port": True}]}, "targets[0].port"),
        ({"targets": [{**TARGET, "port": "8443"}]}, "targets[0].port"),
        ({"targets": [{**TARGET, "host": "a b"}]}, "targets[0].host"),
        ({"targets": [{**TARGET, "host": "-x"}]}, "targets[0].host"),
        ({"targets": [{**TARGET, "server_name": "a\r\nX: y"}]}, "targets[0].server_name"),
        ({"targets": [{**TARGET, "path": "/a b"}]}, "targets[0].path"),
        ({"targets": [{**TARGET, "path": "/a\r\nHost: x"}]}, "targets[0].path"),
        ({"targets": [{**TARGET, "name": "a/b"}]}, "targets[0].name"),
        ({"targets": [{**TARGET, "verify": False}]}, "unknown key verify"),
        ({"ca": "ca.pem"}, "ca"),
        ({"ca": ""}, "ca"),
        ({"interval_s": 0}, "interval_s"),
        ({"interval_s": float("nan")}, "interval_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"bytes": 4097}, "bytes"),
        ({"bytes": 1 << 20}, "bytes"),
        ({"bytes": 4096.0}, "bytes"),
        ({"tls": 1.2}, "tls"),
        ({"tls": "1.3"}, "tls"),
        ({"workers": 0}, "workers"),
        ({"on_leak": "rm -rf /"}, "on_leak"),
        ({"on_leak": ["sh", "-c"]}, "on_leak"),
        ({"on_leak": ["/bin/sh", 1]}, "on_leak"),
        ({"on_leak": ["/bin/sh", "a\0b"]}, "on_leak"),
        ({"socket": "s"}, "socket"),
        ({"verify": False}, "unknown key verify"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], key: str) -> None:
    with pytest.raises(KtlsError) as caught:
        config.parse({**GOOD, **change}, "/etc/ktls/sentinel.json")
    assert caught.value.code == "bad_config"
    assert caught.value.message.startswith("/etc/ktls/sentinel.json: ")
    assert key in caught.value.message


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("interface", "targets", "ca", "interval_s", "timeout_s", "bytes", "tls", "workers", "on_leak", "socket")


@given(ANYTHING, st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_anything_is_a_configuration_or_refused_by_name(raw: Any, change: dict[str, Any]) -> None:
    for candidate in (raw, {**GOOD, **change}, {**GOOD, "targets": [{**TARGET, **change}]}):
        assert outcome(candidate) in ("taken", "bad_config")


def outcome(raw: Any) -> str:
    try:
        config.parse(raw, "x")
    except KtlsError as error:
        return error.code
    return "taken"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800"])
def test_files_that_cannot_be_read(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sentinel.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert cli.main(["serve", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert "is not JSON" in error
    assert error.count("\n") == 1


def test_no_file_and_no_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--config", str(tmp_path / "none")]) == 1
    assert "run playbook sentinel.yml" in capsys.readouterr().err
    assert cli.main(["status", "--json", "--socket", str(tmp_path / "none")]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unreachable"


def test_the_largest_status_fits_into_a_line_of_the_socket() -> None:
    from ktls_host.jsonsock import encode
    from ktls_sentinel.latch import MAX_LEAKS
    from ktls_sentinel.state import TargetState
    from ktls_sentinel.watch import Leak

    worst = TargetState(10**9, 10**9, 1e10, "x" * 160, "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", 10**12, 10**15)
    targets = {f"{index:03}".rjust(100, "n"): worst.as_dict(1e10, 1e10) for index in range(config.MAX_TARGETS)}
    leaks = [Leak(1e10, "[" + "f" * 45 + "]:65535", "[" + "f" * 45 + "]:65535", 8191).as_dict()] * MAX_LEAKS
    encode({"ok": True, "version": "x" * 100, "why": "x" * 1000, "targets": targets, "leaks": leaks})
