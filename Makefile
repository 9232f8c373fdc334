# walferry: `make demo` shows it, `make test` tests it, `make build` makes the binary.
.DEFAULT_GOAL := build
SHELL := /bin/bash

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0

# Size of the demo's source database in MB, and how the servers' versions are chosen.
DEMO_MB     ?= 60
DEMO_SOURCE ?= 13
DEMO_TARGET ?= 17

.PHONY: build
build: ## the static binary bin/walferry
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/walferry ./cmd/walferry

.PHONY: man
man: build ## the manual page bin/walferry.1
	bin/walferry man > bin/walferry.1

.PHONY: servers
servers: ## PostgreSQL 10 to 18, pg_dump and what else tests need
	go run ./internal/pgtest/servers

.PHONY: demo
demo: build ## a whole migration of a live database, with the way back, in under a minute
	go run ./internal/pgtest/servers $(DEMO_SOURCE) $(DEMO_TARGET)
	go run ./internal/demo -walferry bin/walferry -mb $(DEMO_MB) -source $(DEMO_SOURCE) -target $(DEMO_TARGET)

.PHONY: demo-pgbouncer
demo-pgbouncer: build ## the same with the clients behind PgBouncer (apt-get install pgbouncer, or make servers): they notice nothing
	go run ./internal/pgtest/servers $(DEMO_SOURCE) $(DEMO_TARGET)
	go run ./internal/demo -walferry bin/walferry -mb $(DEMO_MB) -source $(DEMO_SOURCE) -target $(DEMO_TARGET) -pgbouncer

# Further flags of `go test`, such as GOTESTFLAGS=-race.
GOTESTFLAGS ?=

.PHONY: test
test: servers ## every test on real servers: the usual version pairs
	go test -timeout 60m $(GOTESTFLAGS) ./internal/e2e ./... # what takes longest begins first

.PHONY: test-all
test-all: servers ## every pair of an older and a newer major version
	WALFERRY_TEST_PAIRS=all go test -timeout 120m $(GOTESTFLAGS) ./...

.PHONY: test-compose
test-compose: ## the integration tests against the pair of docker-compose.yml
	./testdata/compose.sh

# How long faults come, and a run's choices again.
SECONDS ?= 60
SEED    ?=

.PHONY: chaos
chaos: ## moves a database while everything fails: SECONDS=600 SEED=...
	go run ./internal/pgtest/servers 15 18
	WALFERRY_TEST_CHAOS_SECONDS=$(SECONDS) WALFERRY_TEST_CHAOS_SEED=$(SEED) go test -count=1 -v -timeout $$(($(SECONDS) + 900))s -run '^TestChaos$$' ./internal/e2e

HOURS ?= 0.7

.PHONY: soak
soak: ## follows for HOURS, with faults now and then, and draws what must not grow
	go run ./internal/pgtest/servers 15 18
	WALFERRY_TEST_SOAK_MINUTES=$$(awk 'BEGIN { print $(HOURS) * 60 }') go test -count=1 -v -timeout 0 -run '^TestSoak$$' ./internal/e2e

# Flags of the benchmark, such as BENCH='-run S1 -pairs 3'.
BENCH ?=

.PHONY: bench
bench: build ## walferry beside native logical replication, into docs/lab/measurements.md
	go run ./internal/pgtest/servers 15 17
	go build -o bin/bench ./internal/bench
	bin/bench -out docs/lab/measurements.md $(BENCH)

.PHONY: lint
lint: ## go vet, staticcheck, gofumpt
	go vet ./...
	go run $(STATICCHECK) ./...
	@out=$$(go run $(GOFUMPT) -l .); if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi

.PHONY: fmt
fmt:
	go run $(GOFUMPT) -w .

# Further flags of `docker build`, such as IMAGEFLAGS='--build-arg BASE_IMAGE=...'.
IMAGEFLAGS ?=

.PHONY: image
image: ## the Docker image walferry
	docker build -t walferry --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg DATE=$(DATE) $(IMAGEFLAGS) .

.PHONY: help
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16
