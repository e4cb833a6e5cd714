# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# What `ktls off` runs on a host, over one SSH session:   sh -s -- COMMAND WATCH_S REASON   with this text on standard input
#
# Raises the off flag, then reads back, from the kernel by itself and from the agent, until no kTLS connection is left
# or WATCH_S seconds are over. POSIX sh, so that it works where Python or the agent is broken. It says, one a line:
#
#   @off UP STATUS TEXT     COMMAND ended
#   @flag UP NAMES          which flags are there: run, durable
#   @kernel UP TX OPENED    open kTLS transmit sockets of this network namespace, and how many were ever opened; or - -
#   @agent UP STATUS JSON   `ktls-agent status --json` ended
#   @end UP                 that is all
#
# UP is /proc/uptime when the line was written, in seconds.

here=${KTLS_OFF_PREFIX:-} # for tests: another root directory
newline='
'

say() {
  up=0
  read -r up _ </proc/uptime
  kind=$1
  shift
  printf '@%s %s %s\n' "$kind" "$up" "$*"
}

is_set() { [ -e "$1" ] || [ -L "$1" ]; }

flags() {
  found=
  ! is_set "$here/run/ktls/off" || found=run
  ! is_set "$here/var/lib/ktls/off" || found="$found durable"
  # shellcheck disable=SC2086 # the words
  say flag $found
}

# Sets tx and opened.
kernel() {
  tx=- opened=-
  if [ ! -e "$here/proc/net/tls_stat" ]; then
    tx=0 opened=0 # no module, no kernel TLS
  elif [ -r "$here/proc/net/tls_stat" ]; then
    tx=0 opened=0
    while read -r name value _; do
      case $name in
      TlsCurrTx*) tx=$((tx + value)) ;;
      TlsTxSw | TlsTxDevice) opened=$((opened + value)) ;;
      esac
    done <"$here/proc/net/tls_stat"
  fi
}

# Sets done: yes and no are the agent's words for "userspace, and no kTLS connection is left"; empty: it said nothing.
agent() {
  answer=$($sudo "$here/usr/local/bin/ktls-agent" status --json 2>&1 </dev/null)
  code=$?
  answer=${answer##*"$newline"}
  say agent "$code" "$answer"
  asked=$tx asked_at=${up%.*}
  case $code$answer in
  0*'"connections": {"ktls_tx": 0,'*'"phase": "userspace"'*) done=yes ;;
  0*) done=no ;;
  *) done= ;;
  esac
}

# Who has no agent is done when the kernel counts none.
is_done() { [ "$done" = yes ] || { [ -z "$done" ] && [ "$tx" = 0 ]; }; }

fallen() { [ "$tx" != "$asked" ] && [ "$tx" != - ] && [ "$asked" != - ] && [ "$((tx * 10))" -le "$((asked * 9))" ]; }

pause() { sleep 0.25 2>/dev/null || sleep 1; }

off_and_watch() {
  command=${1:-$here/usr/local/sbin/ktls-off} watch_s=$2 reason=$3
  sudo=
  [ "$(id -u)" = 0 ] || sudo='sudo -n'
  # The flag first; nothing before it can fail or hang. COMMAND may be several words.
  # shellcheck disable=SC2086
  text=$($sudo $command "$reason" 2>&1 </dev/null)
  code=$?
  set -f
  # shellcheck disable=SC2086 # lines become words of one line
  say off "$code" $text
  flags
  kernel
  say kernel "$tx" "$opened"
  agent
  begun=${up%.*}
  before="$tx $opened"
  while ! is_done && [ "$((${up%.*} - begun))" -lt "$watch_s" ]; do
    pause
    kernel
    if [ "$before" != "$tx $opened" ]; then
      say kernel "$tx" "$opened"
      before="$tx $opened"
    else
      read -r up _ </proc/uptime
    fi
    # The agent costs a process: asked when the kernel's count has fallen by a tenth, to none, and every 2 s.
    if [ "$((${up%.*} - asked_at))" -ge 2 ] || fallen; then
      agent
    fi
  done
  say end
}

off_and_watch "$@"
