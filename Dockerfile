# One image builds the server. The other contains only the server and its libraries: no shell and no package manager.
# The dashboard is part of the binary (web/embedded; `make web-check` compares it with a new build).
#
# Tags name a patch version. To pin the exact image, append its digest to the tag (`@sha256:…`), from:
#   docker buildx imagetools inspect rust:1.95.0-slim-bookworm
# Without Docker, deploy/dockerfile_steps.sh runs each step.
FROM rust:1.95.0-slim-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
# Dependencies first: they change less often than the sources, so they stay cached. The benches are not built, but cargo
# refuses a Cargo.toml that names missing files.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
COPY tests/kit/Cargo.toml tests/kit/
COPY benches benches
RUN mkdir -p src loadtest/src tests/kit/src && touch tests/kit/src/lib.rs \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs && echo 'fn main() {}' > loadtest/src/main.rs \
 && cargo build --release --locked --package nexus-push \
 && rm -r src loadtest/src
COPY src src
COPY web/embedded web/embedded
COPY loadtest/src loadtest/src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --package nexus-push
# The image contains the server, the libraries that it is linked with, the certificate authorities for key sets by https
# (access.jwks), and `sleep`, for Kubernetes' preStop.
RUN install -D -m 755 --strip target/release/nexus-push /image/usr/local/bin/nexus-push \
 && ldd target/release/nexus-push | grep -o '/[^ ]*' | xargs cp --dereference --parents --target-directory /image \
 && install -D -m 755 /bin/sleep /image/bin/sleep \
 && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt
COPY config/production.toml /image/etc/nexus-push/nexus-push.toml

FROM scratch
COPY --from=build /image /
USER 10001:10001
EXPOSE 8000
# After this signal the orchestrator must wait longer than the configured drain window.
STOPSIGNAL SIGTERM
# For Docker and Compose; Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/usr/local/bin/nexus-push", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/nexus-push"]
CMD ["serve", "--config", "/etc/nexus-push/nexus-push.toml"]
