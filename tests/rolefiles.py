# SPDX-License-Identifier: Apache-2.0
"""Files of a role, and what holds for every role: each option is documented, with the default that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[1] / "roles"


def read(role: str, name: str) -> Any:
    """A file of the role, as YAML."""
    return yaml.safe_load((ROLES / role / name).read_text())


def check_options(role: str) -> dict[str, Any]:
    """Compare documentation and defaults. Returns the defaults."""
    options = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults: dict[str, Any] = read(role, "defaults/main.yml")
    assert set(options) == set(defaults)
    for name, default in defaults.items():
        assert options[name]["description"], name
        if "{{" not in str(default):  # what is worked out has no documented value
            assert options[name]["default"] == default, name
    return defaults
