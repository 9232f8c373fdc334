#!/bin/sh
# HAProxy's runtime API (stats socket level admin): new connections go to the new server, and sessions that
# are there are ended. It queues new connections only; who is connected sees WF001, or the end of its session.
set -eu
tell() { echo "$1" | socat -t 5 stdio "${HAPROXY_SOCKET:-/run/haproxy/admin.sock}"; }
server="${HAPROXY_SERVER:-postgres/db}"
case "$WALFERRY_EVENT" in
check) tell "show info" | grep -q '^Name: HAProxy' ;;
opened)
  tell "set server $server addr $WALFERRY_TARGET_HOST port $WALFERRY_TARGET_PORT" # an IP address
  tell "shutdown sessions server $server"
  ;;
esac
