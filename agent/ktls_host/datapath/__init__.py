# SPDX-License-Identifier: Apache-2.0
"""Serving programs that can be switched, one file each, behind one interface.

:mod:`.model` has the interface, :mod:`.registry` the kinds, :mod:`.outside` what can be said of any server by looking
at it from outside. All of it runs in the unprivileged agent; what needs root is asked of a helper, by fixed verbs.
"""
