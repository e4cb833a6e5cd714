# SPDX-License-Identifier: Apache-2.0
"""Make the artefacts of a release: what hosts run, collection, wheel, bills of materials, sums, signature."""


class ReleaseError(Exception):
    """A release cannot be made; the message is one line with the cure."""
