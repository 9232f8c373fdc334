#!/bin/sh
# A line in a Slack channel for what people want to know. It never refuses a switch.
set -u
[ "$WALFERRY_DRY_RUN" = true ] && exit 0
case "$WALFERRY_EVENT" in
fenced) text="writes are refused" ;;
opened) text="$WALFERRY_TARGET_HOST is open" ;;
undo) text="the ${WALFERRY_SWITCH} was undone: $WALFERRY_SOURCE_HOST goes on" ;;
finished | aborted | alert) text="$WALFERRY_EVENT, see \`walferry status\`" ;;
*) exit 0 ;;
esac
curl -fsS -m 5 -H 'Content-Type: application/json' --data "{\"text\":\"walferry $WALFERRY_NAME: $text\"}" "$SLACK_WEBHOOK_URL" >/dev/null || true
