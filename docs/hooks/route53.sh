#!/bin/sh
# A CNAME with a short TTL. It does not hold clients: so it comes after the opening.
set -eu
case "$WALFERRY_EVENT" in
check) aws route53 get-hosted-zone --id "$ZONE" >/dev/null ;;
opened)
  aws route53 change-resource-record-sets --hosted-zone-id "$ZONE" --change-batch \
    "{\"Changes\":[{\"Action\":\"UPSERT\",\"ResourceRecordSet\":{\"Name\":\"$RECORD\",\"Type\":\"CNAME\",\"TTL\":5,\"ResourceRecords\":[{\"Value\":\"$WALFERRY_TARGET_HOST\"}]}}]}"
  ;;
esac
