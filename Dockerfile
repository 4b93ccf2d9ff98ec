# syntax=docker/dockerfile:1
# One build, two images:
#   docker build --target server --tag highwater-server .
#   docker build --target client --tag highwater .

FROM rust:1.95-slim-trixie AS build
WORKDIR /build
COPY . .
# Both programs at once: most of what is compiled they share. The caches keep what was downloaded
# and compiled from one build of the image to the next.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --release --locked --package highwater-server --package highwater-client \
    && install -D --target-directory /programs target/release/highwater-server target/release/highwater

FROM debian:trixie-slim AS runtime
# Certificates for TLS, curl for the health check; the versions are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 highwater \
    && useradd --uid 10001 --gid highwater --no-create-home --shell /usr/sbin/nologin highwater

FROM runtime AS server
COPY --from=build /programs/highwater-server /usr/local/bin/
USER 10001:10001
EXPOSE 8080
# The default of `--listen`, and what the check below asks. Another port needs another check.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8080/readyz"]
ENTRYPOINT ["highwater-server"]
CMD ["serve"]

FROM runtime AS client
COPY --from=build /programs/highwater /usr/local/bin/
# A volume that is mounted here for the first time takes over the owner.
RUN install --directory --owner highwater --group highwater /data
USER 10001:10001
ENV HIGHWATER_STORE=/data/store.db
# The store can be read. Whether it is recent enough, only who chose the interval can say.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["highwater", "status"]
ENTRYPOINT ["highwater"]
CMD ["run"]
