//! Claims of tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{Grant, Identity, TokenError, TopicRules};
use crate::limits::SERVER_SUBSCRIPTIONS_MAX;
use crate::name::{TopicName, no_rule};

/// Tolerated difference between clocks, in s. A token is accepted until this time after its `exp`,
/// and a session or subscription that it began ends then.
const LEEWAY_S: u64 = 5;

/// The same for times with a fraction.
#[allow(clippy::cast_precision_loss, reason = "it is 5")]
const LEEWAY: f64 = LEEWAY_S as f64;

/// Latest time that a claim may name: the last second of the year 9999, Unix time. Times in ms are
/// beyond it.
const DATE_MAX_S: f64 = 253_402_300_799.0;

/// Required form of `topics` and `channels`.
const LIST: &str = "a list of texts";

/// `aud`: one or several; one match is enough.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Claims of connection and subscription tokens, named as Centrifugo names them, and `topics`.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default, deserialize_with = "as_written")]
    sub: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "as_written")]
    iss: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "as_written")]
    aud: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "as_written")]
    exp: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "as_written")]
    nbf: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "as_written")]
    iat: Option<Box<RawValue>>,
    /// Topics that may be subscribed to: a list of texts.
    #[serde(default)]
    topics: Option<Box<RawValue>>,
    /// Topics that the server subscribes the session to: a list of texts.
    #[serde(default)]
    channels: Option<Box<RawValue>>,
    /// The same topics, as an object by name. Its options are ignored.
    #[serde(default)]
    subs: Option<Box<RawValue>>,
    /// The one topic of a subscription token: a text.
    #[serde(default)]
    channel: Option<Box<RawValue>>,
    /// Shown to others in presence, join and leave.
    #[serde(default)]
    info: Option<Box<RawValue>>,
    /// A text.
    #[serde(default)]
    b64info: Option<Box<RawValue>>,
}

/// A claim that, if present, must be of one kind.
fn claim<T: serde::de::DeserializeOwned>(
    name: &str,
    kind: &str,
    claim: Option<&RawValue>,
) -> Result<Option<T>, TokenError> {
    let Some(claim) = claim else { return Ok(None) };
    let read = serde_json::from_str(claim.get()).map(Some);
    read.map_err(|_| invalid(format!("{name} is {}, it must be {kind}", shown(claim))))
}

/// The part of a claim that an error shows.
fn shown(claim: &RawValue) -> String {
    claim.get().chars().take(24).collect()
}

/// For these claims, `null` is a value of the wrong kind, not a missing claim.
fn as_written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Whether a session or subscription whose token expires at `expires_s` (Unix s; `None` is never)
/// has ended at `now_s`. It has never ended while the token itself is still accepted.
pub fn has_ended(expires_s: Option<u64>, now_s: u64) -> bool {
    expires_s.is_some_and(|exp| exp.saturating_add(LEEWAY_S) <= now_s)
}

/// Whether an accepted token has expired since.
pub(super) fn has_expired(identity: &Identity) -> bool {
    has_ended(identity.expires_s, crate::clock::unix_ms() / 1_000)
}

fn invalid(reason: impl Into<String>) -> TokenError {
    TokenError::Invalid(reason.into())
}

/// A time, in Unix seconds (NumericDate, RFC 7519 §2: it may have a fraction).
fn date(name: &str, claim: Option<&RawValue>) -> Result<Option<f64>, TokenError> {
    let Some(claim) = claim else { return Ok(None) };
    let shown = shown(claim);
    let Ok(seconds) = serde_json::from_str::<f64>(claim.get()) else {
        return Err(invalid(format!("{name} is {shown}, it must be a number: Unix time in seconds")));
    };
    if seconds < 0.0 {
        return Err(invalid(format!("{name} is {shown}, which is before 1970")));
    }
    if seconds > DATE_MAX_S {
        let hint = "which is past the year 9999; it looks like milliseconds, write Unix time in seconds";
        return Err(invalid(format!("{name} is {shown}, {hint}")));
    }
    Ok(Some(seconds))
}

/// A text (StringOrURI, RFC 7519 §2).
fn text(name: &str, claim: Option<&RawValue>) -> Result<Option<String>, TokenError> {
    let Some(claim) = claim else { return Ok(None) };
    match serde_json::from_str::<String>(claim.get()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(invalid(format!("{name} must be one text, not a list or anything else (RFC 7519 §4.1)"))),
    }
}

/// The claims of a connection token with a good signature at a time (Unix s). For fuzzing alone.
///
/// # Errors
/// Why it is not accepted.
pub fn read_claims(
    claims: &[u8],
    issuer: Option<&str>,
    audience: Option<&str>,
    now_s: f64,
) -> Result<Identity, TokenError> {
    let claims = Claims::read(claims)?;
    claims.check(issuer, audience, now_s)?;
    claims.identity(&TopicRules::default())
}

impl Claims {
    /// Reads the claims of a token.
    pub(super) fn read(claims: &[u8]) -> Result<Self, TokenError> {
        serde_json::from_slice(claims).map_err(|error| {
            let text = error.to_string();
            let twice = text.strip_prefix("duplicate field `").and_then(|rest| rest.split('`').next());
            match twice {
                Some(name) => invalid(format!("its claim {name} is there twice")),
                None => invalid("its claims are not a JSON object"),
            }
        })
    }

    /// Checks the token's audience, issuer and times. `now_s` is Unix time, in s.
    pub(super) fn check(&self, issuer: Option<&str>, audience: Option<&str>, now_s: f64) -> Result<(), TokenError> {
        let issued_by = text("iss", self.iss.as_deref())?;
        if let Some(issuer) = issuer {
            match issued_by {
                None => return Err(invalid("iss is missing, and access.issuer asks for it")),
                Some(iss) if iss != issuer => return Err(invalid("iss is not access.issuer: another issued it")),
                Some(_) => {}
            }
        }
        if let Some(audience) = audience {
            let Some(aud) = &self.aud else { return Err(invalid("aud is missing, and access.audience asks for it")) };
            let named = match serde_json::from_str::<Audience>(aud.get()) {
                Ok(Audience::One(one)) => one == audience,
                Ok(Audience::Several(several)) => several.iter().any(|one| one == audience),
                Err(_) => return Err(invalid("aud must be a text or a list of texts")),
            };
            if !named {
                return Err(invalid("aud is not access.audience: it is for another service"));
            }
        }
        date("iat", self.iat.as_deref())?;
        if date("nbf", self.nbf.as_deref())?.is_some_and(|nbf| nbf > now_s + LEEWAY) {
            return Err(invalid("it is not valid yet (nbf)"));
        }
        match date("exp", self.exp.as_deref())? {
            None => Err(invalid("exp is missing")),
            Some(exp) if exp + LEEWAY <= now_s => Err(TokenError::Expired),
            Some(_) => Ok(()),
        }
    }

    /// `exp` in whole Unix seconds, rounded up, so that a session lasts at least as long as its
    /// token.
    fn expires_s(&self) -> Result<Option<u64>, TokenError> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`date` bounds it")]
        let whole = |seconds: f64| seconds.ceil() as u64;
        Ok(date("exp", self.exp.as_deref())?.map(whole))
    }

    fn user(&self) -> Result<String, TokenError> {
        Ok(text("sub", self.sub.as_deref())?.unwrap_or_default())
    }

    fn info(&self) -> Result<Bytes, TokenError> {
        let encoded = claim::<String>("b64info", "a text", self.b64info.as_deref())?;
        match (&self.info, &encoded) {
            (Some(info), _) => Ok(Bytes::copy_from_slice(info.get().as_bytes())),
            (None, Some(encoded)) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(encoded)
                    .map_err(|_| TokenError::Invalid("b64info is not base64".into()))?;
                serde_json::from_slice::<IgnoredAny>(&bytes)
                    .map_err(|_| TokenError::Invalid("b64info is not JSON".into()))?;
                Ok(Bytes::from(bytes))
            }
            (None, None) => Ok(Bytes::new()),
        }
    }

    /// The identity in a connection token.
    pub(super) fn identity(self, default_topics: &TopicRules) -> Result<Identity, TokenError> {
        if self.channel.is_some() {
            return Err(TokenError::Invalid("it is a subscription token (it has a `channel`)".into()));
        }
        let (info, user, expires_s) = (self.info()?, self.user()?, self.expires_s()?);
        let channels = claim::<Vec<String>>("channels", LIST, self.channels.as_deref())?.unwrap_or_default();
        let subs = claim::<BTreeMap<String, IgnoredAny>>("subs", "an object by topic", self.subs.as_deref())?;
        let names = channels.iter().chain(subs.iter().flat_map(BTreeMap::keys));
        let subscribed: Result<Vec<TopicName>, _> = names.map(|name| TopicName::new(name)).collect();
        let mut subscribed = subscribed.map_err(|e| TokenError::Invalid(format!("channels: {e}")))?;
        subscribed.sort_unstable();
        subscribed.dedup();
        if subscribed.len() > SERVER_SUBSCRIPTIONS_MAX {
            return Err(TokenError::Invalid(format!(
                "it names {} channels, the most is {SERVER_SUBSCRIPTIONS_MAX}",
                subscribed.len()
            )));
        }
        let topics = claim::<Vec<String>>("topics", LIST, self.topics.as_deref())?;
        if let Some((at, fault)) = topics.iter().flatten().enumerate().find_map(|(at, rule)| Some((at, no_rule(rule)?)))
        {
            return Err(invalid(format!("topics[{at}] {fault}")));
        }
        let topics = topics.map_or_else(|| default_topics.clone(), TopicRules::new);
        Ok(Identity { user, expires_s, topics, info, subscribed, asked: Arc::default(), seat: None })
    }

    /// The grant in a subscription token of `user` for `topic`.
    pub(super) fn grant(self, user: &str, topic: &TopicName) -> Result<Grant, TokenError> {
        let channel = claim::<String>("channel", "a text", self.channel.as_deref())?;
        if channel.as_deref() != Some(topic.as_str()) {
            return Err(TokenError::Invalid("it is not for this topic (`channel`)".into()));
        }
        if self.user()? != user {
            return Err(TokenError::Invalid("it is not for this user (`sub`)".into()));
        }
        Ok(Grant { user: user.to_owned(), expires_s: self.expires_s()?, info: self.info()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_S: f64 = 1_764_000_000.0;

    fn check(claims: &str) -> Result<(), TokenError> {
        serde_json::from_str::<Claims>(claims).unwrap().check(Some("me"), None, NOW_S)
    }

    #[test]
    fn times_may_have_a_fraction_and_implausible_ones_are_refused_by_name() {
        for exp in ["1764000000.5", "1764000001", "1.764e9", "253402300799", "1763999996"] {
            assert_eq!(check(&format!(r#"{{"iss":"me","exp":{exp}}}"#)), Ok(()), "{exp}");
        }
        for (claims, shown) in [
            (r#""exp":1764000000000"#, "exp is 1764000000000, which is past the year 9999; it looks like milliseconds"),
            (r#""exp":18446744073709551590"#, "past the year 9999"),
            (r#""exp":18446744073709551616"#, "past the year 9999"),
            (r#""exp":1e300"#, "past the year 9999"),
            (r#""exp":1e400"#, "exp is 1e400, it must be a number"),
            (r#""exp":-1"#, "exp is -1, which is before 1970"),
            (r#""exp":"1764000001""#, "exp is \"1764000001\", it must be a number"),
            (r#""exp":null"#, "exp is null"),
            (r#""nbf":0"#, "exp is missing"),
            (r#""exp":1764000001,"nbf":1764000000000"#, "nbf is 1764000000000"),
            (r#""exp":1764000001,"nbf":1764000006"#, "not valid yet"),
            (r#""exp":1764000001,"iat":1764000000000"#, "iat is 1764000000000"),
            (r#""exp":1764000001,"iat":"now""#, "iat is \"now\""),
        ] {
            let error = check(&format!(r#"{{"iss":"me",{claims}}}"#)).unwrap_err().to_string();
            assert!(error.contains(shown), "{error}");
        }
        assert_eq!(check(r#"{"iss":"me","exp":1763999994.5}"#), Err(TokenError::Expired));
    }

    #[test]
    fn an_issuer_is_one_text() {
        for iss in [r#"["me"]"#, r#"["me","you"]"#, "1", "null", "{}"] {
            for issuer in [Some("me"), None] {
                let claims: Claims = serde_json::from_str(&format!(r#"{{"iss":{iss},"exp":1764000001}}"#)).unwrap();
                let error = claims.check(issuer, None, NOW_S).unwrap_err().to_string();
                assert!(error.contains("iss must be one text"), "{error}");
            }
        }
    }

    proptest! {
        /// The same rule for both: an accepted token begins a session or subscription, which ends
        /// within a second of the token's end.
        #[test]
        fn what_is_accepted_has_not_ended(exp in NOW_S - 20.0..NOW_S + 20.0, now_s in NOW_S - 20.0..NOW_S + 20.0) {
            let claims: Claims = serde_json::from_str(&format!(r#"{{"exp":{exp}}}"#)).unwrap();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let ended = |at: f64| has_ended(claims.expires_s().unwrap(), at as u64);
            let accepted = claims.check(None, None, now_s).is_ok();
            prop_assert!(!(accepted && ended(now_s)));
            prop_assert!(accepted || ended(now_s + 2.0));
        }

        #[test]
        fn no_time_lasts_beyond_the_year_9999(exp in any::<f64>()) {
            let claims: Claims = serde_json::from_str(&format!(r#"{{"exp":{}}}"#, serde_json::json!(exp))).unwrap();
            if claims.check(None, None, NOW_S).is_ok() {
                prop_assert!(claims.expires_s().unwrap().unwrap() <= 253_402_300_799);
            }
        }
    }
}
