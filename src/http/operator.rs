//! Which door a request came in by, and what operators have to show at theirs.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::{Shared, State, authorization, failure, operate};
use crate::auth::ApiKey;
use crate::config::Scope;

/// What a listener serves; among the extensions of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Everything: there is no listener of the operators' own.
    All,
    /// Clients and publishers.
    Public,
    /// Operators, and backends, which may come by either.
    Operators,
}

impl Door {
    /// Whether operators' commands are carried out here.
    pub(super) fn takes_orders(self) -> bool {
        self != Self::Public
    }
}

/// The key that a request shows: in `X-API-Key`, or as a bearer's, which is what Prometheus can do.
fn shown<'a>(state: &'a State, headers: &HeaderMap) -> Option<&'a ApiKey> {
    let key = headers.get("x-api-key").map(|value| value.as_bytes());
    let bearer = || authorization::bearer(headers).ok().flatten().map(str::as_bytes);
    state.keys.find(key.or_else(bearer).unwrap_or_default())
}

/// Lets operators through to what only they may read or do: `/admin/…` for a key that operates, always (but where
/// `publish.open` makes an operator of anyone); `/metrics` and `/status` for one where `operator.key` is set.
pub(super) async fn guard(state: Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let here = request.extensions().get::<Door>().is_some_and(|door| door.takes_orders());
    let asked = match path {
        // A key with the scope `operate` opens them where they are closed for lack of `operator.key`.
        "/metrics" | "/status" => {
            let closed = state.config.closes_operators_pages() && state.keys.count(Scope::Operate) > 0;
            here && (closed || state.keys.has_operator_key())
        }
        _ => here && path.starts_with("/admin/"),
    };
    if here && matches!(path, "/metrics" | "/status") && state.config.closes_operators_pages() && !asked {
        state.metrics.operator_refused.inc();
        let reason = "closed, as clients need tokens here and nothing says how operators get in: set operator.key_file, \
                      operator.listen, or operator.open = true";
        return failure(StatusCode::FORBIDDEN, reason);
    }
    if asked {
        let known = shown(&state, request.headers());
        match known {
            Some(key) if path.starts_with("/admin/") && key.may(Scope::Operate) && !key.has_all_topics() => {
                state.metrics.operator_refused.inc();
                tracing::debug!(key = %key.name, path, "an operator's request was refused");
                return failure(StatusCode::FORBIDDEN, operate::needs_all_topics(key));
            }
            Some(key) if key.may(Scope::Operate) => {
                if path.starts_with("/admin/") {
                    tracing::info!(key = %key.name, path, "an operator's request");
                }
            }
            _ => {
                let key = known.map(|key| &*key.name);
                state.metrics.operator_refused.inc();
                tracing::debug!(key, path, "an operator's request was refused");
                let status = if known.is_some() { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
                let reason =
                    "X-API-Key, or Authorization: Bearer, must have operator.key, or a key with the scope `operate`";
                return failure(status, reason);
            }
        }
    }
    next.run(request).await
}
