# SPDX-License-Identifier: Apache-2.0
"""The role: its documentation, its defaults, and a configuration that the sentinel takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.template import trust_as_template as trust
from ansible.utils.collection_loader import AnsibleCollectionConfig

from ktls_control.sentinel import GROUP
from ktls_host import release
from ktls_sentinel import config

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/ktls_sentinel"


def read(name: str) -> Any:
    return yaml.safe_load((ROLE / name).read_text())


def test_every_option_is_documented_and_has_the_default_that_is_documented() -> None:
    options = read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = read("defaults/main.yml")
    assert set(options) == set(defaults)
    for name, default in defaults.items():
        assert options[name]["description"], name
        if "{{" not in str(default):
            assert options[name]["default"] == default, name


def trusted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: trusted(each) for key, each in value.items()}
    return trust(value) if isinstance(value, str) else value


def written(**given: Any) -> Any:
    """The configuration as the role's last task has it, in an inventory of two hosts and a sentinel."""
    task = read("tasks/main.yml")[-1]
    hosts = {
        "files1": {"ansible_host": "192.0.2.1"},
        "files2": {"ansible_host": "192.0.2.2", "ktls_sidecar_port": 443},
        "peer1": {},
    }
    variables = {
        **trusted(read("defaults/main.yml")),
        **trusted(task["vars"]),
        "groups": {"ktls_hosts": ["files1", "files2"], GROUP: ["peer1"]},
        "hostvars": hosts,
        "inventory_hostname": "peer1",
        "ansible_facts": {"default_ipv4": {"interface": "eth0"}},
        **given,
    }
    return Templar(DataLoader(), variables).template(trust("{{ ktls_sentinel_config }}"))


@pytest.fixture(autouse=True, scope="module")
def collection() -> None:
    """Filters of the collection are found through Ansible's finder, which a process has once."""
    if AnsibleCollectionConfig.collection_finder is None:
        init_plugin_loader([str(ROOT / "collections")])


def test_the_sentinel_takes_what_the_role_writes() -> None:
    found = config.parse(written(), "x")
    first = config.Target("files1", "192.0.2.1", 8443, "files1")
    assert found == config.SentinelConfig("eth0", (first, config.Target("files2", "192.0.2.2", 443, "files2")))


def test_and_what_somebody_gives() -> None:
    mine: dict[str, Any] = {"name": "a", "host": "a.example.org", "port": 443, "server_name": "a.example.org"}
    found = config.parse(
        written(
            ktls_sentinel_interface="eth1", ktls_sentinel_targets=[mine], ktls_sentinel_ca="ca.pem",
            ktls_sentinel_on_leak=["/bin/true"], ktls_sentinel_bytes=8192,
        ),
        "x",
    )  # fmt: skip
    assert (found.interface, found.ca, found.on_leak) == ("eth1", release.SENTINEL_CA, ("/bin/true",))
    assert found.targets == (config.Target(**mine),)
    six = written(ansible_facts={"default_ipv6": {"interface": "eth6"}})
    assert config.parse(six, "x").interface == "eth6"
