#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: our part of nginx's configuration, which switches nothing by itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_nginx
short_description: Prepare an nginx for kernel TLS, or take our part of it out
version_added: 0.1.0
description:
  - Puts C(ktls-base.conf) into a directory that nginx's http block includes. It has the log by which requests are
    counted, and a server block on loopback with the probe file, through which goes the own download of the agent.
  - It switches nothing. Orders do, by a second file there, which the agent's helper makes and C(ktls-off) takes away.
  - C(nginx -t) comes before each reload, and the reload is graceful. What nginx does not take is taken back, and
    nothing is reloaded.
  - Refuses an nginx that cannot use kernel TLS, with the reason. What matters in its configuration is in RV(reasons).
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  state:
    description: V(present) puts the file there, V(absent) takes both out, so that new connections use userspace TLS.
    type: str
    default: present
    choices: [present, absent]
  settings:
    description: The content of C(/etc/ktls/nginx.json). docs/nginx.md has the keys.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Predicts the change, and fails where the real run would refuse.
  diff_mode:
    support: full
    description: Shows the file.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root and systemd.
seealso:
  - module: ktls.fleet.ktls_release
"""

EXAMPLES = r"""
- name: Prepare nginx
  ktls.fleet.ktls_nginx:
    settings:
      probe_port: 8444
      server_name: web1.example.org

- name: Take our part out
  ktls.fleet.ktls_nginx:
    state: absent
    settings:
      probe_port: 8444
      server_name: web1.example.org
"""

RETURN = r"""
version:
  description: The version of nginx.
  returned: success with O(state=present)
  type: str
  sample: 1.26.3
openssl:
  description: The version of OpenSSL that it runs with.
  returned: success with O(state=present)
  type: str
  sample: 3.5.5
ports:
  description: The ports of server blocks with TLS.
  returned: success with O(state=present)
  type: list
  elements: int
  sample: [443]
reasons:
  description: What an operator must know of this configuration, each with code, message, cure and link.
  returned: success with O(state=present)
  type: list
  elements: dict
  sample: []
removed:
  description: The files that were taken out.
  returned: success with O(state=absent)
  type: list
  elements: str
  sample: [/etc/nginx/conf.d/ktls-base.conf]
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: nginx_config_broken
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.nginx import settings
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.nginx.root import Nginx


def main() -> None:
    """Ask :mod:`ktls_host.nginx.root` for it."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
            "settings": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        nginx = Nginx(settings.parse(module.params["settings"], "settings"))
        if module.params["state"] == "present":
            result = nginx.install(check=module.check_mode)
            result["reasons"] = result.pop("notes")
        else:
            result = nginx.remove(check=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
