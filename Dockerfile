# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Dependencies first: they change less often than the sources, and so stay cached.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
RUN mkdir -p src loadtest/src benches \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs && echo 'fn main() {}' > loadtest/src/main.rs \
 && echo 'fn main() {}' > benches/hot_path.rs \
 && cargo build --release --locked --package nexus-push \
 && rm -r src loadtest/src benches
COPY src src
COPY web/embedded web/embedded
COPY loadtest/src loadtest/src
COPY benches benches
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --package nexus-push

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin nexus
COPY --from=build /src/target/release/nexus-push /usr/local/bin/nexus-push
COPY config/production.toml /etc/nexus-push/nexus-push.toml
USER 10001
EXPOSE 8000
# The drain window of the configuration must fit into the time that the orchestrator waits after this signal.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/nexus-push"]
CMD ["serve", "--config", "/etc/nexus-push/nexus-push.toml"]
