#!/bin/sh
# A Service without a selector, of type ExternalName, that clients resolve. It does not hold them: so
# it comes after the opening. Who is connected keeps the connection, and gets WF001, until it connects again.
set -eu
service="${SERVICE:-database}"
case "$WALFERRY_EVENT" in
check) kubectl auth can-i patch "service/$service" >/dev/null ;;
opened)
  kubectl patch service "$service" --type merge -p "{\"spec\":{\"type\":\"ExternalName\",\"externalName\":\"$WALFERRY_TARGET_HOST\"}}"
  ;;
esac
