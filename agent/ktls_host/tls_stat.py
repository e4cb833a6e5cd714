# SPDX-License-Identifier: Apache-2.0
"""The kernel's own TLS counters, /proc/net/tls_stat.

Source: net/tls/tls_proc.c and Documentation/networking/tls.rst ("Statistics"). One file per network
namespace; it does not exist before the ``tls`` module is loaded. The set of names grows with the kernel (10
in 5.5, 12 in 6.0, 17 in 6.14), so no name is expected and none is refused.
"""

from __future__ import annotations

PATH = "/proc/net/tls_stat"
GAUGE_PREFIX = "TlsCurr"
"""Names that start so count open contexts and go down again; all others only grow."""


def parse(text: str) -> dict[str, int]:
    """Return ``{name: value}`` for every line that is a name and a decimal number; skip anything else."""
    counters: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1].isascii() and fields[1].isdigit() and len(fields[1]) <= 20:
            counters[fields[0]] = int(fields[1])
    return counters


def read(path: str = PATH) -> dict[str, int] | None:
    """Return the counters of this network namespace, or ``None`` when the kernel offers none.

    ``None`` is not "all zero": the module is not loaded, or the file may not be read.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return parse(stream.read())
    except OSError:
        return None


def delta(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return how much each counter of ``after`` moved since ``before``.

    Gauges may be negative. A counter that is smaller than before was reset (the module was loaded anew), so
    all of it is new; so is a counter that was not there before.
    """
    moved: dict[str, int] = {}
    for name, value in after.items():
        previous = before.get(name, 0)
        was_reset = value < previous and not name.startswith(GAUGE_PREFIX)
        moved[name] = value if was_reset else value - previous
    return moved


def open_contexts(counters: dict[str, int]) -> int:
    """Return how many TLS contexts are in the kernel now: the sum of the gauges, both directions."""
    return sum(value for name, value in counters.items() if name.startswith(GAUGE_PREFIX))
