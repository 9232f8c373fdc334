#!/bin/sh
# PgBouncer on other hosts, held by walferry (--pgbouncer), whose file is not on this machine: this
# leads it to the other server and back. walferry sends the RELOAD itself, and looks at what came of it.
# The file there is a template in which @HOST@, @PORT@ and @DBNAME@ stand for the server.
set -eu
hosts="${PGBOUNCER_HOSTS:?the hosts, separated by spaces}"
case "$WALFERRY_EVENT" in
redirect) host=$WALFERRY_TARGET_HOST port=$WALFERRY_TARGET_PORT dbname=$WALFERRY_TARGET_DBNAME ;;
undo) host=$WALFERRY_SOURCE_HOST port=$WALFERRY_SOURCE_PORT dbname=$WALFERRY_SOURCE_DBNAME ;;
*) exit 0 ;;
esac
for h in $hosts; do
  if [ "$WALFERRY_DRY_RUN" = true ]; then
    ssh "$h" test -w /etc/pgbouncer/pgbouncer.ini
  else
    ssh "$h" "sed 's/@HOST@/$host/; s/@PORT@/$port/; s/@DBNAME@/$dbname/' /etc/pgbouncer/pgbouncer.ini.template > /etc/pgbouncer/.new && mv /etc/pgbouncer/.new /etc/pgbouncer/pgbouncer.ini"
  fi
done
