#!/usr/bin/env bash
# Runs the integration tests against a pair of docker-compose.yml of their own, and
# takes the pair down afterwards. GOTESTFLAGS are further flags of `go test`.
#
#   SOURCE_VERSION=13 TARGET_VERSION=17 make test-compose
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "test-compose: $*" >&2
  exit 1
}

if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  fail "neither \`docker compose\` nor docker-compose is installed; \`make test\` needs no Docker"
fi
# Not the pair that somebody tries walferry on: what is taken down takes its data along.
export COMPOSE_PROJECT_NAME=walferry-test
export SOURCE_VERSION=${SOURCE_VERSION:-13} TARGET_VERSION=${TARGET_VERSION:-17}
export SOURCE_PORT=${SOURCE_PORT:-55434} TARGET_PORT=${TARGET_PORT:-55435}

answer=$("${compose[@]}" ps 2>&1) || fail "${compose[*]} does not work; is the Docker daemon running? It says: $(tail -n 1 <<<"$answer")"

down() { "${compose[@]}" down --volumes >/dev/null 2>&1 || true; }
finish() {
  local code=$?
  if [ $code != 0 ]; then "${compose[@]}" logs --tail=200 || true; fi # why a server went away is only there
  down
  exit $code
}
down # what a killed run has left may be of other versions
trap finish EXIT
"${compose[@]}" up -d

# While it sets itself up, the server listens on a unix socket only.
for service in source target; do
  for attempt in $(seq 120); do
    "${compose[@]}" exec -T "$service" pg_isready -q -h 127.0.0.1 </dev/null >/dev/null 2>&1 && break
    [ "$attempt" = 120 ] && fail "the $service did not come up; its log follows"
    sleep 1
  done
done

# The passwords of docker-compose.yml, percent-encoded.
source_password='s%40urce%3A%2F%3F%23%5B%5D%25%20%27%5C%26%3D%2B%24%C3%BC'
target_password='t%40rget%3A%2F%3F%23%5B%5D%25%20%27%5C%26%3D%2B%24%C3%BC'
export WALFERRY_TEST_SOURCE="postgres://postgres:$source_password@127.0.0.1:$SOURCE_PORT/app"
export WALFERRY_TEST_TARGET="postgres://postgres:$target_password@127.0.0.1:$TARGET_PORT/app"
# shellcheck disable=SC2086 # flags, separated by spaces
go test -count=1 -timeout 60m ${GOTESTFLAGS:-} ./internal/migration ./internal/e2e
