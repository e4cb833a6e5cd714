# SPDX-License-Identifier: Apache-2.0
"""nginx as the agent sees it: its helper and its watch are played, its files are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ktls_host.datapath import nginx, registry
from ktls_host.datapath.model import Flow, Seen, Tools, Wish
from ktls_host.datapath.nginx import Nginx
from ktls_host.errors import KtlsError
from ktls_host.nginx import dropin

AES = ("TLSv1.3", "TLS_AES_256_GCM_SHA384")


class Played:
    """The helper and the watch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = dropin.Places()
        self.verbs: list[str] = []
        self.openssl = "3.5.5"
        self.refuses: KtlsError | None = None
        self.master: int | None = 100
        self.leaving: list[int] = []
        self.rows: list[dict[str, Any]] = []
        self.seen: Seen | None = None

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def call(self, path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if path == nginx.WATCH:
            return {
                "ok": True, "nginx": "1.26.3", "openssl": self.openssl, "library": f"OpenSSL {self.openssl}",
                "program": "/usr/sbin/nginx", "master": self.master, "workers": [101], "leaving": self.leaving,
                "rows": self.rows, "errors": {"http_500": 1}, "last_ktls_tx_established_age_s": 2.5,
                "ktls_tx_zero_age_s": None,
            }  # fmt: skip
        assert path == nginx.HELPER
        self.verbs.append(request["verb"])
        if self.refuses:
            raise self.refuses
        on = self.path(self.places.on)
        on.parent.mkdir(parents=True, exist_ok=True)
        if request["verb"] in ("tx", "rx"):
            on.write_bytes(dropin.on(request["verb"], True))
        if request["verb"] == "userspace":
            on.unlink(missing_ok=True)
            self.path(self.places.owed).unlink(missing_ok=True)
        return {"ok": True, "openssl": self.openssl}

    def datapath(self, **settings: Any) -> Nginx:
        chosen = registry.parse({"kind": "nginx", **settings}, "x")
        made = registry.make(chosen, Tools(self.call, lambda: self.seen, str(self.root)))
        assert isinstance(made, Nginx)
        return made


@pytest.fixture
def played(tmp_path: Path) -> Played:
    (tmp_path / "etc/nginx/conf.d").mkdir(parents=True)
    return Played(tmp_path)


def test_tx_is_tx_rx_here_and_needs_consent(played: Played) -> None:
    refusal = played.datapath().refusal("tx")
    assert refusal is not None
    assert refusal.code == "tx_means_rx"
    datapath = played.datapath(tx_rx_consent=True)
    assert datapath.refusal("tx") is None
    status = datapath.switch(Wish("tx"))
    assert (status["mode"], status["effective_mode"]) == ("tx", "tx+rx")
    assert datapath.about().as_dict() == {
        "kind": "nginx", "unit": "nginx.service", "program": "/usr/sbin/nginx", "version": "1.26.3",
        "experiments": False, "modes": ["userspace", "tx+rx", "rx"], "consent": {"tx_rx": True, "restart": False},
        "draining": None, "switch": "reload", "problem": None,
    }  # fmt: skip
    assert datapath.switch(Wish("rx"))["effective_mode"] == "rx"


def test_tx_is_tx_with_an_older_library_and_rx_is_not_to_be_had(played: Played) -> None:
    played.openssl = "3.0.17"
    datapath = played.datapath()
    assert datapath.refusal("tx") is None
    refusal = datapath.refusal("rx")
    assert refusal is not None
    assert refusal.code == "nginx_no_ktls_receive"
    assert datapath.switch(Wish("tx"))["effective_mode"] == "tx"
    assert datapath.about().modes == ("userspace", "tx")
    for mode in ("hw", "cards"):
        refusal = datapath.refusal(mode)
        assert refusal is not None
        assert refusal.code == "phase_not_for_datapath"


def test_what_the_check_says_refuses_the_order(played: Played) -> None:
    played.refuses = KtlsError("nginx_config_broken", "line 3")
    assert played.datapath(tx_rx_consent=True).refusal("tx") is played.refuses
    assert played.verbs == ["check"]


def test_a_switch_that_failed_is_not_tried_each_second(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    played.refuses = KtlsError("nginx_config_broken", "line 3")
    datapath = played.datapath()
    for _ in range(3):
        with pytest.raises(KtlsError, match="line 3"):
            datapath.switch(Wish("tx"))
    assert played.verbs == ["tx"]
    assert "line 3" in (datapath.about().problem or "")
    assert datapath.switch(Wish("userspace"))["mode"] == "userspace", "another wish is"
    monkeypatch.setattr(nginx, "AGAIN_S", 0.0)
    with pytest.raises(KtlsError):
        datapath.switch(Wish("tx"))
    assert played.verbs == ["tx", "tx"]


def test_the_helper_is_asked_only_for_what_is_not_so(played: Played) -> None:
    datapath = played.datapath()
    datapath.switch(Wish("userspace"))
    assert played.verbs == []
    datapath.switch(Wish("tx"))
    datapath.switch(Wish("tx"))
    assert played.verbs == ["tx"]
    on, owed = played.path(played.places.on), played.path(played.places.owed)
    on.rename(owed)  # ktls-off was at it, and nginx has not been told
    assert datapath.reload_needed()
    assert datapath.observe()["effective_mode"] == "tx+rx"
    assert "has not been reloaded" in (datapath.about().problem or "")
    assert datapath.switch(Wish("userspace"))["effective_mode"] == "userspace"
    assert played.verbs == ["tx", "userspace"]


def test_counts_come_from_the_kernel_and_the_log_and_nothing_is_invented(played: Played) -> None:
    datapath = played.datapath()
    row = {"protocol": AES[0], "cipher": AES[1], "connections_total": 3, "bytes_total": 900}
    played.rows = [{**row, "assigned": "tx"}, {**row, "assigned": "userspace"}]
    status = datapath.observe()
    assert "bytes" not in status, "the kernel has not been looked at"
    assert [one["path"] for one in status["by"]] == ["unknown", "userspace"]
    assert status["connections_total"] == {"ktls_tx": 0, "userspace": 3}
    flows = (
        Flow(443, "nginx", "TLSv1.3", "AES-256-GCM", "sw", "none", 1, 500, 5),
        Flow(443, "nginx", "TLSv1.3", "AES-256-GCM", "sw", "sw", 2, 500, 5),
        Flow(443, "nginx", "", "", "none", "none", 4, 30, 3),
    )
    played.seen = Seen(1.0, 0.0, flows)
    status = datapath.observe()
    assert status["bytes"] == {"ktls_tx": 1000, "userspace": 30}
    assert status["connections"] == {"ktls_tx": 3, "userspace": 4}
    assert status["by"][0]["path"] == "ktls_tx_rx"
    assert status["connections_total"] == {"ktls_tx": 3, "userspace": 3}
    assert status["drain"]["left"] == 3
    assert status["errors"] == {"http_500": 1}
    assert status["last_ktls_tx_established_age_s"] == 2.5
    assert status["pid"] == 100
    played.leaving = [90, 91]
    datapath.observe()
    draining = datapath.about().as_dict()["draining"]
    assert draining == {"processes": 2, "connections": 3}


def test_a_directory_that_the_agent_cannot_read_is_named(played: Played) -> None:
    datapath = played.datapath(directory="/etc/nginx/elsewhere")
    assert "cannot be read by the agent" in (datapath.about().problem or "")


def test_an_nginx_that_does_not_run_is_an_error_and_no_zero(played: Played) -> None:
    played.master = None
    with pytest.raises(KtlsError) as caught:
        played.datapath().observe()
    assert caught.value.code == "nginx_not_running"


@pytest.mark.parametrize(
    ("suite", "cipher"),
    [
        ("TLS_AES_128_GCM_SHA256", "AES-128-GCM"),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "AES-256-GCM"),
        ("TLS_CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("ECDHE-RSA-CHACHA20-POLY1305", "CHACHA20-POLY1305"),
        ("DHE-RSA-AES128-CCM8", "AES-128-CCM"),
        ("ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384"),
    ],
)
def test_suites_in_the_kernel_s_words(suite: str, cipher: str) -> None:
    assert nginx.kernel_cipher(suite) == cipher
