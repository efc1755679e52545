//! `POST /admin/drain`: sends sessions of this node to other nodes. `operator::guard` has checked
//! the key.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use humantime_serde::re::humantime::{format_duration, parse_duration};
use serde_json::json;

use crate::http::api::key::is_json;
use crate::http::api::query::Query;
use crate::http::failure::failure;
use crate::http::ops::readiness::Readiness;
use crate::http::state::{Api, Of};
use crate::hub::Hub;
use crate::limits::{SHED_WINDOW, SHED_WINDOW_MAX};

/// Largest accepted value of `above`.
const ABOVE_MAX: f64 = 10.0;

/// The query of `POST /admin/drain`.
#[derive(Debug, Default)]
struct Drain {
    /// Share of this node's sessions, above 0 and at most 1.
    share: Option<String>,
    /// `mean`: close the sessions that this node has above the mean of all nodes.
    to: Option<String>,
    /// With `to=mean`: no session is closed unless this node is above the mean by more than this
    /// share; 0 if left out.
    above: Option<String>,
    /// Time over which the sessions are closed.
    window: Option<String>,
}

/// How many sessions to close.
#[derive(Debug, PartialEq)]
enum Much {
    Share(f64),
    /// Down to the mean, if this node is above it by more than this share.
    ToMean {
        above: f64,
    },
}

impl Drain {
    fn read(&self) -> Result<(Much, Duration), String> {
        let above = match &self.above {
            None => 0.0,
            Some(_) if self.to.is_none() => return Err("above goes with to=mean".into()),
            Some(text) => match text.parse::<f64>() {
                Ok(above) if (0.0..=ABOVE_MAX).contains(&above) => above,
                _ => return Err(format!("above={text} is not a number from 0 to {ABOVE_MAX}, such as 0.2")),
            },
        };
        let much = match (&self.share, self.to.as_deref()) {
            (Some(share), None) => match share.parse::<f64>() {
                Ok(share) if share > 0.0 && share <= 1.0 => Much::Share(share),
                _ => return Err(format!("share={share} is not a number above 0 and at most 1, such as 0.2")),
            },
            (None, Some("mean")) => Much::ToMean { above },
            (None, Some(other)) => return Err(format!("to={other} is not known; write to=mean")),
            (Some(_), Some(_)) => return Err("share and to exclude each other; write one of them".into()),
            (None, None) => return Err("how many? Write share=0.2, or to=mean".into()),
        };
        let window = match &self.window {
            None => SHED_WINDOW,
            Some(text) => parse_duration(text)
                .map_err(|error| format!("window={text} is not a time such as 5s or 500ms: {error}"))?,
        };
        if window > SHED_WINDOW_MAX {
            let most = format_duration(SHED_WINDOW_MAX);
            return Err(format!("window={} is longer than {most}", format_duration(window)));
        }
        Ok((much, window))
    }
}

/// Whether a page of another origin may have sent this: it can send neither a key nor this content
/// type without a preflight.
fn may_be_foreign(headers: &HeaderMap) -> bool {
    let shown = headers.contains_key("x-api-key") || headers.contains_key(header::AUTHORIZATION);
    !shown && !is_json(headers)
}

/// `POST /admin/drain?share=0.2` or `?to=mean&above=0.2`, with `&window=5s`: closes some of this
/// node's sessions in waves, with the messages of a shutdown, so that they go to other nodes. The
/// node stays ready: a balancer that counts sessions sends them to nodes that have fewer.
pub(in crate::http) async fn drain(
    readiness: Of<Readiness>,
    hub: Of<Hub>,
    api: Of<Api>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    // The guard of `/admin/…` has seen an operator's key, or no keys are configured.
    if may_be_foreign(&headers) {
        let message = "without a key, Content-Type must be application/json";
        return failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    let query = Query::read(uri.query(), &["share", "to", "above", "window"], true);
    let drain = query.map(|mut query| Drain {
        share: query.take("share"),
        to: query.take("to"),
        above: query.take("above"),
        window: query.take("window"),
    });
    let (much, window) = match drain.and_then(|drain| drain.read()) {
        Ok(read) => read,
        Err(message) => return failure(StatusCode::BAD_REQUEST, message),
    };
    if readiness.is_draining() {
        let message = "this server is shutting down: all of its sessions are being closed";
        return failure(StatusCode::SERVICE_UNAVAILABLE, message);
    }
    let settling = hub.settling();
    if matches!(much, Much::ToMean { .. }) && hub.shedding() == 0 && !settling.is_zero() {
        let message = format!(
            "to=mean: sessions closed by an earlier request are still reconnecting, so the other nodes' counts are old; ask again in {} s",
            settling.as_secs() + 1
        );
        return failure(StatusCode::CONFLICT, message);
    }
    let sessions = hub.sessions();
    let mean = api.cluster.nodes.mean_sessions(sessions);
    let count = match (&much, mean) {
        (Much::Share(share), _) => share_of(*share, sessions),
        (Much::ToMean { above }, Some(mean)) => above_mean(sessions, mean, *above),
        (Much::ToMean { .. }, None) => {
            let message = "to=mean: no other ready node was heard of within 5 s (nodes report through Redis, every \
                           ops.interval); write share=…";
            return failure(StatusCode::CONFLICT, message);
        }
    };
    if let Err(left) = hub.shed(count, window) {
        let message = format!("{left} sessions of an earlier request are still to be closed; wait until they are");
        return failure(StatusCode::CONFLICT, message);
    }
    tracing::info!(sessions, count, ?window, "closing sessions so that they go to other nodes");
    let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    let result = json!({"sessions": sessions, "shedding": count, "mean": mean, "window_ms": window_ms});
    axum::Json(json!({ "result": result })).into_response()
}

/// The number of sessions above the mean, if it is more than this share of the mean.
#[allow(clippy::cast_precision_loss, reason = "sessions of one process")]
fn above_mean(sessions: usize, mean: usize, above: f64) -> usize {
    let more = sessions.saturating_sub(mean);
    if more as f64 > mean as f64 * above { more } else { 0 }
}

/// Rounded, but at least one.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and the sessions of one process"
)]
fn share_of(share: f64, sessions: usize) -> usize {
    ((share * sessions as f64).round() as usize).clamp(usize::from(sessions > 0), sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(share: Option<&str>, to: Option<&str>, window: Option<&str>) -> Result<(Much, Duration), String> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Drain { share: own(share), to: own(to), above: None, window: own(window) }.read()
    }

    #[test]
    fn how_many_and_how_fast() {
        assert_eq!(read(Some("0.2"), None, None), Ok((Much::Share(0.2), SHED_WINDOW)));
        assert_eq!(read(Some("1"), None, Some("0s")), Ok((Much::Share(1.0), Duration::ZERO)));
        assert_eq!(
            read(None, Some("mean"), Some("1m 30s")),
            Ok((Much::ToMean { above: 0.0 }, Duration::from_secs(90)))
        );
        for (share, to, window, why) in [
            (None, None, None, "how many?"),
            (Some("0.2"), Some("mean"), None, "exclude each other"),
            (Some("0"), None, None, "share=0 is not"),
            (Some("1.01"), None, None, "share=1.01 is not"),
            (Some("-0.5"), None, None, "share=-0.5 is not"),
            (Some("NaN"), None, None, "share=NaN is not"),
            (Some("20%"), None, None, "share=20% is not"),
            (None, Some("zero"), None, "to=zero is not known"),
            (Some("0.2"), None, Some("soon"), "window=soon is not a time"),
            (Some("0.2"), None, Some("11m"), "window=11m is longer than 10m"),
        ] {
            let told = read(share, to, window).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_little_above_the_mean_may_be_tolerated() {
        let read = |to: Option<&str>, above: &str| {
            let share = to.is_none().then(|| "0.2".to_owned());
            Drain { share, to: to.map(str::to_owned), above: Some(above.into()), window: None }.read().map(|r| r.0)
        };
        assert_eq!(read(Some("mean"), "0.25"), Ok(Much::ToMean { above: 0.25 }));
        assert!(read(Some("mean"), "-1").unwrap_err().contains("above=-1 is not a number from 0 to 10"));
        assert!(read(Some("mean"), "NaN").unwrap_err().contains("above=NaN"));
        assert!(read(None, "0.2").unwrap_err().contains("above goes with to=mean"));
        for (sessions, above, want) in [(120, 0.2, 0), (121, 0.2, 21), (121, 0.0, 21), (100, 0.0, 0), (80, 0.0, 0)] {
            assert_eq!(above_mean(sessions, 100, above), want, "{sessions} at {above}");
        }
    }

    #[test]
    fn a_share_is_rounded_but_not_to_nobody() {
        for (share, sessions, want) in
            [(0.2, 300, 60), (0.2, 1, 1), (0.001, 10, 1), (0.5, 3, 2), (1.0, 7, 7), (0.3, 0, 0)]
        {
            assert_eq!(share_of(share, sessions), want, "{share} of {sessions}");
        }
    }
}
