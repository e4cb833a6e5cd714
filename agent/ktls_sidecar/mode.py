# SPDX-License-Identifier: Apache-2.0
"""Which datapath new connections take, and the off flag that overrules it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ktls_host.jsonsock import RequestError

from .page import HW, MODES, RX, SHARE_STEPS, TX, USERSPACE, Order, OrderPage, pack, unpack
from .ulp import flag_exists

__all__ = ["HW", "MODES", "RX", "TX", "USERSPACE", "ModeFollower", "ModeSwitch"]

# The kernel's generator: forked workers share the state of any other, and a client could learn its sequence.
_RANDOM = random.SystemRandom().random


class ModeFollower:
    """The ordered mode as a worker sees it: what the page says, until it meets a flag.

    A flag does not hide the order, it ends it: when the flag goes away the mode stays userspace until somebody
    orders again. ``generation`` grows with each change; connections of an older one are to end.
    """

    def __init__(
        self,
        off_flags: Sequence[str],
        changed: Callable[[str], None],
        page: OrderPage,
        chance: Callable[[], float] = _RANDOM,
    ) -> None:
        """Watch the paths ``off_flags``. ``changed`` is called with the mode after each change of mode or share.

        It is called from :meth:`follow`, and so from whatever calls that. ``chance`` returns numbers from 0 up to, not
        including, 1.
        """
        self._off_flags = tuple(off_flags)
        self._changed = changed
        self._chance = chance
        self._page = page
        order = page.read()
        self._word = pack(order)
        self.ordered, self.share, self.generation, self.tls12 = order
        """The mode; the part of new connections, 0 to 1, that takes it (the others are userspace); its number; and
        whether those connections are to be TLS 1.2."""

    def off_flag(self) -> bool:
        """Look for a flag, by stat, now."""
        return any(flag_exists(path) for path in self._off_flags)

    def follow(self) -> None:
        """Take what is ordered now, if it is another order than before."""
        while self._page.word != self._word:
            word = self._page.word
            order = unpack(word)
            if order is not None:
                self._word = word
                self._take(order)

    def effective(self) -> str:
        """Return the mode in force now. Ends a kTLS order when a flag is there."""
        self.follow()
        if self.ordered != USERSPACE and self.off_flag():
            self._end()
        return self.ordered

    def draw(self) -> str:
        """Return the mode of one connection that is accepted now: what is in force, or userspace by lot."""
        mode = self.effective()
        if mode == USERSPACE or self.share >= 1.0 or self._chance() < self.share:
            return mode
        return USERSPACE

    def _end(self) -> None:
        # The page stays: it is the supervisor's, and the next order is another word.
        self._take(Order(USERSPACE, 1.0, self.generation))

    def _take(self, order: Order) -> None:
        before = (self.ordered, self.share, self.tls12)
        self.ordered, self.share, self.generation, self.tls12 = order
        if before != (self.ordered, self.share, self.tls12):
            self._changed(self.ordered)


class ModeSwitch(ModeFollower):
    """The same where orders are given. It starts in userspace, and a flag that it meets ends the order for all."""

    def __init__(
        self,
        off_flags: Sequence[str],
        changed: Callable[[str], None],
        chance: Callable[[], float] = _RANDOM,
        page: OrderPage | None = None,
    ) -> None:
        """As :class:`ModeFollower`; nobody else may write to ``page``."""
        super().__init__(off_flags, changed, page or OrderPage(), chance)

    def order(self, mode: object, share: object = 1.0, tls12: object = False) -> None:
        """Change the mode. Raises RequestError ``bad_mode``, ``bad_share``, ``bad_tls12``, ``off_latched``."""
        if not isinstance(mode, str) or mode not in MODES:
            raise RequestError("bad_mode", f"there is no mode {mode!r}; use one of {', '.join(MODES)}")
        if not isinstance(tls12, bool) or (tls12 and mode != HW):
            raise RequestError("bad_tls12", f"tls12 is true or false, and true goes with mode {HW} only")
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
            raise RequestError("bad_share", f"share {share!r} is not a number from 0 to 1")
        if mode != USERSPACE and self.off_flag():
            self.effective()
            raise RequestError("off_latched", "the off flag is set on this host; clear it as root before ordering kTLS")
        self._set(mode, 1.0 if mode == USERSPACE else round(share * SHARE_STEPS) / SHARE_STEPS, tls12)

    def _end(self) -> None:
        self._set(USERSPACE, 1.0)

    def _set(self, mode: str, share: float, tls12: bool = False) -> None:
        if (mode, share, tls12) != (self.ordered, self.share, self.tls12):
            order = Order(mode, share, self.generation + 1, tls12)
            self._page.write(order)
            self._word = pack(order)
            self._take(order)
