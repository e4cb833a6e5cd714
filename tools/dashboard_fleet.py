# SPDX-License-Identifier: Apache-2.0
"""What the dashboard of the fleet shows."""

from __future__ import annotations

from tools.dashboard_queries import (
    ME,
    RATE,
    YES_IS_BAD,
    per_byte,
    quantile,
    rate,
    share,
    unattributed,
)
from tools.grafana import BLUE, GREEN, RED, Panel, Query, Row

SENT = ',direction="sent"'
ERRORS = ',name=~"TlsDecryptError|Tls[RT]xRekeyError"'
FLEET: tuple[Row, ...] = (
    Row(
        "Fleet",
        (
            Panel("Hosts", "stat", [Query(f"count(ktls_build_info{{{ME}}})")], 4, 4),
            Panel(
                "Silent",
                "stat",
                [Query('sum(up{job=~"$job"} == bool 0)')],
                4,
                4,
                steps=((None, GREEN), (1, RED)),
                text="Targets that could not be scraped.",
            ),
            Panel("Off latched", "stat", [Query(f"sum(ktls_off_flag{{{ME}}})")], 4, 4, steps=((None, GREEN), (1, RED))),
            Panel("Drift", "stat", [Query(f"sum(ktls_drift{{{ME}}})")], 4, 4, steps=((None, GREEN), (1, RED))),
            Panel(
                "Pending",
                "stat",
                [Query(f'sum(ktls_order_state{{{ME},state="pending"}})')],
                4,
                4,
                text="Hosts whose order reverts unless it is confirmed.",
            ),
            Panel(
                "Stuck",
                "stat",
                [Query(f"sum(ktls_stuck{{{ME}}})")],
                4,
                4,
                steps=((None, GREEN), (1, RED)),
            ),
            Panel(
                "Hosts by phase",
                "timeseries",
                [Query(f'sum by (phase) (ktls_phase{{{ME},of="observed"}})', "{{phase}}")],
                12,
                8,
                stack=True,
            ),
            Panel(
                "Share of bytes by kTLS",
                "timeseries",
                [Query(share("direction"), "{{direction}}")],
                12,
                8,
                "percentunit",
                maximum=1,
            ),
        ),
    ),
    Row(
        "Hosts",
        (
            Panel(
                "State",
                "table",
                [
                    Query(f"ktls_epoch{{{ME}}}", table=True),
                    Query(f"max by (instance, state) (ktls_order_state{{{ME}}} == 1)", table=True),
                    Query(f'max by (instance, phase) (ktls_phase{{{ME},of="observed"}} == 1)', table=True),
                    Query(f"max by (instance) (ktls_off_flag{{{ME}}})", table=True),
                    Query(f"max by (instance) (ktls_drift{{{ME}}})", table=True),
                    Query(f"max by (instance) (ktls_problems{{{ME}}})", table=True),
                    Query(f"min by (instance) (ktls_lease_seconds_left{{{ME}}})", table=True),
                ],
                24,
                9,
                "none",
                transformations=(
                    {"id": "joinByField", "options": {"byField": "instance", "mode": "outer"}},
                    {
                        "id": "organize",
                        "options": {
                            "excludeByName": {
                                "Time 1": True,
                                "Time 2": True,
                                "Time 3": True,
                                "Time 4": True,
                                "Time 5": True,
                                "Time 6": True,
                                "Time 7": True,
                                "Value #B": True,
                                "Value #C": True,
                                "__name__": True,
                                "job": True,
                            },
                            "renameByName": {
                                "instance": "host",
                                "Value #A": "epoch",
                                "state": "order",
                                "Value #D": "off",
                                "Value #E": "drift",
                                "Value #F": "problems",
                                "Value #G": "lease left (s)",
                            },
                            "indexByName": {},
                        },
                    },
                ),
            ),
            Panel(
                "Phase by host",
                "state-timeline",
                [Query(f'max by (instance) (ktls_phase{{{ME},of="observed",phase!="userspace"}})', "{{instance}}")],
                12,
                9,
                words={"0": ("userspace", BLUE), "1": ("kTLS", GREEN)},
            ),
            Panel(
                "Leases",
                "timeseries",
                [Query(f"ktls_lease_seconds_left{{{ME}}}", "{{instance}}")],
                12,
                9,
                "s",
                text="Time until a pending order reverts by itself.",
            ),
        ),
    ),
    Row(
        "Effect",
        (
            Panel(
                "Hosts with the least kTLS",
                "timeseries",
                [Query(f"bottomk(10, {share('instance', SENT)})", "{{instance}}")],
                8,
                8,
                "percentunit",
                maximum=1,
            ),
            Panel(
                "Connections by sending mode",
                "timeseries",
                [Query(f"sum by (tx) (ktls_connections{{{ME}}})", "{{tx}}")],
                8,
                8,
                stack=True,
            ),
            Panel(
                "CPU a byte",
                "timeseries",
                [Query(f"topk(10, {per_byte('instance, process')})", "{{instance}} {{process}}")],
                8,
                8,
                "s",
            ),
            Panel(
                "Unattributed bytes",
                "timeseries",
                [Query(f"topk(10, {unattributed('instance')})", "{{instance}}")],
                8,
                8,
                "percentunit",
            ),
            Panel(
                "Wanted kTLS and got it",
                "timeseries",
                [
                    Query(
                        f"bottomk(10, sum by (instance) (rate(ktls_activation_active_total{{{ME}}}{RATE})) / "
                        f"(sum by (instance) (rate(ktls_activation_attempted_total{{{ME}}}{RATE})) > 0))",
                        "{{instance}}",
                    )
                ],
                8,
                8,
                "percentunit",
                maximum=1,
            ),
            Panel(
                "Fallbacks",
                "timeseries",
                [Query(rate("ktls_sidecar_fallbacks_total", "reason"), "{{reason}}")],
                8,
                8,
                "cps",
            ),
        ),
    ),
    Row(
        "Harm",
        (
            Panel(
                "Errors of the sidecar",
                "timeseries",
                [
                    Query(
                        f"sum by (instance, kind) (rate(ktls_sidecar_errors_total{{{ME}}}{RATE})) > 0",
                        "{{instance}} {{kind}}",
                    )
                ],
                8,
                8,
                "cps",
            ),
            Panel(
                "Errors of the kernel",
                "timeseries",
                [
                    Query(
                        rate("ktls_tls_stat_total", "instance, name", ERRORS) + " > 0",
                        "{{instance}} {{name}}",
                    )
                ],
                8,
                8,
                "cps",
            ),
            Panel(
                "Rekeys",
                "timeseries",
                [Query(f'sum by (name) (rate(ktls_tls_stat_total{{{ME},name=~"Tls[RT]xRekey.*"}}{RATE}))', "{{name}}")],
                8,
                8,
                "cps",
            ),
            Panel(
                "Guards tripped",
                "state-timeline",
                [
                    Query(
                        f'max by (instance, guard) (ktls_guard_state{{{ME},state="tripped"}}) == 1',
                        "{{instance}} {{guard}}",
                    )
                ],
                8,
                8,
                words={"1": ("TRIPPED", RED)},
            ),
            Panel(
                "Off flag by host",
                "state-timeline",
                [Query(f"ktls_off_flag{{{ME}}}", "{{instance}}")],
                8,
                8,
                words=YES_IS_BAD,
            ),
            Panel(
                "Self-probe: handshake",
                "heatmap",
                [
                    Query(
                        f"sum by (le) (increase(ktls_probe_handshake_seconds_bucket{{{ME}}}{RATE}))",
                        "{{le}}",
                        heatmap=True,
                    )
                ],
                8,
                8,
                "s",
            ),
            Panel(
                "Self-probe: slowest hosts",
                "timeseries",
                [Query(f"topk(10, {quantile(0.99, 'ktls_probe_transfer_seconds', 'instance')})", "{{instance}}")],
                8,
                8,
                "s",
            ),
            Panel(
                "Self-probe fails",
                "timeseries",
                [Query(f"1 - ktls_probe_success{{{ME}}} > 0", "{{instance}}")],
                8,
                8,
            ),
            Panel(
                "Age of evidence and flag",
                "timeseries",
                [
                    Query(f"topk(5, ktls_evidence_age_seconds{{{ME}}})", "evidence {{instance}}"),
                    Query(f"topk(5, min by (instance) (ktls_flag_age_seconds{{{ME}}}))", "flag {{instance}}"),
                ],
                8,
                8,
                "s",
            ),
        ),
    ),
)
