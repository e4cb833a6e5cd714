# SPDX-License-Identifier: Apache-2.0
"""``python -m ktls_lab VERB``: the ``ktls lab`` verbs without the rest of ``ktls``."""

from __future__ import annotations

import sys

from ktls_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
