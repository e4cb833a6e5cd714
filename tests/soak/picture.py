# SPDX-License-Identifier: Apache-2.0
"""The soak as a picture: memory, descriptors and kTLS sockets over time, with the flaps."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from .judge import Record

mpl.use("Agg")


def draw(record: Record, path: Path) -> None:
    """Write a PNG."""
    from matplotlib import pyplot

    samples = [sample for sample in (*record.before, *record.samples, *record.after) if "tls" in sample]
    start = samples[0]["time"]
    times = [(sample["time"] - start) / 60 for sample in samples]
    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(12, 8), layout="constrained")
    axes[0].plot(times, [sample["rss_kib"] / 1024 for sample in samples], color="tab:blue")
    axes[0].set_ylabel("resident memory, MiB")
    axes[1].plot(times, [sample["fds"] for sample in samples], color="tab:green", label="descriptors")
    axes[1].plot(times, [sample["connections"] for sample in samples], color="tab:olive", label="connections")
    axes[1].set_ylabel("count")
    for name, color in (("TlsCurrTxSw", "tab:red"), ("TlsCurrRxSw", "tab:purple")):
        axes[2].plot(times, [sample["tls"][name] for sample in samples], color=color, label=name)
    axes[2].set_ylabel("kTLS sockets")
    axes[2].set_xlabel("minutes; grey: the link was down")
    for axis in axes:
        axis.set_ylim(0, max(1.0, axis.get_ylim()[1] * 1.1))
        for down, up in record.flaps:
            axis.axvspan((down - start) / 60, (up - start) / 60, color="0.8")
    axes[1].legend(loc="upper right")
    axes[2].legend(loc="upper right")
    figure.suptitle(f"{record.tally.right} transfers, {record.tally.bytes / 2**30:.2f} GiB, {len(record.flaps)} flaps")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
