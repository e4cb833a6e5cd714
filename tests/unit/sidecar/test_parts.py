# SPDX-License-Identifier: Apache-2.0
"""Configuration, counters, metrics, mode, ULP decisions: the parts without a socket."""

from __future__ import annotations

import errno
import json
import re
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import RequestError
from ktls_sidecar import config, ulp
from ktls_sidecar.counters import Counters
from ktls_sidecar.metrics import render
from ktls_sidecar.mode import ModeSwitch


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
    assert settings.off_flags == ("/run/ktls/off", "/var/lib/ktls/off")


def test_the_key_comes_from_the_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    assert config.Config().key_path() == "/run/credentials/x/tls.key"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(KtlsError, match="no TLS key"):
        config.Config().key_path()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_counters_follow_connections() -> None:
    clock = Clock()
    counters = Counters(clock=clock)
    assert counters.status()["ktls_tx_zero_age_s"] is None
    first = counters.opened(True, "TLSv1.3", "A")
    second = counters.opened(True, "TLSv1.2", "B")
    other = counters.opened(False, "TLSv1.3", "A")
    first.bytes_total += 10
    other.bytes_total += 3
    clock.now = 101.0
    status = counters.status()
    assert status["connections"] == {"ktls_tx": 2, "userspace": 1}
    assert status["bytes"] == {"ktls_tx": 10, "userspace": 3}
    assert status["last_ktls_tx_established_age_s"] == 1.0
    assert status["ktls_tx_zero_age_s"] is None
    counters.closed(first)
    assert counters.status()["ktls_tx_zero_age_s"] is None
    counters.closed(second)
    clock.now = 104.0
    status = counters.status()
    assert status["ktls_tx_zero_age_s"] == 3.0
    assert status["connections"] == {"ktls_tx": 0, "userspace": 1}
    assert status["connections_total"] == {"ktls_tx": 2, "userspace": 1}
    assert {(row["path"], row["protocol"], row["bytes_total"]) for row in status["by"]} == {
        ("ktls_tx", "TLSv1.2", 0),
        ("ktls_tx", "TLSv1.3", 10),
        ("userspace", "TLSv1.3", 3),
    }
    counters.opened(True, "TLSv1.3", "A")
    assert counters.status()["ktls_tx_zero_age_s"] is None


def test_metrics_text() -> None:
    counters = Counters()
    counters.opened(True, "TLSv1.3", 'odd"cipher\\').bytes_total += 7
    counters.fallbacks["no_tls_ulp"] += 2
    counters.requests[200] += 5
    text = render(counters, "tx", off_flag=False, version="1", openssl="OpenSSL 3")
    labels = '{path="ktls_tx",protocol="TLSv1.3",cipher="odd\\"cipher\\\\"}'
    lines = text.splitlines()
    for expected in (
        f"ktls_sidecar_connections{labels} 1",
        f"ktls_sidecar_bytes_total{labels} 7",
        'ktls_sidecar_fallbacks_total{reason="no_tls_ulp"} 2',
        'ktls_sidecar_requests_total{code="200"} 5',
        'ktls_sidecar_mode{mode="tx"} 1',
        'ktls_sidecar_mode{mode="userspace"} 0',
        "ktls_sidecar_off_flag 0",
    ):
        assert expected in lines
    sample = re.compile(r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\.)*"(,[a-z]+="(?:[^"\\\n]|\\.)*")*\})? \d+')
    typed = set()
    for line in lines:
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert sample.fullmatch(line), line
            assert line.split("{")[0].split(" ")[0] in typed
    assert text.endswith("\n")


def test_mode_starts_in_userspace_and_follows_orders(tmp_path: Path) -> None:
    seen: list[str] = []
    mode = ModeSwitch([str(tmp_path / "off")], seen.append)
    assert mode.effective() == "userspace"
    mode.order("userspace")
    mode.order("tx")
    mode.order("tx")
    assert (mode.effective(), mode.generation, seen) == ("tx", 1, ["tx"])


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
    [("rx", "unsupported_mode"), ("hw", "unsupported_mode"), ("on", "bad_mode"), (None, "bad_mode"), ([], "bad_mode")],
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
