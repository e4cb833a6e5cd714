# SPDX-License-Identifier: Apache-2.0
"""How the site is made from docs/: ``make docs``, or sphinx-build -c tools/site docs build/docs (decision 0042)."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "ktls-fleet"
author = "The ktls-fleet authors"
project_copyright = "The ktls-fleet authors, Apache-2.0"
html_title = "ktls-fleet"

# Markdown alone; `menu` is ours: the menu from docs/index.md, and links that leave docs/.
extensions = ["myst_parser", "menu"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns: list[str] = []

# Anchors as GitHub makes them, so that one link is right in both places.
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
# No words of other sources are in the pages, and quotes in commands must stay what they are.
smartquotes = False
# A warning that nobody looks at is none: make docs runs with -W.
nitpicky = True
highlight_language = "none"
# Of console blocks only lines after a prompt are code.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "pydata_sphinx_theme"
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["ktls.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None
html_permalinks_icon = "#"
html_sidebars = {"**": ["menu"]}
html_theme_options = {
    "logo": {"text": "ktls-fleet"},
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "primary_sidebar_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_depth": 2,
    "show_nav_level": 1,
    "show_toc_level": 1,
    "use_edit_page_button": False,
    "shorten_urls": False,
}
