#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: put a signed certificate and its CA on a host, after checking both."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_certificate_install
short_description: Install the TLS certificate of a host after checking it against its key and CA
version_added: 0.1.0
description:
  - Writes C(cert.pem) and C(ca.pem) in O(directory), each atomically.
  - Refuses a certificate that does not belong to C(key.pem) there, or does not verify against O(ca). Nothing is
    written then.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  certificate:
    description: The certificate chain as PEM text, the host's own certificate first.
    type: str
    required: true
  ca:
    description: The CA certificate as PEM text.
    type: str
    required: true
  directory:
    description: Where key and certificate are kept.
    type: path
    default: /etc/ktls/tls
attributes:
  check_mode:
    support: full
    description: Checks the certificate and predicts the change.
  diff_mode:
    support: full
    description: Shows the certificates, which are public.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root, and the C(openssl) program on the host.
seealso:
  - module: ktls.fleet.ktls_certificate_request
"""

EXAMPLES = r"""
- name: Install what the CA signed
  ktls.fleet.ktls_certificate_install:
    certificate: "{{ lookup('ansible.builtin.file', 'ca/web1.example.org.pem') }}"
    ca: "{{ lookup('ansible.builtin.file', 'ca/ca.pem') }}"
"""

RETURN = r"""
written:
  description: The files that were written, or that check mode would write.
  returned: success
  type: list
  elements: str
  sample: [/etc/ktls/tls/cert.pem, /etc/ktls/tls/ca.pem]
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: certificate_not_trusted
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import certificate, files
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def main() -> None:
    """Check, plan, and outside check mode write."""
    module = AnsibleModule(
        argument_spec={
            "certificate": {"type": "str", "required": True},
            "ca": {"type": "str", "required": True},
            "directory": {"type": "path", "default": certificate.DIRECTORY},
        },
        supports_check_mode=True,
    )
    directory = module.params["directory"]
    try:
        changes = certificate.plan_install(
            module.params["certificate"],
            module.params["ca"],
            key_path=os.path.join(directory, certificate.KEY),
            certificate_path=os.path.join(directory, certificate.CERTIFICATE),
            ca_path=os.path.join(directory, certificate.CA),
        )
        if not module.check_mode:
            certificate.adopt(change.spec for change in changes)
            files.apply(changes)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(
        changed=bool(changes),
        written=[change.spec.path for change in changes],
        diff=[change.diff() for change in changes],
    )


if __name__ == "__main__":
    main()
