//! The audience of a listener, and the key that operators need.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use crate::auth::{ApiKey, ApiKeys};
use crate::config::{Config, Scope};
use crate::http::api::audience::Audience;
use crate::http::api::authorization;
use crate::http::api::key::needs_all_topics;
use crate::http::failure::failure;
use crate::http::state::{Api, Of};
use crate::metrics::Metrics;

/// The key of a request: in `X-API-Key`, or as a bearer token, which Prometheus supports.
fn shown<'a>(keys: &'a ApiKeys, headers: &HeaderMap) -> Option<&'a ApiKey> {
    let key = headers.get("x-api-key").map(|value| value.as_bytes());
    let bearer = || authorization::bearer(headers).ok().flatten().map(str::as_bytes);
    keys.find(key.or_else(bearer).unwrap_or_default())
}

/// Guards operators' paths. `/admin/…` always needs a key with the scope `operate`, unless
/// `publish.open` makes everyone an operator. `/metrics` and `/status` need a key if `operator.key`
/// is set.
pub(in crate::http) async fn guard(
    config: Of<Config>,
    api: Of<Api>,
    metrics: Of<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let here = request.extensions().get::<Audience>().is_some_and(|audience| audience.takes_orders());
    let asked = match path {
        // A key with the scope `operate` opens them where no `operator.key` is set and they are
        // closed for that.
        "/metrics" | "/status" => {
            let closed = config.closes_operators_pages() && api.keys.count(Scope::Operate) > 0;
            here && (closed || api.keys.has_operator_key())
        }
        _ => here && path.starts_with("/admin/"),
    };
    if here && matches!(path, "/metrics" | "/status") && config.closes_operators_pages() && !asked {
        metrics.operator_refused.inc();
        let reason = "closed, as clients need tokens here and nothing says how operators get in: set operator.key_file, \
                      operator.listen, or operator.open = true";
        return failure(StatusCode::FORBIDDEN, reason);
    }
    if asked {
        let known = shown(&api.keys, request.headers());
        match known {
            Some(key) if path.starts_with("/admin/") && key.may(Scope::Operate) && !key.has_all_topics() => {
                metrics.operator_refused.inc();
                tracing::debug!(key = %key.name, path, "an operator's request was refused");
                return failure(StatusCode::FORBIDDEN, needs_all_topics(key));
            }
            Some(key) if key.may(Scope::Operate) => {
                if path.starts_with("/admin/") {
                    tracing::info!(key = %key.name, path, "an operator's request");
                }
            }
            _ => {
                let key = known.map(|key| &*key.name);
                metrics.operator_refused.inc();
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
