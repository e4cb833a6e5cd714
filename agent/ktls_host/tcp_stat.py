# SPDX-License-Identifier: Apache-2.0
"""The kernel's counters of TCP connections that did not end well, of one network namespace.

Source: /proc/net/snmp and /proc/net/netstat (net/ipv4/proc.c), RFC 4022 and Documentation/networking/snmp_counter.rst.
They are of all TCP in the namespace, IPv4 and IPv6, whoever serves and whether TLS or not. Names are those of nstat(8).
"""

from __future__ import annotations

from collections.abc import Collection

#: RFC 4022: connections opened by peers; ended by a reset, sent or received; resets sent; segments sent again.
_SNMP = frozenset(("TcpPassiveOpens", "TcpEstabResets", "TcpOutRsts", "TcpRetransSegs"))
#: Ended by ourselves: data came after close; closed with data unread; no memory; no answer in time; SO_LINGER.
_NETSTAT = frozenset(f"TcpExtTCPAbortOn{why}" for why in ("Data", "Close", "Memory", "Timeout", "Linger"))


def parse(text: str, wanted: Collection[str]) -> dict[str, int]:
    """Return the ``wanted`` counters of a file of pairs of lines: ``Group: names`` and ``Group: values``."""
    lines = [line for line in text.splitlines() if line.startswith("Tcp")]
    found: dict[str, int] = {}
    for names, values in zip(map(str.split, lines[::2]), map(str.split, lines[1::2])):
        if not names or names[:1] != values[:1] or len(names) != len(values):
            continue
        group = names[0].rstrip(":")
        for name, value in zip(names[1:], values[1:]):
            if group + name in wanted and value.isascii() and value.isdigit():
                found[group + name] = int(value)
    return found


def read(directory: str = "/proc/net") -> dict[str, int]:
    """Return the counters that this kernel has; none where the files cannot be read."""
    found: dict[str, int] = {}
    try:
        for name, wanted in (("snmp", _SNMP), ("netstat", _NETSTAT)):
            with open(f"{directory}/{name}", encoding="ascii", errors="replace") as stream:
                found.update(parse(stream.read(), wanted))
    except OSError:
        return {}
    return found
