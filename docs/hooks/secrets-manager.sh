#!/bin/sh
# The host and port in a secret that applications read when they connect. After the opening.
set -eu
case "$WALFERRY_EVENT" in
check) aws secretsmanager describe-secret --secret-id "$SECRET" >/dev/null ;;
opened)
  aws secretsmanager get-secret-value --secret-id "$SECRET" --query SecretString --output text |
    jq -c --arg host "$WALFERRY_TARGET_HOST" --argjson port "$WALFERRY_TARGET_PORT" '.host = $host | .port = $port' |
    aws secretsmanager put-secret-value --secret-id "$SECRET" --secret-string file:///dev/stdin >/dev/null
  ;;
esac
