#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: take everything of ktls-fleet away from a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_undeploy
short_description: Take everything of ktls-fleet away from a host
version_added: 0.1.0
description:
  - Takes the host to userspace TLS, reads that back, and waits for its kTLS connections to end. Then puts back what the
    levers changed (network cards, crypto policy, module C(tls)), and removes agent, sidecar, sentinel, units, users and
    groups, configuration and state. What was there before the first deploy is there again.
  - What the host is refused for is found before anything is changed.
  - The action plugin of the same name copies the audit trail to the control node before it goes, and checks the copy.
  - Needs neither agent nor sidecar to be alive, and may be repeated after any interruption.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  edited:
    description: What to do when somebody else has edited a file of ours, or put one among them. V(refuse) changes
      nothing and names them, V(keep) leaves them as they are.
    type: str
    choices: [refuse, keep]
    default: refuse
  drain_s:
    description: How many seconds kTLS connections have to end by themselves.
    type: float
    default: 60.0
  cut:
    description: Go on when that time is over; connections that are left end with the server.
    type: bool
    default: false
  restart_ok:
    description: Consent to restart services whose crypto policy is put back. Without it they are named, and run by the
      old configuration until they are restarted.
    type: bool
    default: false
  audit:
    description: Whether the audit trail must be on the control node before it goes. V(verified) also wants its chain of
      hashes to be whole, V(copied) only an exact copy, V(none) lets it go.
    type: str
    choices: [verified, copied, none]
    default: verified
  audit_dir:
    description: Directory on the control node for the copies, one below it for each host. Left out, the state directory
      of the fleet. Only the action plugin uses it.
    type: path
  group:
    description: Group of the inventory, which names the fleet in the state directory. Only the action plugin uses it.
    type: str
    default: ktls_hosts
  stage:
    description: Which part. The action plugin sets it, to copy the trail between the two.
    type: str
    choices: [all, prepare, remove]
    default: all
  copied:
    description: The digest of the trail that was copied. Set by the action plugin.
    type: str
attributes:
  check_mode:
    support: full
    description: Predicts what would go, and refuses as the real run would.
  diff_mode:
    support: full
    description: Names what goes, and shows what becomes again what it was.
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
- name: Remove everything
  ktls.fleet.ktls_undeploy:

- name: Remove everything, whatever is still connected after ten minutes
  ktls.fleet.ktls_undeploy:
    drain_s: 600
    cut: true
"""

RETURN = r"""
steps:
  description: What was done, or what check mode would do, in order.
  returned: success
  type: list
  elements: str
  sample: ["/usr/local/bin/ktls-agent: remove"]
left:
  description: What stays on the host, and why.
  returned: success
  type: list
  elements: str
  sample: ["/etc/ktls/tls/key.pem: written or edited by somebody else"]
drained:
  description: Who said that the host is on userspace TLS, and how many kTLS connections were left; null where nothing
    ran.
  returned: success
  type: dict
  sample: {by: agent, ktls: 0}
audit:
  description: The audit trail; after the action plugin, where its copy is. Null where there is none.
  returned: success
  type: dict
  sample: {path: /home/ops/.local/state/ktls/ktls_hosts-1a2b3c4d/audit/web1/20261126T160501Z-1a2b3c4d, whole: true}
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: not_drained
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.undeploy import run


def main() -> None:
    """Ask :mod:`ktls_host.undeploy.run` for it."""
    module = AnsibleModule(
        argument_spec={
            "edited": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
            "drain_s": {"type": "float", "default": 60.0},
            "cut": {"type": "bool", "default": False},
            "restart_ok": {"type": "bool", "default": False},
            "audit": {"type": "str", "choices": ["verified", "copied", "none"], "default": "verified"},
            "audit_dir": {"type": "path"},
            "group": {"type": "str", "default": "ktls_hosts"},
            "stage": {"type": "str", "choices": ["all", "prepare", "remove"], "default": "all"},
            "copied": {"type": "str"},
        },
        supports_check_mode=True,
    )
    wanted = {name: value for name, value in module.params.items() if name not in ("audit_dir", "group")}
    try:
        result = run.ensure(run.Desired(**wanted), check=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(**result.as_dict())


if __name__ == "__main__":
    main()
