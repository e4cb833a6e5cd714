#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Two network namespaces beside the host's own: "client" asks, "other" serves too. Each pair is joined by a veth.
set -eu
cd /root
ip netns add client
ip netns add other
ip link add ev-host type veth peer name ev-a
ip link set ev-a netns client
ip link add ev-b type veth peer name ev-c
ip link set ev-b netns client
ip link set ev-c netns other
ip addr add 10.99.0.1/24 dev ev-host
ip addr add fd99::1/64 dev ev-host nodad
ip link set ev-host up
ip -n client addr add 10.99.0.2/24 dev ev-a
ip -n client addr add fd99::2/64 dev ev-a nodad
ip -n client addr add 10.98.0.2/24 dev ev-b
ip -n other addr add 10.98.0.1/24 dev ev-c
for place in client/ev-a client/ev-b client/lo other/ev-c other/lo; do
  ip -n "${place%/*}" link set "${place#*/}" up
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other \
  -addext subjectAltName=DNS:other -keyout other.key -out other.pem 2>/dev/null
mkdir -p /srv/ktls/ev
head -c 20000 /dev/urandom >/srv/ktls/ev/small
head -c 1000000 /dev/urandom >/srv/ktls/ev/large
chmod -R a+rX /srv/ktls/ev
for mode in plain ktls; do
  systemd-run --quiet --unit "other-$mode" ip netns exec other python3 /root/server.py "$mode"
done
