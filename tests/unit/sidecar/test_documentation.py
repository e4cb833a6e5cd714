# SPDX-License-Identifier: Apache-2.0
"""docs/sidecar.md names what there is, and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from ktls_sidecar.accesslog import AccessLog
from ktls_sidecar.config import Config
from ktls_sidecar.request import Request
from ktls_sidecar.web.settings import Settings

TEXT = (Path(__file__).parents[3] / "docs/sidecar.md").read_text()


def keys(heading: str) -> set[str]:
    """The names in the first column of the table that ``heading`` begins."""
    table = TEXT.split(heading)[1].split("\n\n")[0]
    return {name for line in table.splitlines()[2:] for name in re.findall(r"`([a-z_0-9]+)`", line.split("|")[1])}


def test_every_key_of_the_configuration_is_there() -> None:
    assert keys("| key | default | meaning |") == {field.name for field in fields(Config)}
    assert keys("| key of `files` | default | meaning |") == {field.name for field in fields(Settings)}


def test_the_access_log_has_the_keys_that_are_shown() -> None:
    (example,) = re.findall(r"```json\n(.*)\n```", TEXT)
    lines: list[str] = []

    class Stream:
        write = lines.append

        def flush(self) -> None:
            pass

    log = AccessLog(Stream())  # type: ignore[arg-type]
    labels = log.labels("TLSv1.3", "X", True, False)
    log.response(labels, "[::1]:2", Request("GET", b'/a"\\b', {}, True), 206, 5, True, 0.25)
    log.response(labels, "[::1]:2", None, 400, 5, False, 0.25)
    log.flush()
    found = [json.loads(line) for line in "".join(lines).splitlines()]
    assert all(list(line) == list(json.loads(example)) for line in found)
    assert (found[0]["path"], found[1]["path"], found[0]["duration_s"]) == ('/a"\\b', None, 0.25)
