# SPDX-License-Identifier: Apache-2.0
"""Who a lab host is: names, addresses and keys, decided on the control node before the host starts."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktls_lab import tools

DOMAIN = "lab.ktls.internal"
NETWORK_PREFIX = "192.168.150."
FIRST_ADDRESS = 11
MAX_HOSTS = 64


@dataclass(frozen=True)
class Identity:
    """The parts of a host's identity that are not secret; ``index`` counts from 1."""

    index: int
    name: str
    fqdn: str
    address: str
    mac: str
    machine_id: str


def create(index: int) -> Identity:
    """Return the identity of host ``index``: name and address follow from it, the machine-id is random.

    The MAC is locally administered and unicast (IEEE 802-2014 8.4); machine-id is as in machine-id(5).
    """
    name = f"web{index}"
    return Identity(
        index=index,
        name=name,
        fqdn=f"{name}.{DOMAIN}",
        address=f"{NETWORK_PREFIX}{FIRST_ADDRESS + index - 1}",
        mac=f"52:54:00:96:00:{FIRST_ADDRESS + index - 1:02x}",
        machine_id=uuid.uuid4().hex,
    )


def hosts_file(identities: list[Identity], own: Identity) -> str:
    """Text of /etc/hosts on ``own``: every lab host by its private address."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{host.address} {host.fqdn} {host.name}" for host in identities]
    return "\n".join([f"# Lab host {own.name}; written when the host was started.", *lines]) + "\n"


def keygen(path: Path, comment: str) -> None:
    """Make an Ed25519 key pair without a passphrase: ``path`` (0600) and ``path``.pub."""
    ssh_keygen = tools.find("ssh-keygen")
    subprocess.run(
        [str(ssh_keygen), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def message(own: Identity, identities: list[Identity], host_key: Path, lab_key_pub: Path) -> dict[str, Any]:
    """Return the request that makes a clone this host. Build it right before sending: it carries the time."""
    return {
        "verb": "identity",
        "hostname": own.name,
        "hosts": hosts_file(identities, own),
        "machine_id": own.machine_id,
        "mac": own.mac,
        "address": f"{own.address}/24",
        "host_key": host_key.read_text(encoding="ascii"),
        "host_key_pub": host_key.with_suffix(".pub").read_text(encoding="ascii"),
        "authorized_keys": lab_key_pub.read_text(encoding="ascii"),
        "seed": base64.b64encode(os.urandom(64)).decode(),
        "time": time.time(),
    }


def mcast_group() -> str:
    """Return a multicast address:port for one lab's private network.

    Group and port are random, so that two labs do not meet: 2^18 groups of the organisation-local scope
    (RFC 2365 6.2, 239.192.0.0/14) times 10,000 ports. Bound to loopback it never leaves the machine.
    """
    group = f"239.{192 + secrets.randbelow(4)}.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
    return f"{group}:{20000 + secrets.randbelow(10000)}"
