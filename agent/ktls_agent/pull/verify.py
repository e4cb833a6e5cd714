# SPDX-License-Identifier: Apache-2.0
"""Says what the bytes of an endpoint are worth. The same bytes are verified once, not at every poll."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ktls_host import flag_document, flag_signature
from ktls_host.errors import KtlsError
from ktls_host.flag_document import Flag
from ktls_host.flag_signature import Signers

GOOD_FOR_S = 300.0  # then looked at again: keys expire
BAD_FOR_S = 30.0  # a clock that was wrong, a program that was missing
_REMEMBERED = 32


@dataclass(frozen=True)
class Verdict:
    """``result``: ``off`` or ``none`` for a valid flag, which then is in ``flag``; else what is wrong with it."""

    result: str
    detail: str = ""
    flag: Flag | None = None
    key: str | None = None


class Verifier:
    """Holds the verdicts of one fleet. Safe to share between threads."""

    def __init__(
        self,
        fleet: str,
        allowed_signers: str,
        verify: Callable[[bytes, bytes, str, Signers], str] = flag_signature.verify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Judge by the file at ``allowed_signers``, which is read anew when it changes."""
        self._fleet = fleet
        self._path = allowed_signers
        self._verify = verify
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[bytes, tuple[int, ...]], tuple[float, Verdict]] = OrderedDict()
        self.verifications = 0

    def check(self, body: bytes) -> Verdict:
        """Return the verdict on ``body``. Never raises for anything that a server can send."""
        try:
            document, signature = flag_document.split(body)
            flag = flag_document.parse(document)
        except KtlsError as error:
            return Verdict("malformed" if error.code == "bad_flag" else error.code, error.message)
        if flag.fleet != self._fleet:
            return Verdict("wrong_fleet", f"the flag is for fleet {flag.fleet}, this host is in {self._fleet}")
        with self._lock:
            try:
                signers = flag_signature.read_signers(self._path)
            except KtlsError as error:
                return Verdict(error.code, error.message)
            name = (hashlib.sha256(body).digest(), signers.identity)
            found = self._known.get(name)
            if found is not None and self._clock() < found[0]:
                return found[1]
            verdict = self._verdict(flag, document, signature, signers)
            good = verdict.flag is not None
            self._known[name] = (self._clock() + (GOOD_FOR_S if good else BAD_FOR_S), verdict)
            self._known.move_to_end(name)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return verdict

    def _verdict(self, flag: Flag, document: bytes, signature: bytes, signers: Signers) -> Verdict:
        self.verifications += 1
        try:
            key = self._verify(document, signature, self._fleet, signers)
        except KtlsError as error:
            return Verdict(error.code, error.message)
        return Verdict(flag.state, "", flag, key)
