# SPDX-License-Identifier: Apache-2.0
"""The role: its documentation, its defaults, and a configuration that the sentinel takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ktls_control.sentinel import GROUP
from ktls_host import release
from ktls_sentinel import config
from tests import rolefiles

ROOT = Path(__file__).parents[3]


def read(name: str) -> Any:
    return rolefiles.read("ktls_sentinel", name)


def test_every_option_is_documented_and_has_the_default_that_is_documented() -> None:
    rolefiles.check_options("ktls_sentinel")


MINE: dict[str, Any] = {"name": "a", "host": "a.example.org", "port": 443, "server_name": "a.example.org"}
GIVEN: dict[str, dict[str, Any]] = {
    "little": {"ktls_sentinel_interface": "eth0"},
    "much": {
        "ktls_sentinel_interface": "eth1", "ktls_sentinel_targets": [MINE], "ktls_sentinel_ca": "ca.pem",
        "ktls_sentinel_on_leak": ["/bin/true"], "ktls_sentinel_bytes": 8192,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configurations as Ansible makes them of the role's last task, in an inventory of two hosts and a sentinel."""
    place = tmp_path_factory.mktemp("role")
    hosts = {"files1": {"ansible_host": "192.0.2.1"}, "files2": {"ansible_host": "192.0.2.2", "ktls_sidecar_port": 443}}
    groups = {"ktls_hosts": {"hosts": hosts}, GROUP: {"hosts": {"peer1": {"ansible_connection": "local"}}}}
    (place / "hosts.yml").write_text(yaml.safe_dump(groups))
    (place / "plays.yml").write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": GROUP,
                    "gather_facts": False,
                    "vars_files": [str(ROOT / "roles/ktls_sentinel/defaults/main.yml")],
                    "vars": {"ansible_python_interpreter": sys.executable},
                    "tasks": [
                        {
                            "ansible.builtin.copy": {
                                "content": "{{ ktls_sentinel_config | to_json }}",
                                "dest": str(place / name),
                                "mode": "0600",
                            },
                            "vars": {**read("tasks/main.yml")[-1]["vars"], **given},
                        }
                        for name, given in GIVEN.items()
                    ],
                }
            ]
        )
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "plays.yml"],
        cwd=place, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((place / name).read_text()) for name in GIVEN}


def test_the_sentinel_takes_what_the_role_writes(written: dict[str, Any]) -> None:
    found = config.parse(written["little"], "x")
    first = config.Target("files1", "192.0.2.1", 8443, "files1")
    assert found == config.SentinelConfig("eth0", (first, config.Target("files2", "192.0.2.2", 443, "files2")))


def test_and_what_somebody_gives(written: dict[str, Any]) -> None:
    found = config.parse(written["much"], "x")
    assert (found.interface, found.ca, found.on_leak) == ("eth1", release.SENTINEL_CA, ("/bin/true",))
    assert (found.targets, found.bytes) == ((config.Target(**MINE),), 8192)


@pytest.mark.parametrize(
    ("facts", "interface"),
    [
        ({"default_ipv4": {"interface": "eth0"}, "default_ipv6": {"interface": "eth6"}}, "eth0"),
        ({"default_ipv4": {}, "default_ipv6": {"interface": "eth6"}}, "eth6"),
    ],
)
def test_interface_of_the_default_route(facts: dict[str, Any], interface: str) -> None:
    expression = read("tasks/main.yml")[-1]["vars"]["ktls_sentinel_default_route"]
    assert jinja2.Environment().from_string(expression).render(ansible_facts=facts) == interface
