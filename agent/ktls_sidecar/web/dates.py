# SPDX-License-Identifier: Apache-2.0
"""HTTP dates: RFC 9110 section 5.6.7. One form is sent, all three are understood."""

from __future__ import annotations

import calendar
import re
import time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAMES = "|".join(_MONTHS)
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMS = tuple(
    re.compile(form, re.ASCII)
    for form in (
        # IMF-fixdate, rfc850-date, asctime-date
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) (?P<month>{_NAMES}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-(?P<month>{_NAMES})-(?P<year>\d\d) {_TIME} GMT",
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<month>{_NAMES}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)


def format_date(seconds: float) -> str:
    """Return Unix time ``seconds`` as, for example, ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )


def parse_date(text: str, now: float | None = None) -> int | None:
    """Return Unix time in seconds, or None. ``now`` decides the century of a year of two digits."""
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is not None:
            break
    else:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # "more than 50 years in the future" is "the most recent year in the past that had the same last two digits".
        this = time.gmtime(now).tm_year
        year += this // 100 * 100
        if year > this + 50:
            year -= 100
    day, month = int(match["day"]), _MONTHS.index(match["month"]) + 1
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    if not (1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60 and year >= 1970):
        return None
    return calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0))
