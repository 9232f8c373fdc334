#!/bin/sh
# The target of an RDS Proxy. It does not hold clients. DB_TARGET and DB_SOURCE are the identifiers of the
# instances. In a fallback the two are the other way round.
set -eu
new=$DB_TARGET old=$DB_SOURCE
[ "$WALFERRY_SWITCH" = fallback ] && new=$DB_SOURCE old=$DB_TARGET
case "$WALFERRY_EVENT" in
check) aws rds describe-db-proxy-targets --db-proxy-name "$PROXY" >/dev/null ;;
opened)
  aws rds deregister-db-proxy-targets --db-proxy-name "$PROXY" --db-instance-identifiers "$old" || true
  aws rds register-db-proxy-targets --db-proxy-name "$PROXY" --db-instance-identifiers "$new"
  ;;
esac
