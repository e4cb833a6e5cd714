# SPDX-License-Identifier: Apache-2.0
"""The role: its documentation, its defaults, and a configuration that the sidecar takes."""

from __future__ import annotations

from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ktls_sidecar import config
from tests import rolefiles


def read(name: str) -> Any:
    return rolefiles.read("ktls_sidecar", name)


def test_every_option_is_documented_and_has_the_default_that_is_documented() -> None:
    rolefiles.check_options("ktls_sidecar")


def test_the_sidecar_takes_what_the_role_writes() -> None:
    variables = {**read("defaults/main.yml"), "inventory_hostname": "web1"}
    variables["ktls_sidecar_certificates"] = [{"certificate": "/a.pem", "key": "a.key"}]
    (task,) = (task for task in read("tasks/main.yml") if "ktls.fleet.ktls_release" in task)
    raw = task["vars"]["ktls_sidecar_base"]
    # The filter plugin has a test of its own; a list of addresses is all that it makes.
    listen = [{"host": host, "port": variables["ktls_sidecar_port"]} for host in variables["ktls_sidecar_addresses"]]
    templar = Templar(DataLoader(), variables=variables)
    written = {
        name: listen
        if name == "listen"
        else templar.template(trust_as_template(value) if isinstance(value, str) else value)
        for name, value in raw.items()
    }
    settings = config.parse(written)
    assert settings.certificates == (config.Pair("/a.pem", "a.key"),)
    assert settings.workers == 0
    plain = config.parse({**written, "certificates": []})
    assert plain == config.Config(), "the role's defaults are those of the sidecar"
