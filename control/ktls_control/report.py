# SPDX-License-Identifier: Apache-2.0
"""The summary of a run as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .timeline import Mark, Timeline


def render(summary: Mapping[str, Any], timeline: Timeline, marks: Sequence[Mark]) -> str:
    """:returns: HTML without any reference to another file or host."""
    # Plans are written by this module too, and need neither matplotlib nor rich.
    import jinja2

    from .picture import draw
    from .screen import size

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ktls_control"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = size
    picture = draw(timeline, marks) if timeline.seconds else ""
    return environment.get_template("report.html.j2").render(run=summary, picture=picture)
