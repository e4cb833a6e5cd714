# SPDX-License-Identifier: Apache-2.0
"""HTTP dates: RFC 9110 section 5.6.7, the fixed form only; any other form reads as absent."""

from __future__ import annotations

import calendar
import re
import time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FIXED = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) (" + "|".join(_MONTHS) + r") (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)


def format_date(seconds: float) -> str:
    """Return Unix time ``seconds`` as, for example, ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )


def parse_date(text: str) -> int | None:
    """Return Unix time in seconds, or None."""
    match = _FIXED.fullmatch(text)
    if match is None:
        return None
    day, month, year, hour, minute, second = match.groups()
    parts = (int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
    if not (1 <= parts[2] <= 31 and parts[3] < 24 and parts[4] < 60 and parts[5] <= 60 and parts[0] >= 1970):
        return None
    return calendar.timegm((*parts, 0, 0, 0))
