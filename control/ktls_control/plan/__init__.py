# SPDX-License-Identifier: Apache-2.0
"""What a rollout is going to do, decided and written down before any host is touched."""
