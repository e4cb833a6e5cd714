# SPDX-License-Identifier: Apache-2.0
"""The kinds of datapaths: a kind is a module of this package, with ``parse`` and ``make`` (:class:`.model.Kind`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from .model import Datapath, Kind, Tools, bad_config

KINDS = ("sidecar", "nginx", "service")
"""Add a kind here, and its module beside this one."""
DEFAULT = "sidecar"


@dataclass(frozen=True)
class Choice:
    """The datapath of a host, as configured: its kind, and the settings that the kind has checked."""

    kind: str
    settings: Any


def parse(raw: object, source: str) -> Choice:
    """Check key ``datapath`` of the agent's configuration. Raises KtlsError: bad_config."""
    if not isinstance(raw, Mapping):
        raise bad_config(source, " is not an object")
    kind = raw.get("kind", DEFAULT)
    if kind not in KINDS:
        raise bad_config(source, f".kind is not one of {', '.join(KINDS)}")
    settings = _module(kind).parse({key: value for key, value in raw.items() if key != "kind"}, source)
    return Choice(kind, settings)


def make(choice: Choice, tools: Tools) -> Datapath:
    """Return the datapath."""
    return _module(choice.kind).make(choice.settings, tools)


def _module(kind: str) -> Kind:
    return cast(Kind, importlib.import_module(f".{kind}", __package__))
