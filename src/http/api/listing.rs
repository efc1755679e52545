//! `GET /api/topics`: the names of published topics that the client may read.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::auth::Identity;
use crate::http::AddressRate;
use crate::http::accept::proxies;
use crate::http::api::authorization;
use crate::http::api::authorization::{may_read, reader};
use crate::http::api::members::shown;
use crate::http::api::query::Query;
use crate::http::api::visible::{Visible, within};
use crate::http::failure::{failure, failure_for};
use crate::http::state::{Shared, State};
use crate::limits::{LISTED_TOPICS_LEAST, LISTED_TOPICS_MAX};
use crate::name::TopicName;
use crate::topic::{NameRange, Section};

/// Names per answer if the request gives no limit.
const LIMIT: usize = 1_000;

/// Names read from the index at once. Publishing a new topic waits for at most one such page.
const PAGE: usize = 256;

/// Names and ranges visited until other tasks get a turn.
const TURN: usize = 256;

/// The parameters of a listing.
struct Asked {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl Asked {
    /// Reads the query. Unknown parameters are ignored, because some caches and clients add their
    /// own.
    fn read(uri: &Uri) -> Result<Self, String> {
        let mut query = Query::read(uri.query(), &["prefix", "after", "limit"], false)?;
        let limit = match query.take("limit").map(|text| (text.parse::<usize>(), text)) {
            None => LIMIT,
            Some((Ok(limit @ 1..), _)) => limit.min(LISTED_TOPICS_MAX),
            Some((_, text)) => {
                let text = shown(&text);
                return Err(format!("`limit` must be a whole number from 1 to {LISTED_TOPICS_MAX}, not `{text}`"));
            }
        };
        Ok(Self { prefix: query.take("prefix").unwrap_or_default(), after: query.take("after"), limit })
    }
}

/// A charge made before the work, for the most that it can cost. Its drop gives the unused part
/// back, also if the client leaves before it is answered.
struct Charge<'a> {
    listings: &'a AddressRate,
    address: IpAddr,
    most: usize,
    used: usize,
}

impl<'a> Charge<'a> {
    /// The request itself was charged on arrival.
    fn new(listings: &'a AddressRate, address: IpAddr, ranges: usize, limit: usize) -> Self {
        let most = (ranges + limit).max(LISTED_TOPICS_LEAST);
        listings.charge(address, most - LISTED_TOPICS_LEAST);
        Self { listings, address, most, used: ranges }
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        let unused = self.most.saturating_sub(self.used.max(LISTED_TOPICS_LEAST));
        self.listings.give_back(self.address, unused);
    }
}

/// Refuses a client whose address lists too much.
fn too_fast(state: &State, address: IpAddr, wait: Duration) -> Response {
    state.metrics.listings_refused.inc();
    tracing::debug!(client = tracing::field::display(address), "a listing was refused");
    let reason = "this address lists too many topics (limits.listed_topics_per_second); see Retry-After";
    failure_for(wait, StatusCode::TOO_MANY_REQUESTS, reason)
}

/// `GET /api/topics?prefix=…&after=…&limit=…`
pub(in crate::http) async fn topics(
    state: Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let address = proxies::client(peer.ip(), &headers, &state.config.server);
    if let Err(wait) = state.clients.listings.take(address, LISTED_TOPICS_LEAST) {
        return too_fast(&state, address, wait);
    }
    let reader = match reader(&state, Some(address), &headers).await {
        Ok(reader) => reader,
        Err(refused) => return *refused,
    };
    if reader.is_none() && !state.config.access.anonymous {
        return authorization::no_token();
    }
    let Asked { prefix, after, limit } = match Asked::read(&uri) {
        Ok(asked) => asked,
        Err(reason) => return failure(StatusCode::BAD_REQUEST, reason),
    };
    let asked = NameRange::prefix(&prefix);
    let asked = match &after {
        Some(after) => asked.after(after),
        None => Some(asked),
    };
    let visible = asked.map(|asked| within(&state.config, reader.as_ref(), &asked)).unwrap_or_default();
    let ranges: usize = visible.iter().map(|visible| visible.ranges.iter().count()).sum();
    let mut charge = Charge::new(&state.clients.listings, address, ranges, limit);
    let mut listed = Listed { text: String::from("{\"topics\":["), count: 0, last: None };
    let more = listed.fill(&state, reader.as_ref(), visible, limit, &mut charge).await;
    drop(charge);
    listed.text.push_str("],\"next\":");
    match listed.last.filter(|_| more) {
        Some(last) => listed.text.push_str(&quoted(&last)),
        None => listed.text.push_str("null"),
    }
    listed.text.push('}');
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], listed.text).into_response()
}

/// The remaining names of one section, in order.
struct Names<'a> {
    section: Section<'a>,
    ranges: std::vec::IntoIter<NameRange>,
    /// The rest of the current range.
    range: Option<NameRange>,
    page: VecDeque<TopicName>,
}

/// The work of one request since other tasks had a turn.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    async fn count(&mut self, looked: usize) {
        self.0 += looked;
        if self.0 >= TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

impl<'a> Names<'a> {
    fn new(visible: Visible<'a>) -> Self {
        let ranges: Vec<NameRange> = visible.ranges.iter().cloned().collect();
        Self { section: visible.section, ranges: ranges.into_iter(), range: None, page: VecDeque::new() }
    }

    /// The next name, without consuming it; at most `most` names are of use.
    async fn peek(&mut self, state: &State, most: usize, turn: &mut Turn) -> Option<&TopicName> {
        while self.page.is_empty() {
            let range = self.range.take().or_else(|| self.ranges.next())?;
            let max = most.min(PAGE);
            let page = state.topics.names(self.section, &range, max);
            self.range = page.last().filter(|_| page.len() == max).and_then(|last| range.after(last.as_str()));
            turn.count(page.len() + 1).await;
            self.page = page.into();
        }
        self.page.front()
    }
}

/// An answer being made.
struct Listed {
    text: String,
    count: usize,
    last: Option<String>,
}

impl Listed {
    /// Adds up to `limit` names and yields to other tasks after each page. Returns whether there
    /// are more.
    async fn fill(
        &mut self,
        state: &State,
        reader: Option<&Identity>,
        visible: Vec<Visible<'_>>,
        limit: usize,
        charge: &mut Charge<'_>,
    ) -> bool {
        let mut sections: Vec<Names<'_>> = visible.into_iter().map(Names::new).collect();
        let mut turn = Turn::default();
        loop {
            let most = limit - self.count + 1;
            let mut next: Option<TopicName> = None;
            for section in &mut sections {
                let name = section.peek(state, most, &mut turn).await;
                if let Some(name) = name.filter(|name| next.as_ref().is_none_or(|next| *name < next)) {
                    next = Some(name.clone());
                }
            }
            let Some(name) = next else { return false };
            // A name listed for its users may also be granted by the token: it is listed once.
            for section in &mut sections {
                section.page.pop_front_if(|first| *first == name);
            }
            // The sections imply this already, but the rule itself decides.
            if may_read(state, reader, &name).is_err() {
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
            charge.used += 1;
            self.last = Some(name.as_str().to_owned());
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listing_did_not_use_is_given_back_however_it_ends() {
        let address = [127, 0, 0, 1].into();
        for (used, has_to_wait) in [(0, false), (900, true)] {
            let listings = AddressRate::new(10, 20);
            listings.take(address, LISTED_TOPICS_LEAST).unwrap();
            let mut charge = Charge::new(&listings, address, 3, 1_000);
            assert!(listings.take(address, 1).is_err(), "it is charged before the work");
            charge.used += used;
            // As if the client left: the future is dropped and nothing else happens.
            drop(charge);
            assert_eq!(listings.take(address, 1).is_err(), has_to_wait, "{used} names were told");
        }
    }
}
