#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: kernel TLS in the configuration of OpenSSL or GnuTLS, for one service or for the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_crypto_policy
short_description: Ask OpenSSL or GnuTLS for kernel TLS, for one service or for the whole host
version_added: 0.1.0
description:
  - Makes programs that leave their sockets to OpenSSL or GnuTLS use kernel TLS (kTLS), by configuration alone.
  - With O(scope=service) a service gets a configuration file of its own through a systemd drop-in. It takes the one
    that the service uses now and adds kTLS.
  - With O(scope=system) the configuration of the host is changed. On Debian and Ubuntu that is
    C(/etc/ssl/openssl.cnf), to which a marked block is added, or C(/etc/gnutls/config). Where crypto-policies rules
    (Fedora, RHEL), it is a file in C(/etc/crypto-policies/local.d), after which
    C(update-crypto-policies --no-reload) runs.
  - Every configuration is tried by the library itself, in a private file, before anybody else can read it, and read
    back afterwards. A change that is not taken is put back.
  - What was there before is recorded before the first change, and O(state=absent) puts it back byte for byte.
  - Programs read their configuration when they start. Nothing is restarted without consent; RV(restart_required) names
    the services that still run by the old one.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  backend:
    description:
      - The library that is meant.
      - OpenSSL before 3.2 then uses kTLS for TLS 1.3 in the transmit direction alone, later releases in both.
    type: str
    required: true
    choices: [gnutls, openssl]
  scope:
    description:
      - V(service) changes what the services in O(service) read. That is the default because one service can be a canary
        on its host, and because a mistake then cannot reach sshd, the package manager and everything else at once.
      - V(system) changes what all programs on the host read.
    type: str
    default: service
    choices: [service, system]
  service:
    description:
      - Names of systemd services; C(.service) may be left out. Instances (C(app@one)) and templates (C(app@)) are
        possible.
      - Required with O(scope=service). With O(scope=system) they are the only ones that may be restarted.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) asks for kTLS, V(absent) puts back what was there before this module first changed it.
    type: str
    default: present
    choices: [present, absent]
  edited:
    description:
      - What to do with O(state=absent) when somebody else has edited a file meanwhile.
      - V(refuse) changes nothing and fails. V(keep) leaves that file as it is, names it in RV(left_alone), and puts the
        others back.
    type: str
    default: refuse
    choices: [refuse, keep]
  restart_ok:
    description:
      - Consent to restart services that run and still use the old configuration. Only services named in O(service) are
        restarted.
      - A service that does not start with the new configuration gets its old one back and is restarted again.
    type: bool
    default: false
  allow_inert:
    description:
      - Set it also where the library was built without kTLS, so that it does nothing. Without, that is refused.
      - Debian and Ubuntu build GnuTLS that way.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Predicts the change after trying it in a private file, and fails where the real run would refuse.
  diff_mode:
    support: full
    description: Shows every file that is written, removed or put back.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root, and systemd for O(scope=service).
  - A setting that asks for kTLS is not kTLS. Programs with sockets of their own never get it, among them curl, Apache
    httpd, Node.js and asyncio; C(ss -tie) shows what a connection has.
seealso:
  - module: ktls.fleet.ktls_info
  - module: ktls.fleet.ktls_module
"""

EXAMPLES = r"""
- name: Ask for kernel TLS in one service, and let it restart
  ktls.fleet.ktls_crypto_policy:
    backend: openssl
    service: [nginx]
    restart_ok: true

- name: Ask for it on the whole host, and leave the restarts to somebody else
  ktls.fleet.ktls_crypto_policy:
    backend: openssl
    scope: system
  register: policy

- name: Put everything back
  ktls.fleet.ktls_crypto_policy:
    backend: openssl
    scope: system
    state: absent
"""

RETURN = r"""
steps:
  description: What was done, or what check mode would do, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - code: configure
      description: ask for kernel TLS in /etc/ktls-fleet/policy/nginx.service.openssl.cnf
  contains:
    code:
      description:
        - One of V(configure), V(drop_in), V(regenerate), V(daemon_reload), V(restart), V(restore) and V(remove).
      type: str
      returned: always
    description:
      description: The same in words.
      type: str
      returned: always
files:
  description: Files that hold what this module asks for. Empty when something else asks for kTLS there already.
  returned: success
  type: list
  elements: str
  sample: [/etc/ktls-fleet/policy/nginx.service.openssl.cnf]
restart_required:
  description: Services that run by an older configuration after this run, by name.
  returned: success
  type: list
  elements: str
  sample: [nginx.service]
restarted:
  description: Services that were restarted, or would be in check mode, by name.
  returned: success
  type: list
  elements: str
  sample: []
effective:
  description:
    - What the library made of the configuration, in check mode of the candidate.
    - For O(state=absent), what it makes of the file that is now there for all programs.
  returned: success
  type: list
  elements: dict
  sample:
    - backend: openssl
      config: /etc/ktls-fleet/policy/nginx.service.openssl.cnf
      ktls: true
      problem: null
      library: OpenSSL 3.5.5 27 Jan 2026
      built: true
      unit: nginx.service
  contains:
    backend:
      description: The library.
      type: str
      returned: always
    config:
      description: The file that was read.
      type: str
      returned: always
    ktls:
      description: Whether the library asks for kTLS with it, for GnuTLS whether the file does and the library takes it.
      type: bool
      returned: always
    problem:
      description: Why programs would not start with it, V(none) when they do.
      type: str
      returned: always
    library:
      description: The library in its own words.
      type: str
      returned: O(state=present)
    built:
      description: Whether it was built with kTLS.
      type: bool
      returned: O(state=present)
    unit:
      description: The service, V(none) for the whole host.
      type: str
      returned: always
left_alone:
  description: Files that somebody else edited and that were left as they are, with O(edited=keep).
  returned: success
  type: list
  elements: str
  sample: []
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: gnutls_without_ktls
"""


from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.policy import lever
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.policy.targets import Request


def main() -> None:
    """Hand the arguments to the lever, and its report back."""
    module = AnsibleModule(
        argument_spec={
            "backend": {"type": "str", "required": True, "choices": ["gnutls", "openssl"]},
            "scope": {"type": "str", "default": "service", "choices": ["service", "system"]},
            "service": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
            "edited": {"type": "str", "default": "refuse", "choices": ["refuse", "keep"]},
            "restart_ok": {"type": "bool", "default": False},
            "allow_inert": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    request = Request(
        backend=given["backend"],
        scope=given["scope"],
        services=tuple(given["service"]),
        present=given["state"] == "present",
        keep_edited=given["edited"] == "keep",
        restart_ok=given["restart_ok"],
        allow_inert=given["allow_inert"],
    )
    try:
        report = lever.run(request, check_only=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    for warning in report.warnings:
        module.warn(warning)
    module.exit_json(**report.as_dict())


if __name__ == "__main__":
    main()
