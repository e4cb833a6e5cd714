# SPDX-License-Identifier: Apache-2.0
"""Which datapath new connections take, and the off flag that overrules it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ktls_host.jsonsock import RequestError

from .ulp import flag_exists

USERSPACE = "userspace"
TX = "tx"
MODES = (USERSPACE, TX)
_LATER = ("rx", "hw")


class ModeSwitch:
    """The ordered mode. It starts in userspace.

    A flag does not hide the order, it ends it: when the flag goes away the mode stays userspace until somebody
    orders again. ``generation`` grows with each change; connections of an older one are to end.
    """

    def __init__(self, off_flags: Sequence[str], changed: Callable[[str], None]) -> None:
        """Watch the paths ``off_flags``. ``changed`` is called with the new mode after each change."""
        self._off_flags = tuple(off_flags)
        self._changed = changed
        self.ordered = USERSPACE
        self.generation = 0

    def off_flag(self) -> bool:
        """Look for a flag, by stat, now."""
        return any(flag_exists(path) for path in self._off_flags)

    def effective(self) -> str:
        """Return the mode for a connection that is accepted now. Ends a kTLS order when a flag is there."""
        if self.ordered != USERSPACE and self.off_flag():
            self._set(USERSPACE)
        return self.ordered

    def order(self, mode: object) -> None:
        """Change the mode. Raises RequestError ``bad_mode``, ``unsupported_mode``, ``off_latched``."""
        if mode in _LATER:
            raise RequestError("unsupported_mode", f"mode {mode!r} comes in a later release; use userspace or tx")
        if not isinstance(mode, str) or mode not in MODES:
            raise RequestError("bad_mode", f"there is no mode {mode!r}; use userspace or tx")
        if mode != USERSPACE and self.off_flag():
            self.effective()
            raise RequestError("off_latched", "the off flag is set on this host; clear it as root before ordering kTLS")
        self._set(mode)

    def _set(self, mode: str) -> None:
        if mode != self.ordered:
            self.ordered = mode
            self.generation += 1
            self._changed(mode)
