# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/watch.png and docs/images/rollout-report.png from invented runs (tests/journals.py).

.venv/bin/python -m tools.report_images
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from ktls_control.report_run import write_report
from ktls_control.rollout.state import fold
from ktls_control.view import tree
from tests import journals

PLACE = Path(__file__).resolve().parents[1] / "docs/images"
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
_KEYS = "[O]FF [p]romote [P]ause [a]bort [e]xplain [q]uit"


def main() -> None:
    """Write both pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        story = journals.soaking(place / "soaking")
        page = place / "watch.html"
        page.write_text(f'<body style="margin:0;background:#0c0c0c">{_screen(story)}')
        _shoot(page, PLACE / "watch.png", 1220, 298)
        failed = journals.failed(place / "failed")
        off = place / "off.json"
        off.write_text(json.dumps(journals.off_results(failed)))
        report = write_report(failed.run_dir, place / "report.html", off=off, now=failed.journal.at + 60)
        _shoot(report, PLACE / "rollout-report.png", 1200, 2820)


def _screen(story: journals.Story) -> str:
    console = Console(record=True, width=122, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    view = tree.View(fold(story.journal.lines), story.plan, story.journal.at + 7, footer=(Text(_KEYS),))
    for line in tree.lines(view, console.width):
        console.print(line)
    drawn = console.export_svg(title="ktls status --watch", theme=MONOKAI)
    # Its fonts would come from elsewhere.
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def _shoot(page: Path, picture: Path, width: int, height: int) -> None:
    argv = ["chromium", *_FLAGS, f"--window-size={width},{height}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(argv, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
