# SPDX-License-Identifier: Apache-2.0
"""PromQL and words that both dashboards use."""

from __future__ import annotations

from tools.grafana import BLUE, GREEN, RED, YELLOW, Annotation

ME = 'job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
YES_IS_BAD = {"0": ("no", GREEN), "1": ("YES", RED)}
YES_IS_GOOD = {"0": ("NO", RED), "1": ("yes", GREEN)}
SHARE = ((None, RED), (0.5, YELLOW), (0.9, GREEN))


def all_bytes(by: str, more: str = "") -> str:
    """Rate of bytes, those among them that nobody could attribute: so no share is ever too high."""
    selected = f"{{{ME}{more}}}{RATE}"
    return f"sum by ({by}) (rate(ktls_bytes_total{selected}) or rate(ktls_unattributed_bytes_total{selected}))"


def share(by: str, more: str = "") -> str:
    """Share of bytes by kTLS: 0 where there are bytes and none of them used it, nothing where there are none."""
    total = all_bytes(by, more)
    ktls = f'sum by ({by}) (rate(ktls_bytes_total{{{ME}{more},path="ktls"}}{RATE}))'
    return f"({ktls} or 0 * {total}) / ({total} > 0)"


def rate(metric: str, by: str, more: str = "") -> str:
    """Rate of a counter, added up by some of its labels."""
    return f"sum by ({by}) (rate({metric}{{{ME}{more}}}{RATE}))"


def quantile(part: float, metric: str, by: str) -> str:
    """The quantile ``part`` of a histogram."""
    return f"histogram_quantile({part}, sum by (le, {by}) (rate({metric}_bucket{{{ME}}}{RATE})))"


def unattributed(by: str) -> str:
    """Share of bytes that could not be attributed."""
    lost = f"sum by ({by}) (rate(ktls_unattributed_bytes_total{{{ME}}}{RATE}))"
    return f"{lost} / ({all_bytes(by)} > 0)"


def per_byte(by: str) -> str:
    """CPU seconds of serving processes for one byte."""
    cpu = f"sum by ({by}) (rate(ktls_process_cpu_seconds_total{{{ME}}}{RATE}))"
    return f"{cpu} / (sum by ({by}) (rate(ktls_bytes_total{{{ME}}}{RATE})) > 0)"


NOTES = (
    Annotation(
        "Off raised", f"ktls_off_flag{{{ME}}} == 1 and changes(ktls_off_flag{{{ME}}}[1m]) > 0", "Kill switch", RED
    ),
    Annotation("New order", f"changes(ktls_epoch{{{ME}}}[1m]) > 0", "New epoch", BLUE),
    Annotation("Guard tripped", f"increase(ktls_guard_trips_total{{{ME}}}[1m]) > 0", "Guard {{guard}}", YELLOW),
)
