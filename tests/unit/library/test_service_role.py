# SPDX-License-Identifier: Apache-2.0
"""Role ktls_service, and what role ktls_agent makes of its variables: documented, and taken by the programs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ktls_agent import config
from ktls_host.datapath import service
from ktls_host.service import adopt, settings
from tests import rolefiles

BASE = {"inventory_hostname": "web1", "ktls_datapath": "service", "ktls_service_unit": "lighttpd"}
URL = "https://files.test:8445/probe.bin"


def trusted(value: Any) -> Any:
    """Templates of a role, at any depth."""
    if isinstance(value, dict):
        return {key: trusted(part) for key, part in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value


def agent(**variables: Any) -> config.AgentConfig:
    """The agent's configuration, as role ktls_agent writes it."""
    files = [rolefiles.read("ktls_agent", name) for name in ("defaults/main.yml", "vars/main.yml")]
    (task,) = rolefiles.read("ktls_agent", "tasks/main.yml")
    whole = {**{key: trusted(part) for file in files for key, part in file.items()}, **trusted(task["vars"])}
    templar = Templar(DataLoader(), variables={**whole, **BASE, **variables})
    written = templar.template(trusted(task["ktls.fleet.ktls_release"]["agent_config"]))
    return config.parse(written, "agent.json")


def test_every_option_is_documented_and_has_the_default_that_is_documented() -> None:
    defaults = rolefiles.check_options("ktls_service")
    assert defaults["ktls_service_backend"] == "auto"
    readme = (rolefiles.ROLES / "ktls_service/README.md").read_text()
    assert all(f"`{name}`" in readme for name in defaults)
    example = rolefiles.read("ktls_service", "meta/argument_specs.yml")["argument_specs"]["main"]["examples"]
    (play,) = yaml.safe_load(example)
    assert set(play["roles"][0]["vars"]) <= set(defaults)


@pytest.mark.parametrize(
    ("variables", "probe", "consents"),
    [
        ({}, ("127.0.0.1", 443, "web1", "/etc/ssl/certs/ca-certificates.crt"), (False, False)),
        (
            {"ktls_service_port": 8446, "ktls_service_server_name": "x.test", "ktls_service_ca_file": "/ca.pem"},
            ("127.0.0.1", 8446, "x.test", "/ca.pem"),
            (False, False),
        ),
        (
            {"ktls_service_probe_url": URL, "ktls_restart_ok": True, "ktls_tx_rx_consent": "yes"},
            ("127.0.0.1", 8445, "files.test", "/etc/ssl/certs/ca-certificates.crt"),
            (True, True),
        ),
        (
            {
                "ktls_service_probe_url": "https://files.test/p",
                "ktls_restart_ok": True,
                "ktls_service_restart_ok": False,
            },
            ("127.0.0.1", 443, "files.test", "/etc/ssl/certs/ca-certificates.crt"),
            (False, False),
        ),
    ],
)
@pytest.mark.parametrize("unit", ["lighttpd", "lighttpd.service"])
def test_the_agent_takes_what_its_role_writes(
    variables: dict[str, Any], probe: tuple[str, int, str, str], consents: tuple[bool, bool], unit: str
) -> None:
    found = agent(**variables, ktls_service_unit=unit)
    assert (found.probe.host, found.probe.port, found.probe.server_name, found.probe.ca) == probe
    assert (found.probe.path, found.probe.known) == (None, adopt.RECORD)
    assert found.datapath is not None
    chosen = found.datapath.settings
    assert isinstance(chosen, service.Settings)
    assert (chosen.unit, chosen.host, chosen.port) == ("lighttpd.service", "127.0.0.1", probe[1])
    assert (chosen.consent.tx_rx, chosen.consent.restart) == consents


@pytest.mark.parametrize("kind", ["sidecar", "nginx"])
def test_the_others_go_on_as_they_were(kind: str) -> None:
    found = agent(ktls_datapath=kind)
    assert (found.probe.path, found.probe.known, found.probe.ca) == ("/ktls-probe.bin", None, "/etc/ktls/tls/ca.pem")
    assert found.datapath is not None
    assert found.datapath.kind == kind


def test_the_helper_takes_what_the_role_writes() -> None:
    (task,) = (task for task in rolefiles.read("ktls_service", "tasks/main.yml") if "ktls.fleet.ktls_release" in task)
    found = {"unit": "lighttpd.service", "backend": "lighttpd"}
    variables = {"__ktls_service_found": found, "ktls_service_restart_ok": "yes"}
    templar = Templar(DataLoader(), variables=variables)
    written = templar.template(trusted(task["ktls.fleet.ktls_release"]["service_config"]))
    asked = settings.parse(written, "service.json")
    assert (asked.unit, asked.backend, asked.restart_ok) == ("lighttpd.service", "lighttpd", True)
