# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Dependencies first: they change less often than the sources, and so stay cached. The benches are not built, but Cargo.toml
# names them: without their files cargo refuses it.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
COPY benches benches
RUN mkdir -p src loadtest/src \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs && echo 'fn main() {}' > loadtest/src/main.rs \
 && cargo build --release --locked --package nexus-push \
 && rm -r src loadtest/src
COPY src src
COPY web/embedded web/embedded
COPY loadtest/src loadtest/src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --package nexus-push

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin nexus
# Key sets by https (access.jwks) are checked with the system's certificates, and this image comes without any.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/nexus-push /usr/local/bin/nexus-push
COPY config/production.toml /etc/nexus-push/nexus-push.toml
USER 10001
EXPOSE 8000
# The drain window of the configuration must fit into the time that the orchestrator waits after this signal.
STOPSIGNAL SIGTERM
# For Docker and Compose; Kubernetes has probes of its own. Without curl in the image, bash asks.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["/usr/local/bin/nexus-push"]
CMD ["serve", "--config", "/etc/nexus-push/nexus-push.toml"]
