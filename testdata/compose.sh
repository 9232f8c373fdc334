#!/usr/bin/env bash
# Runs the integration tests against the pair of docker-compose.yml, and takes the
# pair down afterwards.
#
#   SOURCE_VERSION=13 TARGET_VERSION=17 make test-compose
set -euo pipefail
cd "$(dirname "$0")/.."

command -v docker >/dev/null || { echo "docker is not installed: this needs it, and its compose plugin or docker-compose"; exit 1; }
docker info >/dev/null 2>&1 || { echo "docker does not answer: is its daemon running, and may you use it?"; exit 1; }
command -v psql >/dev/null || { echo "psql is not installed: this waits for the servers with it"; exit 1; }
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
export SOURCE_VERSION=${SOURCE_VERSION:-13} TARGET_VERSION=${TARGET_VERSION:-17}
export SOURCE_PORT=${SOURCE_PORT:-55432} TARGET_PORT=${TARGET_PORT:-55433}

down() {
  local code=$?
  if [ $code != 0 ]; then "${compose[@]}" logs --tail=200 || true; fi # why a server went away is only there
  "${compose[@]}" down --volumes >/dev/null 2>&1 || true
  exit $code
}
trap down EXIT
"${compose[@]}" up -d

# The passwords of docker-compose.yml, percent-encoded.
source_password='s%40urce%3A%2F%3F%23%5B%5D%25%20%27%5C%26%3D%2B%24%C3%BC'
target_password='t%40rget%3A%2F%3F%23%5B%5D%25%20%27%5C%26%3D%2B%24%C3%BC'
export WALFERRY_TEST_SOURCE="postgres://postgres:$source_password@127.0.0.1:$SOURCE_PORT/app"
export WALFERRY_TEST_TARGET="postgres://postgres:$target_password@127.0.0.1:$TARGET_PORT/app"

for dsn in "$WALFERRY_TEST_SOURCE" "$WALFERRY_TEST_TARGET"; do
  for attempt in $(seq 120); do
    psql "$dsn" -qAtc 'select 1' >/dev/null 2>&1 && break
    [ "$attempt" = 120 ] && { echo "the pair did not come up"; exit 1; }
    sleep 1
  done
done
go test -count=1 -timeout 20m ./internal/migration ./internal/e2e
