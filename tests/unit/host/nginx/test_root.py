# SPDX-License-Identifier: Apache-2.0
"""Root's part, on a real nginx: nothing is reloaded that does not pass, and no connection is dropped."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host.errors import KtlsError
from ktls_host.nginx import dropin, root
from ktls_host.probe_object import EXPECTED_SHA256, probe_bytes

if TYPE_CHECKING:
    from tests.unit.host.nginx.nginxhost import PROGRAM, Host
else:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    from nginxhost import PROGRAM, Host

RELOAD = ("systemctl", "reload", "nginx.service")


def client(host: Host, port: int | None = None) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(host.root / "cert.pem"))
    return http.client.HTTPSConnection("localhost", port or host.port, context=context, timeout=10)


def get(host: Host, path: str, port: int | None = None) -> bytes:
    connection = client(host, port)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_on_and_off_with_one_test_and_one_reload_each(host: Host) -> None:
    host.start()
    nginx = host.nginx()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "PROBE_ROOT", "/probe")
        nginx.install()
    before = nginx.processes()
    host.runner.ran.clear()
    done = nginx.on("tx")
    assert done["changed"]
    assert done["mode"] == "tx"
    assert [argv for argv in host.runner.ran if argv == RELOAD] == [RELOAD]
    assert [argv[1] for argv in host.runner.ran if argv[0] == PROGRAM] == ["-V", "-T", "-t"]
    assert dropin.phase_of(host.on.read_text()) == "tx"
    assert "sendfile" not in host.on.read_text(), "it is set already, and nginx takes it once"
    assert not nginx.processes().workers & before.workers
    assert not nginx.on("tx")["changed"]
    assert dropin.phase_of(host.on.read_text()) == "tx"
    done = nginx.off()
    assert done["changed"]
    assert done["mode"] is None
    assert not done["owed"]
    assert sorted(path.name for path in host.drop_ins.iterdir()) == ["ktls-base.conf"]
    assert not nginx.off()["changed"]


def test_sendfile_is_set_where_nobody_does(host: Host) -> None:
    host.write(http="access_log off;")
    host.start()
    host.nginx().on("tx")
    assert "sendfile on;" in host.on.read_text()
    host.write(http="sendfile on; access_log off;")  # an operator does, later
    with pytest.raises(KtlsError) as caught:
        host.nginx().check()
    assert "duplicate" in caught.value.message
    assert "conf.d/ktls-on.conf" in caught.value.message


def test_a_broken_configuration_is_named_and_never_reloaded(host: Host) -> None:
    host.start()
    before = host.nginx().processes()
    host.write(server="roof /nowhere;")
    host.runner.ran.clear()
    for attempt in (host.nginx().check, lambda: host.nginx().on("tx"), host.nginx().install):
        with pytest.raises(KtlsError) as caught:
            attempt()
        assert caught.value.code == "nginx_config_broken"
        assert 'unknown directive "roof" in /etc/nginx/nginx.conf:8' in caught.value.message
    assert RELOAD not in host.runner.ran
    assert not list(host.drop_ins.iterdir())
    assert host.nginx().processes() == before


def test_off_with_a_broken_configuration_says_that_nginx_goes_on(host: Host) -> None:
    host.start()
    host.nginx().on("tx")
    before = host.nginx().processes().workers
    good = host.conf.read_text()
    host.conf.write_text(good + "}\n")
    with pytest.raises(KtlsError) as caught:
        host.nginx().off()
    assert caught.value.code == "nginx_config_broken"
    assert not host.on.exists(), "what starts next has no kernel TLS"
    assert host.nginx().status()["owed"]
    assert host.nginx().processes().workers == before
    host.conf.write_text(good)
    assert host.nginx().off()["changed"], "it is still owed"
    assert not host.nginx().processes().workers & before
    assert not host.nginx().status()["owed"]


def test_what_nginx_does_not_take_is_taken_out_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.start()
    before = host.nginx().processes()
    monkeypatch.setattr(dropin, "on", lambda phase, sendfile: b"ssl_conf_command Colour Red;\nno_such_thing on;\n")
    with pytest.raises(KtlsError) as caught:
        host.nginx().on("tx")
    assert caught.value.code == "nginx_refuses_dropin"
    assert RELOAD not in host.runner.ran
    assert not list(host.drop_ins.iterdir())
    assert host.nginx().processes() == before


def test_off_waits_for_ktls_off_and_does_not_reload_twice(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.start()
    host.nginx().on("tx")
    host.runner.ran.clear()
    busy, owed = host.root / root.BUSY, host.drop_ins / dropin.OWED
    busy.mkdir()

    def shell_is_done(seconds: float) -> None:
        owed.unlink()
        busy.rmdir()

    nginx = host.nginx()
    monkeypatch.setattr(nginx, "_sleep", shell_is_done)
    assert nginx.off()["changed"]
    assert host.runner.ran == []
    assert not busy.exists()
    # One that was killed is not waited for without end.
    monkeypatch.setattr(root, "TURN_WAIT_S", 0.1)
    host.nginx().on("tx")
    busy.mkdir()
    assert host.nginx().off()["changed"]
    assert not host.nginx().status()["owed"]


@pytest.mark.parametrize("path", root.FLAGS)
def test_no_flag_is_overruled(host: Host, path: str) -> None:
    host.start()
    flag = host.root / path
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()
    with pytest.raises(KtlsError) as caught:
        host.nginx().on("tx")
    assert caught.value.code == "off_latched"
    assert not host.on.exists()


def test_a_flag_that_comes_while_it_is_switched_wins(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.start()
    nginx = host.nginx()
    reload = nginx._reload

    def and_then(before: object) -> None:
        reload(before)  # type: ignore[arg-type]
        (host.root / "run/ktls/off").touch()

    monkeypatch.setattr(nginx, "_reload", and_then)
    with pytest.raises(KtlsError) as caught:
        nginx.on("tx")
    assert caught.value.code == "off_latched"
    assert not list(host.drop_ins.iterdir())
    assert host.runner.ran.count(RELOAD) == 2


def test_a_reload_that_does_not_come_through_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "SEEN_WITHIN_S", 0.2)
    host.start()
    host.runner.reloads = False
    with pytest.raises(KtlsError) as caught:
        host.nginx().on("tx")
    assert caught.value.code == "nginx_reload_not_seen"


def test_downloads_and_new_connections_survive_every_switch(host: Host) -> None:
    (host.root / "www/large").write_bytes(probe_bytes() * 16)
    (host.root / "www/small").write_bytes(b"small")
    host.write(server="location /large { limit_rate 4m; }")
    host.start()
    nginx = host.nginx()
    stop = threading.Event()
    small: list[bytes] = []
    large: list[int] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                small.append(get(host, "/small"))
        except Exception as error:
            failed.append(error)

    def download() -> None:
        try:
            large.append(len(get(host, "/large")))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=ask), *(threading.Thread(target=download) for _ in range(3))]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    nginx.on("tx")
    leaving = nginx.processes().leaving
    assert leaving, "the workers with downloads"
    nginx.off()
    nginx.on("tx")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert large == [16 * len(probe_bytes())] * 3
    assert len(small) > 20
    assert set(small) == {b"small"}
    deadline = time.monotonic() + 5
    while nginx.processes().leaving and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not nginx.processes().leaving


def test_the_base_serves_the_probe_object_and_labels_each_line(host: Host) -> None:
    import hashlib

    log = host.root / "log.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lines:
        lines.bind(str(log))
        log.chmod(0o666)
        lines.settimeout(5)
        host.write(http=f"sendfile on; access_log {host.root}/access.log;")
        host.start()
        nginx = host.nginx()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dropin, "LOG_SOCKET", str(log))
            patch.setattr(dropin, "PROBE_ROOT", str(host.root / "probe"))
            found = nginx.install(check=True)
            assert found["changed"]
            assert not host.base.exists()
            patch.setattr(root, "PROBE_ROOT", "/probe")
            assert nginx.install()["changed"]
            assert not nginx.install()["changed"]
        body = get(host, "/ktls-probe.bin", host.probe_port)
        assert hashlib.sha256(body).hexdigest() == EXPECTED_SHA256
        seen = []
        for mode in ("userspace", "tx", "userspace"):
            (nginx.off if mode == "userspace" else lambda: nginx.on("tx"))()
            get(host, "/nothing")
            seen.append(lines.recv(4096).decode().split(" ktls: k1 ")[1].split()[0])
    assert seen == ["userspace", "tx", "userspace"]
    nginx.on("tx")
    assert nginx.remove(check=True)["changed"]
    assert nginx.remove()["removed"] == [
        "/etc/nginx/conf.d/ktls-base.conf", "/etc/nginx/conf.d/ktls-on.conf", "/probe/ktls-probe.bin",
    ]  # fmt: skip
    assert not list(host.drop_ins.iterdir())
    assert not (host.root / "probe").exists()
    assert not list((host.root / "var/lib/ktls-levers").iterdir()), "and no record is left"
    assert not nginx.remove()["changed"]


def test_a_base_that_nginx_does_not_take_is_taken_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "PROBE_ROOT", "/probe")
    host.start()
    nginx = host.nginx()
    good = dropin.base
    monkeypatch.setattr(dropin, "base", lambda settings: b"no_such_thing on;\n")
    with pytest.raises(KtlsError) as caught:
        nginx.install()
    assert caught.value.code == "nginx_refuses_dropin"
    assert not host.base.exists()
    assert not list((host.root / "var/lib/ktls-levers").iterdir())
    monkeypatch.setattr(dropin, "base", good)
    assert nginx.install()["changed"]
    before = host.base.read_text()
    monkeypatch.setattr(dropin, "base", lambda settings: b"no_such_thing on;\n")
    with pytest.raises(KtlsError):
        nginx.install()
    assert host.base.read_text() == before
    monkeypatch.setattr(dropin, "base", good)
    assert not nginx.install()["changed"]
    host.base.write_text(before + "# somebody else's\n")
    with pytest.raises(KtlsError) as caught:
        nginx.remove()
    assert caught.value.code == "edited_meanwhile"


def test_an_http_block_without_our_directory_is_named(host: Host) -> None:
    host.conf.write_text(host.conf.read_text().replace("conf.d/*.conf", "other.d/*.conf"))
    host.start()
    with pytest.raises(KtlsError) as caught:
        host.nginx().install()
    assert caught.value.code == "nginx_dropin_not_included"


def test_an_nginx_that_does_not_run_takes_no_order(host: Host) -> None:
    host.runner.run((PROGRAM, "-t"))
    with pytest.raises(KtlsError) as caught:
        host.nginx().on("tx")
    assert caught.value.code == "nginx_not_running"
    assert not host.nginx().off()["changed"]


def test_own_default_log_is_kept_where_ours_would_replace_it(host: Host) -> None:
    host.write(http="")
    nginx = host.nginx()
    look = nginx.look()
    assert not look.site.logs
    text = dropin.base(host.settings.base(look.build.http_log)).decode()
    assert "access_log /var/log/nginx/access.log combined;" in text


@pytest.fixture(autouse=True)
def no_probe_file_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dropin, "LOG_SOCKET", str(tmp_path / "nobody.sock"))
