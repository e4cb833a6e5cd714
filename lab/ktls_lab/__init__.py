# SPDX-License-Identifier: Apache-2.0
"""A fleet of real VMs on one machine: images, boot, network, identity and faults."""
