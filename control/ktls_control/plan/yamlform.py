# SPDX-License-Identifier: Apache-2.0
"""YAML as plans need it: quick, and such that Ansible takes no text for a template.

Ansible trusts a file that it is given with ``-e @FILE`` and would evaluate ``{{ ... }}`` in it. Texts of a plan come
from hosts. Those that look like a template are written with Ansible's tag ``!unsafe``, which keeps them text.
"""

from __future__ import annotations

from typing import Any

import yaml

from ..errors import ControlError

# libyaml's are some ten times as fast, and may be missing.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNSAFE = "!unsafe"
_OPENERS = ("{{", "{%", "{#")


class _PlanDumper(_Dumper):  # type: ignore[misc]
    """Tables as block scalars, no anchors, templates tagged."""

    def ignore_aliases(self, _data: Any) -> bool:
        """No anchors: people read this."""
        return True


class _PlanLoader(_Loader):  # type: ignore[misc]
    """Reads the tag ``!unsafe`` as the text it is."""


def _text(dumper: Any, text: str) -> Any:
    tag = _UNSAFE if any(opener in text for opener in _OPENERS) else "tag:yaml.org,2002:str"
    return dumper.represent_scalar(tag, text, style="|" if "\n" in text else None)


_PlanDumper.add_representer(str, _text)
_PlanLoader.add_constructor(_UNSAFE, lambda loader, node: loader.construct_scalar(node))


def dump(data: Any) -> str:
    """``data`` as YAML; keys stay in order."""
    return str(yaml.dump(data, Dumper=_PlanDumper, sort_keys=False, width=120, allow_unicode=True))


def parse(text: str, where: str) -> Any:
    """What ``text`` holds.

    :param where: name for messages.
    :raises ControlError: ``bad_plan``.
    """
    try:
        return yaml.load(text, Loader=_PlanLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ControlError("bad_plan", f"{where}: not YAML: {' '.join(str(error).split())}") from error
