# SPDX-License-Identifier: Apache-2.0
"""Prometheus exposition: families of samples, their text form, and the socket that serves it."""
