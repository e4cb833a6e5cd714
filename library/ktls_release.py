#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: agent and sidecar of a release, installed, configured and running."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_release
short_description: Install, configure, run, or remove the agent and the sidecar
version_added: 0.1.0
description:
  - Installs one release file, C(ktls.pyz), under C(/usr/local/lib/ktls) in a directory of its version, and switches one
    symbolic link to it after it has run on the host.
  - Writes the configuration, users and systemd units of the wanted components, and starts them. A service is restarted
    only when its version, unit, configuration or certificate changed.
  - The action plugin of the same name builds the release on the control node, fills in O(version) and O(sha256), and
    sends the file only to hosts that lack it.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  state:
    description: V(present) installs and runs the components, V(absent) stops and removes them.
    type: str
    choices: [present, absent]
    default: present
  components:
    description: Which parts. All live in one file, and each call leaves the configuration of the others alone.
    type: list
    elements: str
    choices: [agent, sidecar, nginx, service, sentinel]
    default: [agent, sidecar]
  artefact:
    description: A release file on the control node. Left out, one is built from the source tree. Only the action plugin
      uses it.
    type: path
  signers:
    description: File on the control node with the keys that sign releases, as C(ssh-keygen) has allowed signers. With
      it, O(artefact) must be given, and the C(SHA256SUMS) beside it signed by one of them, before anything of it is run
      or sent. Only the action plugin uses it.
    type: path
  src:
    description: The release file on the host. The action plugin sets it after it has sent the file.
    type: path
  version:
    description: The version of the release. Set by the action plugin.
    type: str
  sha256:
    description: The SHA-256 of the release file. Set by the action plugin.
    type: str
  agent_config:
    description: The content of C(/etc/ktls/agent.json). Needed with component V(agent).
    type: dict
  sidecar_config:
    description: The content of C(/etc/ktls/sidecar.json). Needed with component V(sidecar).
    type: dict
  nginx_config:
    description: The content of C(/etc/ktls/nginx.json). Needed with component V(nginx), which is our part of an nginx
      that is there; see M(ktls.fleet.ktls_nginx).
    type: dict
  service_config:
    description: The content of C(/etc/ktls/service.json). Needed with component V(service), which switches a service
      that is there; see M(ktls.fleet.ktls_service).
    type: dict
  sentinel_config:
    description: The content of C(/etc/ktls/sentinel.json). Needed with component V(sentinel).
    type: dict
  purge:
    description: With O(state=absent), also remove keys and certificates, the agent's state and the probe file.
    type: bool
    default: false
  remove_users:
    description: With O(state=absent), also remove the users C(ktls-agent) and C(ktls-sidecar) and the group C(ktls).
    type: bool
    default: false
  wait_s:
    description: How many seconds a started service may take to answer on its socket.
    type: float
    default: 150.0
attributes:
  check_mode:
    support: full
    description: Predicts the change, step by step. For that the action plugin sends the release file to a temporary
      place on a host that lacks it. Without that file RV(notes) says what is not known.
  diff_mode:
    support: full
    description: Shows the text files that change.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root and systemd.
seealso:
  - module: ktls.fleet.ktls_certificate_install
"""

EXAMPLES = r"""
- name: Install and run both
  ktls.fleet.ktls_release:
    agent_config:
      probe:
        host: 127.0.0.1
        port: 8443
        server_name: web1.example.org
        ca: /etc/ktls/tls/ca.pem
        path: /ktls-probe.bin
    sidecar_config:
      listen:
        - host: 0.0.0.0
          port: 8443
      root: /srv/ktls

- name: Remove everything
  ktls.fleet.ktls_release:
    state: absent
    purge: true
    remove_users: true
"""

RETURN = r"""
version:
  description: The version in force after the call, or the predicted one. Null after O(state=absent).
  returned: success
  type: str
  sample: 0.1.0
previous_version:
  description: The version in force before the call. Null when there was none.
  returned: success
  type: str
  sample: null
steps:
  description: What was done, or what check mode would do, in order.
  returned: success
  type: list
  elements: str
  sample: ["/usr/local/lib/ktls/0.1.0: install 0.1.0"]
started:
  description: The units that were started.
  returned: success
  type: list
  elements: str
  sample: [ktls-agent.service]
restarted:
  description: The units that were restarted.
  returned: success
  type: list
  elements: str
  sample: []
stopped:
  description: The units that were stopped.
  returned: success
  type: list
  elements: str
  sample: []
notes:
  description: What could not be predicted, and why.
  returned: success
  type: list
  elements: str
  sample: []
need_artefact:
  description: True when the module failed only because the release file is not on the host and O(src) was not given.
  returned: failure
  type: bool
  sample: true
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: service_failed
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import release
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def main() -> None:
    """Ask :mod:`ktls_host.release` for it."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "components": {
                "type": "list",
                "elements": "str",
                "choices": ["agent", "sidecar", "nginx", "service", "sentinel"],
                "default": ["agent", "sidecar"],
            },
            "artefact": {"type": "path"},
            "signers": {"type": "path"},
            "src": {"type": "path"},
            "version": {"type": "str"},
            "sha256": {"type": "str"},
            "agent_config": {"type": "dict"},
            "sidecar_config": {"type": "dict"},
            "nginx_config": {"type": "dict"},
            "service_config": {"type": "dict"},
            "sentinel_config": {"type": "dict"},
            "purge": {"type": "bool", "default": False},
            "remove_users": {"type": "bool", "default": False},
            "wait_s": {"type": "float", "default": 150.0},
        },
        supports_check_mode=True,
    )
    wanted = {name: value for name, value in module.params.items() if name not in ("artefact", "signers")}
    desired = release.DesiredRelease(**{**wanted, "components": tuple(wanted["components"])})
    try:
        result = release.ensure(desired, check=module.check_mode)
    except KtlsError as error:
        missing = error.code == "not_found" and desired.state == "present" and desired.src is None
        module.fail_json(msg=error.message, error_code=error.code, need_artefact=missing)
    module.exit_json(
        changed=result.changed,
        version=result.version,
        previous_version=result.previous_version,
        steps=result.steps,
        started=result.started,
        restarted=result.restarted,
        stopped=result.stopped,
        notes=result.notes,
        diff=result.diff,
    )


if __name__ == "__main__":
    main()
