# SPDX-License-Identifier: Apache-2.0
"""Which interfaces the default routes leave through: /proc/net/route and /proc/net/ipv6_route. Pure.

Only the main routing table is shown there (proc(5)); default routes of policy routing are not seen.
"""

from __future__ import annotations

# include/uapi/linux/route.h, include/uapi/linux/ipv6_route.h
_RTF_UP = 0x1
_RTF_REJECT = 0x200


def parse_ipv4(text: str) -> frozenset[str]:
    """Return the interfaces of IPv4 default routes (net/ipv4/fib_trie.c fib_route_seq_show)."""
    found = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or not _is_hex(*fields[1:4], fields[7]):
            continue
        name, destination, _, flags, *_, mask = fields[:8]
        usable = int(flags, 16) & _RTF_UP and not int(flags, 16) & _RTF_REJECT
        # A blackhole has no interface and shows "*".
        if usable and name != "*" and int(destination, 16) == 0 and int(mask, 16) == 0:
            found.add(name)
    return frozenset(found)


def parse_ipv6(text: str) -> frozenset[str]:
    """Return the interfaces of IPv6 default routes (net/ipv6/ip6_fib.c ipv6_route_seq_show)."""
    found = set()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10 or not _is_hex(fields[0], fields[1], fields[8]):
            continue
        usable = int(fields[8], 16) & _RTF_UP and not int(fields[8], 16) & _RTF_REJECT
        if usable and int(fields[0], 16) == 0 and int(fields[1], 16) == 0:
            found.add(fields[9])
    return frozenset(found)


def _is_hex(*words: str) -> bool:
    try:
        return all(int(word, 16) >= 0 for word in words)
    except ValueError:
        return False
