//! `GET /api/topics`: names of published topics, of which a client is told those that it may read and nothing else.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Query};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::rest::{may_read, reader};
use super::{Shared, State, failure, proxies};
use crate::auth::Identity;
use crate::config::Namespace;
use crate::limits::{LISTED_TOPICS_LEAST, LISTED_TOPICS_MAX};
use crate::topic::{NameRange, NameRanges};

/// Names in an answer where the request does not say.
const LIMIT: usize = 1_000;

/// Names read from the index at once. Publishing a new topic waits no longer than for one such page.
const PAGE: usize = 256;

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

/// Ranges of names that a client may read: what one without a token may subscribe to, what the token says, and what any
/// token gives.
fn readable(state: &State, reader: Option<&Identity>) -> NameRanges {
    let config = &state.config;
    let open = |namespace: &Namespace| {
        (config.access.anonymous && namespace.allow_subscribe_for_anonymous)
            || (reader.is_some() && namespace.allow_subscribe_for_client)
    };
    let of_namespace = |name: &str| NameRange::prefix(&format!("{name}:"));
    let mut ranges: Vec<NameRange> = Vec::new();
    if open(&config.default) {
        let configured = NameRanges::union(config.namespace.keys().map(|name| of_namespace(name)));
        ranges.extend(configured.complement().iter().cloned());
    }
    let namespaces = config.namespace.iter().filter(|(_, namespace)| open(namespace));
    ranges.extend(namespaces.map(|(name, _)| of_namespace(name)));
    if let Some(identity) = reader {
        ranges.extend(identity.topics.rules().map(|rule| match rule.strip_suffix('*') {
            Some(prefix) => NameRange::prefix(prefix),
            None => NameRange::exact(rule),
        }));
    }
    NameRanges::union(ranges)
}

/// Refuses a client whose address lists too much.
fn too_fast(state: &State, address: Option<IpAddr>) -> Option<Response> {
    let wait = address.and_then(|address| state.listings.wait(address))?;
    state.metrics.listings_refused.inc();
    tracing::debug!(client = address.map(tracing::field::display), "a listing was refused");
    let reason = "this address lists too many topics (limits.listed_topics_per_second); see Retry-After";
    let mut response = failure(StatusCode::TOO_MANY_REQUESTS, reason);
    let seconds = HeaderValue::from(wait.as_secs().saturating_add(1));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    Some(response)
}

/// `GET /api/topics?prefix=…&after=…&limit=…`
pub(super) async fn topics(
    state: Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Response {
    let address = proxies::client(peer.ip(), &headers, &state.config.server);
    if let Some(refused) = too_fast(&state, Some(address)) {
        return refused;
    }
    let reader = match reader(&state, Some(address), &headers).await {
        Ok(reader) => reader,
        Err(refused) => {
            state.listings.charge(address, LISTED_TOPICS_LEAST);
            return *refused;
        }
    };
    if reader.is_none() && !state.config.access.anonymous {
        state.listings.charge(address, LISTED_TOPICS_LEAST);
        return failure(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …");
    }
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, LISTED_TOPICS_MAX);
    let asked = NameRange::prefix(&query.prefix);
    let asked = match &query.after {
        Some(after) => asked.after(after),
        None => Some(asked),
    };
    let ranges = asked.map(|asked| readable(&state, reader.as_ref()).within(&asked)).unwrap_or_default();
    let mut listed = Listed { text: String::from("{\"topics\":["), count: 0, last: None };
    let mut looked = 0;
    let more = listed.fill(&state, reader.as_ref(), &ranges, limit, &mut looked).await;
    state.listings.charge(address, looked.max(LISTED_TOPICS_LEAST));
    listed.text.push_str("],\"next\":");
    match listed.last.filter(|_| more) {
        Some(last) => listed.text.push_str(&quoted(&last)),
        None => listed.text.push_str("null"),
    }
    listed.text.push('}');
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], listed.text).into_response()
}

/// An answer under way.
struct Listed {
    text: String,
    count: usize,
    last: Option<String>,
}

impl Listed {
    /// Adds up to `limit` names, giving way to other work after each page. Returns whether there are more.
    async fn fill(
        &mut self,
        state: &State,
        reader: Option<&Identity>,
        ranges: &NameRanges,
        limit: usize,
        looked: &mut usize,
    ) -> bool {
        for range in ranges.iter() {
            let mut rest = Some(range.clone());
            while let Some(range) = rest {
                let page = state.topics.names(&range, PAGE);
                *looked += page.len();
                rest = page.last().filter(|_| page.len() == PAGE).and_then(|last| range.after(last.as_str()));
                for name in &page {
                    // The ranges say it already; what is told rests on the rule itself.
                    if !state.topics.is_known(name) || may_read(state, reader, name).is_err() {
                        continue;
                    }
                    if self.count == limit {
                        return true;
                    }
                    if self.count > 0 {
                        self.text.push(',');
                    }
                    self.text.push_str(&quoted(name.as_str()));
                    self.count += 1;
                    self.last = Some(name.as_str().to_owned());
                }
                tokio::task::yield_now().await;
            }
        }
        false
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
