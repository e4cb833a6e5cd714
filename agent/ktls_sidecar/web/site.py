# SPDX-License-Identifier: Apache-2.0
"""Interim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .files import OpenFile, open_target, parse_target
from .respond import Plan, plan


@dataclass
class Answer:
    plan: Plan
    file: OpenFile | None


class Site:
    def __init__(self, root: str, settings: object = None) -> None:
        self.root = root

    def answer(self, method: str, target: bytes, fields: Mapping[str, str]) -> Answer:
        file = open_target(self.root, parse_target(target))
        return Answer(plan(method, fields, file), file)
