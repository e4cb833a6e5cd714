# SPDX-License-Identifier: Apache-2.0
"""A served tree: from a request to the response that it gets.

The root is looked up at each request, so a root that is a link may be switched to another tree at any time; the next
request sees it. What is kept between requests is which path a target means, the header lines of a file as long as
inode, size and both times stay what they were, and the content of small files (:mod:`.contents`). No descriptor is
kept.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from .contents import Contents
from .encodings import IDENTITY, SUFFIXES, acceptable, may_have_sibling
from .files import OpenFile, RefusedError, Target, open_any, open_below, parse_target, walk
from .listing import listing, redirect
from .mediatypes import media_type
from .recent import Recent
from .represent import SPECIAL, Representation
from .respond import Plan, refuse
from .settings import Settings

_KEPT = 2048
_TARGET_KEPT_MAX = 512
"""Longer targets are worked out each time, which bounds the memory."""
_VARY = ("Vary", "Accept-Encoding")


class Answer(NamedTuple):
    """The response, and the file its body comes from; None when nothing of a file is to be sent (as for HEAD).

    The caller closes the file.
    """

    plan: Plan
    file: OpenFile | None


class _Place:
    """Where a target leads, and what was found there."""

    __slots__ = ("coded", "found", "ids", "name", "negotiable", "nlink", "path", "segments")

    def __init__(self, segments: tuple[bytes, ...], file: OpenFile, found: Representation, negotiable: bool) -> None:
        self.segments = segments
        self.path = file.path
        self.name = file.name
        self.nlink = file.nlink
        self.ids = file.ids
        self.found = found
        self.negotiable = negotiable
        self.coded: dict[str, Representation] = {}


class Site:
    """Answers for the files below the directory ``root`` by ``settings``. For one thread."""

    def __init__(self, root: str, settings: Settings) -> None:
        """Nothing is opened yet."""
        self._root = os.fsencode(root)
        self._settings = settings
        self._index = os.fsencode(settings.index)
        self._places: Recent[bytes, _Place] = Recent(_KEPT)
        self._contents: Contents[_Place] = Contents()
        self._special = SPECIAL | {"accept-encoding"} if settings.precompressed else SPECIAL

    def answer(self, method: str, target: bytes, fields: Mapping[str, str]) -> Answer:
        """Answer GET or HEAD of ``target``. ``fields``: lower-case names, repeated ones joined by ``", "``.

        Raises :class:`RefusedError`, and OSError for faults of the host (no descriptors, I/O error).
        """
        if method != "GET" and method != "HEAD":
            raise RefusedError(405, "only GET and HEAD are served")
        key = target if b"?" not in target else target[: target.index(b"?")]
        held = self._contents.find(key)
        if held is not None:
            if method == "GET" and self._special.isdisjoint(fields):
                return Answer(held.place.found.whole, held.file)
            return self._negotiated(method, fields, key, held.place, held.file)
        place = self._places.get(key)
        file = self._again(place) if place is not None else None
        if place is None or file is None:
            checked = parse_target(target)
            found = self._find(checked, target)
            if isinstance(found, Plan):
                return Answer(found, None)
            segments, file = found
            try:
                place = self._place(segments, file)
            except BaseException:
                file.close()
                raise
            if len(key) <= _TARGET_KEPT_MAX:
                self._places.put(key, place)
        if method == "GET" and self._special.isdisjoint(fields):
            return Answer(place.found.whole, self._held(key, place, file))
        return self._negotiated(method, fields, key, place, file)

    def _held(self, key: bytes, place: _Place, file: OpenFile) -> OpenFile:
        """Keep the content of ``file`` for the next request, if it is small and at rest. Returns what to send from."""
        if file.content is not None or len(key) > _TARGET_KEPT_MAX:
            return file
        held = self._contents.keep(key, place, file, self._root, place.segments)
        if held is None:
            return file
        file.close()
        return held

    def _again(self, place: _Place) -> OpenFile | None:
        """Open what was there before; None when it is not there as it was."""
        try:
            fd = walk(self._root, place.segments)
        except OSError:
            return None
        try:
            found = place.found
            if found.is_of(os.fstat(fd)):
                # Equal change times: the rest of fstat(2) is what it was, too.
                return OpenFile(
                    fd,
                    place.name,
                    found.size,
                    found.mtime_ns,
                    found.inode,
                    found.ctime_ns,
                    place.nlink,
                    place.path,
                    place.ids,
                )
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _find(self, checked: Target, target: bytes) -> tuple[tuple[bytes, ...], OpenFile] | Plan:
        """Return the file and its segments, or what is to be answered instead."""
        if not checked.directory:
            file = open_below(self._root, checked.segments)
            if file is not None:
                return checked.segments, file
        segments = (*checked.segments, self._index)
        try:
            file = open_below(self._root, segments)
            if file is None:
                raise RefusedError(404, "the index is a directory")
        except RefusedError as refusal:
            if refusal.status != 404 or not self._settings.autoindex:
                raise
            return self._without_index(checked, target)
        if checked.directory:
            return segments, file
        file.close()
        return redirect(checked.segments, _query(target))

    def _without_index(self, checked: Target, target: bytes) -> Plan:
        fd = open_any(self._root, checked.segments)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise RefusedError(404, "there is no such directory")
            return listing(fd, checked.segments) if checked.directory else redirect(checked.segments, _query(target))
        finally:
            os.close(fd)

    def _place(self, segments: tuple[bytes, ...], file: OpenFile) -> _Place:
        negotiable = self._settings.precompressed and may_have_sibling(file.name)
        return _Place(segments, file, self._represent(segments, file, IDENTITY, negotiable), negotiable)

    def _represent(self, segments: tuple[bytes, ...], file: OpenFile, coding: str, negotiable: bool) -> Representation:
        """``segments`` are those of the file that was asked for, which decide type and Cache-Control."""
        cache_control = self._settings.cache_control_for(os.fsdecode(b"/".join(segments)))
        kind = media_type(os.fsdecode(segments[-1]), self._settings.types)
        return Representation(file, kind, coding, negotiable, cache_control)

    def _negotiated(self, method: str, fields: Mapping[str, str], key: bytes, place: _Place, file: OpenFile) -> Answer:
        try:
            found = place.found
            wanted = fields.get("accept-encoding") if place.negotiable else None
            if wanted is not None:
                for coding in acceptable(wanted):
                    if coding == IDENTITY:
                        break
                    sibling = self._sibling(place, file, coding)
                    if sibling is not None:
                        file.close()
                        file = sibling
                        found = self._coded(place, file, coding)
                        break
                else:
                    file.close()
                    return Answer(refuse(406, "there is no form of this file that you accept", [_VARY]), None)
            plan = found.plan(method, fields)
        except BaseException:
            file.close()
            raise
        if method == "HEAD" or not (plan.length or plan.parts):
            file.close()
            return Answer(plan, None)
        return Answer(plan, self._held(key, place, file) if plan is place.found.whole else file)

    def _sibling(self, place: _Place, file: OpenFile, coding: str) -> OpenFile | None:
        """Return the precompressed form, open; None where there is none, it may not be served, or it is outdated."""
        suffix = os.fsencode(SUFFIXES[coding])
        # The common case is that there is none; a look is cheaper than a failed opening, and decides nothing else.
        if not os.access(place.path + suffix, os.F_OK):
            return None
        try:
            sibling = open_below(self._root, (*place.segments[:-1], place.segments[-1] + suffix))
        except RefusedError:
            return None
        if sibling is not None and sibling.mtime_ns < file.mtime_ns:
            sibling.close()
            return None
        return sibling

    def _coded(self, place: _Place, file: OpenFile, coding: str) -> Representation:
        found = place.coded.get(coding)
        if found is None or not found.is_for(file):
            found = place.coded[coding] = self._represent(place.segments, file, coding, True)
        return found


def _query(target: bytes) -> bytes | None:
    _, mark, query = target.partition(b"?")
    return query if mark else None
