# SPDX-License-Identifier: Apache-2.0
"""Root's part of datapath ``service``: a systemd unit gets kernel TLS by a configuration of its own, or loses it.

What the program reads decides the way (:mod:`.programs`); :mod:`.running` tells by which configuration it runs;
:mod:`.switch` puts it all together. Nothing here restarts anything without consent.
"""
