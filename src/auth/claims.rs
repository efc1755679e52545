//! What tokens say.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Grant, Identity, TokenError, TopicRules};
use crate::limits::SERVER_SUBSCRIPTIONS_MAX;
use crate::name::TopicName;

/// Claims of connection and subscription tokens, named as Centrifugo names them, and `topics`.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    exp: Option<u64>,
    /// What may be subscribed to.
    #[serde(default)]
    topics: Option<Vec<String>>,
    /// What the server subscribes the session to.
    #[serde(default)]
    channels: Vec<String>,
    /// The same, with options that are passed over here.
    #[serde(default)]
    subs: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
    /// The one topic of a subscription token.
    #[serde(default)]
    channel: Option<String>,
    /// Shown to others in presence, join and leave.
    #[serde(default)]
    info: Option<Box<RawValue>>,
    #[serde(default)]
    b64info: Option<String>,
}

impl Claims {
    fn info(&self) -> Result<Bytes, TokenError> {
        match (&self.info, &self.b64info) {
            (Some(info), _) => Ok(Bytes::copy_from_slice(info.get().as_bytes())),
            (None, Some(encoded)) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(encoded)
                    .map_err(|_| TokenError::Invalid("b64info is not base64".into()))?;
                serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                    .map_err(|_| TokenError::Invalid("b64info is not JSON".into()))?;
                Ok(Bytes::from(bytes))
            }
            (None, None) => Ok(Bytes::new()),
        }
    }

    /// As a connection token.
    pub(super) fn identity(self, default_topics: &TopicRules) -> Result<Identity, TokenError> {
        if self.channel.is_some() {
            return Err(TokenError::Invalid("it is a subscription token (it has a `channel`)".into()));
        }
        let info = self.info()?;
        let names = self.channels.iter().chain(self.subs.keys());
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
        let topics = self.topics.map_or_else(|| default_topics.clone(), TopicRules::new);
        Ok(Identity {
            user: self.sub,
            expires_s: self.exp,
            topics,
            info,
            subscribed,
            asked: Arc::default(),
            seat: None,
        })
    }

    /// As a subscription token of `user` for `topic`.
    pub(super) fn grant(self, user: &str, topic: &TopicName) -> Result<Grant, TokenError> {
        if self.channel.as_deref() != Some(topic.as_str()) {
            return Err(TokenError::Invalid("it is not for this topic (`channel`)".into()));
        }
        if self.sub != user {
            return Err(TokenError::Invalid("it is not for this user (`sub`)".into()));
        }
        Ok(Grant { expires_s: self.exp, info: self.info()? })
    }
}
