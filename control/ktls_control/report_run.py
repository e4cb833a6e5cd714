# SPDX-License-Identifier: Apache-2.0
"""The report of a rollout: one HTML page that refers to nothing outside of itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from .errors import ControlError
from .files import write

TEMPLATE = "rollout.html.j2"


def write_report(
    run_dir: Path, output: Path | None = None, *, off: Path | None = None, now: float | None = None
) -> Path:
    """Write the report of a run, finished or not.

    :param output: the file; ``report.html`` in the run's directory when left out.
    :param off: file with what ``ktls off --json`` said; the last ``off*.json`` of the run when left out.
    :returns: the file.
    :raises ControlError: ``no_journal``, ``bad_off``, ``bad_output``.
    """
    output = output or run_dir / "report.html"
    text = render(run_dir, off=off, now=now)
    try:
        write(output, text)
    except OSError as error:
        raise ControlError("bad_output", f"{output}: {error.strerror}; name another file with -o") from error
    return output


def render(run_dir: Path, *, off: Path | None = None, now: float | None = None) -> str:
    """The page as text; see :func:`write_report`."""
    # Not before it is needed: who only writes a plan or switches off does not wait for it.
    import jinja2
    from markupsafe import Markup

    from .view import words
    from .view.page import build

    said = None
    if off is not None:
        try:
            said = json.loads(off.read_bytes())
        except (OSError, ValueError) as error:
            raise ControlError("bad_off", f"{off}: not what `ktls off --json` writes: {error}") from error
    page = build(run_dir, time.time() if now is None else now, said)
    environment = jinja2.Environment(
        # Not by package: inside of Ansible this one has another name.
        loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(__file__), "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        svg=Markup, duration=words.duration, percent=words.percent, interval=words.interval, bytes=words.size,
        metric=words.metric, e_value=words.e_value, moment=words.moment,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(page=page, state=page.state, plan=page.plan)
