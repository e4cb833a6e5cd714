#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: the kill switch by pull, set up on a host or taken away."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_pull
short_description: Let a host pull a signed off flag from web servers
version_added: 0.1.0
description:
  - Writes who may sign and where the flag is served, starts C(ktls-pull.service), and reads back what it finds.
  - A flag can only switch kernel TLS off. A missing, old or wrong one changes nothing.
  - The host needs the release of the agent (M(ktls.fleet.ktls_release)) and C(ssh-keygen).
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  state:
    description: V(absent) stops the service and removes its files.
    type: str
    choices: [present, absent]
    default: present
  fleet:
    description: Name of the fleet, as it stands in its flags.
    type: str
    default: ""
  endpoints:
    description: Where the flag is served, one to eight C(https) URLs. A valid OFF of any of them acts.
    type: list
    elements: str
    default: []
  signers:
    description: Who may sign flags of this fleet.
    type: list
    elements: dict
    default: []
    suboptions:
      key:
        description: Public key, one line as in the C(.pub) file of C(ssh-keygen).
        type: str
        required: true
      valid_after:
        description: Its signatures count from this time on, C(YYYYMMDD) or C(YYYYMMDDHHMM[SS][Z]).
        type: str
      valid_before:
        description: Its signatures count until this time.
        type: str
  ca:
    description: Authorities of the endpoints, PEM text; empty for those that the host's system trusts.
    type: str
    default: ""
  interval_s:
    description: Seconds between two polls of an endpoint, give or take a quarter.
    type: float
    default: 2.0
  timeout_s:
    description: Seconds for one whole poll.
    type: float
    default: 3.0
  require_valid:
    description: Fail when no endpoint has a valid flag. A switch that cannot be reached is none.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Predicts the change; nothing is asked of the endpoints.
  diff_mode:
    support: full
    description: Shows the files, before and after.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root.
seealso:
  - module: ktls.fleet.ktls_release
"""

EXAMPLES = r"""
- name: Pull the flag from two servers
  ktls.fleet.ktls_pull:
    fleet: prod
    endpoints: [https://a.example.org/ktls/flag, https://b.example.net/ktls/flag]
    signers:
      - key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4ZQqc8nXtWS00JCyt+4KS0lalSrCry8LI/N6b3hgTg flag-2026

- name: No longer
  ktls.fleet.ktls_pull:
    state: absent
"""

RETURN = r"""
steps:
  description: What was done, or what check mode would do, in order.
  returned: success
  type: list
  elements: str
  sample: ["/etc/ktls/pull.json: create", "systemctl start ktls-pull.service"]
flag:
  description: What the fetcher found at its endpoints; null in check mode and after removal.
  returned: success
  type: dict
  sample: {state: none, serial: 1795660881}
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: no_flag
"""


from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import flag_setup
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def main() -> None:
    """Do what was asked."""
    signer = {
        "key": {"type": "str", "required": True, "no_log": False},
        "valid_after": {"type": "str"},
        "valid_before": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "fleet": {"type": "str", "default": ""},
            "endpoints": {"type": "list", "elements": "str", "default": []},
            "signers": {"type": "list", "elements": "dict", "default": [], "options": signer},
            "ca": {"type": "str", "default": ""},
            "interval_s": {"type": "float", "default": 2.0},
            "timeout_s": {"type": "float", "default": 3.0},
            "require_valid": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    wanted = dict(module.params)
    wanted["endpoints"] = tuple(wanted["endpoints"])
    wanted["signers"] = tuple(flag_setup.Signer(**signer) for signer in wanted["signers"])
    try:
        result = flag_setup.ensure(flag_setup.DesiredPull(**wanted), check=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(changed=result.changed, steps=result.steps, diff=result.diff, flag=result.status)


if __name__ == "__main__":
    main()
