#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: take a systemd service under ktls-fleet, or let it go as it was found."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_service
short_description: Take a service as the datapath of a host, or let it go
version_added: 0.1.0
description:
  - Finds out by which configuration the program of a systemd unit could get kernel TLS (kTLS), and refuses where none
    can help.
  - Switches nothing on; that is for orders. Nothing of what the unit serves changes, with one exception.
  - lighttpd with mod_openssl asks for kTLS by itself, whatever C(OPENSSL_CONF) says. A line of ours in
    C(/etc/lighttpd/conf-enabled) makes it ask only when an order says so. lighttpd tries that line beforehand.
    It counts from the next start on.
  - Downloads O(probe_url) once, verified, while the unit serves in userspace, and keeps its hash, with which each
    self-test compares.
  - What was there before is recorded, and O(state=absent) puts it back.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  unit:
    description: The systemd service; C(.service) may be left out.
    type: str
    required: true
  backend:
    description:
      - What the program is switched by. V(auto) is the TLS library that its processes have mapped, and V(lighttpd) for
        lighttpd with mod_openssl.
    type: str
    default: auto
    choices: [auto, openssl, gnutls, lighttpd]
  probe_url:
    description:
      - A URL of the service, C(https://NAME[:PORT]/PATH), whose content does not change and has a Content-Length of at
        most 64 MiB. Empty for none.
    type: str
    default: ""
  probe_host:
    description: Address on the host that is connected to, for the name in O(probe_url).
    type: str
    default: 127.0.0.1
  ca:
    description: File on the host with the authorities that may have signed the certificate.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  renew:
    description: The content of O(probe_url) has changed; take its hash anew.
    type: bool
    default: false
  restart_ok:
    description: Consent to restart the unit where our line in its configuration, or taking it out, needs that.
    type: bool
    default: false
  state:
    description: V(present) takes the service, V(absent) lets it go, in userspace, and puts back what was there before.
    type: str
    default: present
    choices: [present, absent]
attributes:
  check_mode:
    support: full
    description: Predicts the change; the content of O(probe_url) is not downloaded then.
  diff_mode:
    support: none
    description: Shows no files.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root and systemd.
seealso:
  - module: ktls.fleet.ktls_crypto_policy
  - module: ktls.fleet.ktls_order
"""

EXAMPLES = r"""
- name: Take lighttpd, and let it restart once
  ktls.fleet.ktls_service:
    unit: lighttpd
    probe_url: https://files.example.org/probe.bin
    restart_ok: true

- name: Let it go
  ktls.fleet.ktls_service:
    unit: lighttpd
    restart_ok: true
    state: absent
"""

RETURN = r"""
unit:
  description: Its full name; null with O(state=absent), as all that follows.
  returned: success
  type: str
  sample: lighttpd.service
program:
  description: What its main process runs; null when it does not run.
  returned: success
  type: str
  sample: /usr/sbin/lighttpd
backend:
  description: What it is switched by.
  returned: success
  type: str
  sample: lighttpd
library:
  description: The library, with its version.
  returned: success
  type: str
  sample: OpenSSL 3.5.7 4 Aug 2026
ktls_built:
  description: Whether that library was built with kTLS; null when it does not say.
  returned: success
  type: bool
  sample: true
drop_in:
  description: Where the drop-in is while the unit is switched on.
  returned: success
  type: str
  sample: /etc/systemd/system/lighttpd.service.d/zz-ktls-fleet-lighttpd.conf
modes:
  description: What can be ordered. V(tx+rx) where the one setting means both directions.
  returned: success
  type: list
  elements: str
  sample: [userspace, tx+rx]
probe:
  description: What O(probe_url) answers, null when that is not known.
  returned: success
  type: dict
  sample:
    url: https://files.example.org/probe.bin
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    size: 262144
  contains:
    url:
      description: What was downloaded.
      type: str
      returned: always
    sha256:
      description: The hash of what came.
      type: str
      returned: always
    size:
      description: Its size in bytes.
      type: int
      returned: always
restart_required:
  description: The unit, when processes of it run by another configuration than the one on disk.
  returned: success
  type: list
  elements: str
  sample: []
restarted:
  description: The unit, when it was restarted, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [lighttpd.service]
notes:
  description: What an operator should know; each is a warning, too.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.service import adopt, baseline


def main() -> None:
    """Hand the arguments over, and the report back."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "backend": {"type": "str", "default": "auto", "choices": ["auto", "openssl", "gnutls", "lighttpd"]},
            "probe_url": {"type": "str", "default": ""},
            "probe_host": {"type": "str", "default": "127.0.0.1"},
            "ca": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
            "renew": {"type": "bool", "default": False},
            "restart_ok": {"type": "bool", "default": False},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        if given["state"] == "absent":
            report = adopt.absent(given["unit"], given["restart_ok"], check_only=module.check_mode)
        else:
            url = given["probe_url"]
            where = baseline.place(url, given["probe_host"], given["ca"]) if url else None
            wish = adopt.Wish(given["unit"], where, url, given["backend"], given["restart_ok"], given["renew"])
            report = adopt.present(wish, check_only=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    for note in report.notes:
        module.warn(note)
    module.exit_json(**report.as_dict())


if __name__ == "__main__":
    main()
