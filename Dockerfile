# walferry with the PostgreSQL client programs that carry the schema. Build
# arguments: GO_IMAGE and BASE_IMAGE for mirrors, PG_CLIENT for the package that
# holds pg_dump. It must not be older than the source server: that of trixie is 17.
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=debian:trixie-slim

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG COMMIT=
ARG DATE=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT} -X main.date=${DATE}" -o /walferry ./cmd/walferry

FROM ${BASE_IMAGE}
ARG PG_CLIENT=postgresql-client
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates ${PG_CLIENT} \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home walferry
COPY --from=build /walferry /usr/local/bin/walferry
USER walferry
ENTRYPOINT ["walferry"]
