# SPDX-License-Identifier: Apache-2.0
"""nginx and services were here before us: they get their configuration back, hear of it, and stay."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from ktls_host import originals
from ktls_host.files import FileSpec
from ktls_host.nginx import root as nginx_root
from ktls_host.nginx.root import Nginx
from ktls_host.service import adopt
from ktls_host.undeploy import datapaths
from tests.vm.undeploy.guest import listing

from .conftest import Host, NoPrograms, differences, refusal, undeploy

Listing = dict[str, list[object]]
BASE, ON = "/etc/nginx/conf.d/ktls-base.conf", "/etc/nginx/conf.d/ktls-on.conf"
OWNER, GROUP = str(os.getuid()), str(os.getgid())


class PlayedNginx(Nginx):
    """nginx that says yes, and what it was told."""

    told: list[str]

    def __init__(self, settings: Any, root: str, runner: Any, **rest: Any) -> None:
        super().__init__(settings, root, runner, pids=tuple, **rest)

    def _test(self, blame: str = "") -> None:
        self.told.append("test")


@pytest.fixture
def nginx(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nginx was told."""
    PlayedNginx.told = []
    monkeypatch.setattr(datapaths, "Nginx", PlayedNginx)
    return PlayedNginx.told


def with_nginx(host: Host) -> None:
    """As role ktls_nginx leaves it, switched on."""
    root = str(host.root)
    (host.root / "etc/nginx/conf.d").mkdir(parents=True, exist_ok=True)
    spec = FileSpec(BASE, b"# ours\n", 0o644, OWNER, GROUP)
    originals.commit(originals.plan(nginx_root.LEVER, [spec], {}, root))
    (host.root / ON[1:]).write_text("ssl_conf_command Options KTLS;\n")


def test_nginx_gets_its_configuration_back(before: Listing, host: Host, nginx: list[str]) -> None:
    (host.root / "etc/nginx/conf.d").mkdir(parents=True)
    (host.root / "etc/nginx/conf.d/site.conf").write_text("theirs")
    before = listing.listing(str(host.root))
    with_nginx(host)
    predicted = undeploy(host, check=True)
    assert (host.root / BASE[1:]).exists() and (host.root / ON[1:]).exists()
    done = undeploy(host)
    assert differences(before, host) == []
    word = "remove, and have nginx.service read its configuration again"
    for step in (f"{BASE}: {word}", f"{ON}: {word}"):
        assert step in predicted.steps and step in done.steps


def test_edited_base_stays_and_the_switch_goes(deployed: Host, nginx: list[str]) -> None:
    with_nginx(deployed)
    (deployed.root / BASE[1:]).write_text("# theirs now\n")
    deployed.ran.clear()
    assert refusal(deployed).code == "edited_meanwhile"
    assert (deployed.ran, (deployed.root / ON[1:]).exists()) == ([], True)
    result = undeploy(deployed, edited="keep")
    assert (deployed.root / BASE[1:]).read_text() == "# theirs now\n"
    assert not (deployed.root / ON[1:]).exists()
    assert any(BASE in entry for entry in result.left)


def test_settings_that_are_damaged_are_guessed(deployed: Host, nginx: list[str]) -> None:
    with_nginx(deployed)
    (deployed.root / "etc/ktls/nginx.json").write_text("{")
    undeploy(deployed)
    assert not (deployed.root / ON[1:]).exists()


def test_service_is_let_go_by_its_own_code(deployed: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(deployed.root)
    spec = FileSpec(adopt.RECORD, json.dumps({"unit": "lighttpd.service"}).encode(), 0o644, OWNER, GROUP)
    originals.commit(originals.plan(adopt.LEVER, [spec], {}, root))
    asked: list[Any] = []

    def absent(unit: str, restart_ok: bool, **options: Any) -> adopt.Report:
        asked.append((unit, restart_ok, options["check_only"]))
        return adopt.Report(
            True, None, notes=(f"{unit} runs on by the configuration of ktls-fleet until it is restarted",)
        )

    monkeypatch.setattr(adopt, "absent", absent)
    result = undeploy(deployed, restart_ok=True)
    assert asked == [("lighttpd.service", True, True), ("lighttpd.service", True, False)], "refused before it is done"
    assert "lighttpd.service runs on by the configuration of ktls-fleet until it is restarted" in result.left
    assert not (deployed.root / "etc/ktls-fleet").exists(), "and its record is put back"


def test_real_adoption_of_a_service_is_undone(deployed: Host) -> None:
    root = str(deployed.root)
    spec = FileSpec(adopt.RECORD, json.dumps({"unit": "app.service"}).encode(), 0o644, OWNER, GROUP)
    originals.commit(originals.plan(adopt.LEVER, [spec], {}, root))

    class Systemd(NoPrograms):
        def run(self, argv: Any, stdin: str | None = None) -> Any:
            return super().run(argv, stdin)._replace(rc=0)

    from ktls_host.undeploy import run

    result = run.ensure(run.Desired(audit="none"), root=root, system=deployed, runner=Systemd())
    assert "app.service: as it was found" in result.steps
    assert not (deployed.root / "etc/ktls-fleet").exists()
