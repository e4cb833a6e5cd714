# SPDX-License-Identifier: Apache-2.0
"""Tells people and machines what a rollout does, by signed webhooks. It never holds a rollout up."""

from .config import Config, Endpoint, load
from .notifier import Notifier
from .triggers import TRIGGERS

__all__ = ["TRIGGERS", "Config", "Endpoint", "Notifier", "load"]
