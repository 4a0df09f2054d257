# syntax=docker/dockerfile:1
# The image of the server: one static binary, the certificates it trusts, and a directory for the
# embedded store. Build it with BuildKit, on amd64 or arm64: docker build --tag session-manager:0.1.0 .

FROM rust:1.95-slim-bookworm AS build

# The toolchain that is in the image: rust-toolchain.toml names components that only development
# needs, and rustup would fetch them.
ENV RUSTUP_TOOLCHAIN=$RUST_VERSION

# Whatever version this release of Debian has: it only compiles the allocator and a few stubs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add wasm32-wasip2 "$(uname -m)-unknown-linux-musl"

WORKDIR /source
COPY . .

# Cargo goes by times of change, and the cached target directory may be younger than a checkout
# with other contents; so all that was copied counts as changed. Cargo's own lock lies outside of
# the caches, hence those of the mounts.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/source/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
    && target="$(uname -m)-unknown-linux-musl" \
    && cargo build --locked --profile image --package session-manager --target "$target" \
    && mkdir -p /image/data \
    && cp "target/$target/image/session-manager" /image/

FROM scratch

LABEL org.opencontainers.image.title="Session Manager" \
    org.opencontainers.image.description="Sessions of booking flows, logins, connections and viewing slots" \
    org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/session-manager /session-manager
COPY --from=build --chown=65532:65532 /image/data /data

# The admin port stays on the loopback interface, where HEALTHCHECK asks: who reaches it can swap the
# rules. ADMIN_ADDRESS=0.0.0.0 opens it where something else guards it.
ENV BIND_ADDRESS=0.0.0.0 \
    DATA_DIR=/data \
    LOG_FORMAT=json \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

# By number, as Kubernetes asks for to know that it is not root. Nothing but /data is ever written,
# and not even that with Redis, so the root file system can be read-only.
USER 65532:65532
VOLUME /data
EXPOSE 6027 8027 9027

HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/session-manager", "health"]

ENTRYPOINT ["/session-manager"]
