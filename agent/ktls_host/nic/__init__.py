# SPDX-License-Identifier: Apache-2.0
"""Network interfaces: which can encrypt TLS in hardware, and the lever that lets them.

``ethtool``, ``routes`` parse text and are pure; ``drivers`` is data; ``probe`` reads a host; ``verdict`` judges what
was read; ``targets`` chooses interfaces; ``udev_rule`` and ``remembered`` are what the lever keeps on the host;
``lever`` changes it.
"""
