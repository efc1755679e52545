//! The values of labels: each family of reasons is an enum, and each of its values has one
//! snake_case identifier. Sentences for people stay in logs, answers and close frames.

macro_rules! labels {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $of:literal])* $value:ident = $label:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $of])* $value,)*
        }

        impl $name {
            /// The labels of all values.
            pub const LABELS: &[&str] = &[$($label,)*];

            /// The value as metrics and logs show it.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$value => $label,)* }
            }
        }
    };
}

labels! {
    /// Why an upgrade was refused.
    UpgradeRefusal {
        /// The node has as many sessions as it takes.
        Full = "full",
        /// The node has as many sessions without a token as it takes.
        Tokenless = "tokenless",
        /// The sources are not loaded yet.
        Starting = "starting",
        /// The node is shutting down.
        Draining = "draining",
        /// The page's `Origin` is not allowed.
        Origin = "origin",
        /// The request is not a valid WebSocket handshake.
        Handshake = "handshake",
        /// The token was not accepted.
        Token = "token",
        /// Tokens cannot be checked now.
        TokenUnverified = "token_unverified",
        /// Too many requests wait for a fetch of the key set.
        Keys = "keys",
        /// The address showed too many invalid tokens.
        TokenFailures = "token_failures",
        /// The address has as many sessions as it may have.
        AddressSessions = "address_sessions",
        /// The address opened too many sessions per second.
        AddressRate = "address_rate",
        /// The token's user has as many sessions as it may have.
        UserSessions = "user_sessions",
    }
}

labels! {
    /// Why a request or a command of the publish API was refused.
    PublishRefusal {
        /// No key, or an unknown one.
        Key = "key",
        /// The API has no key.
        Off = "off",
        /// No client certificate.
        Certificate = "certificate",
        /// The Content-Type is not JSON.
        ContentType = "content_type",
        /// The node is shutting down.
        Draining = "draining",
        /// The body is too large.
        BodyTooLarge = "body_too_large",
        /// The body's Content-Encoding is unknown.
        Encoding = "encoding",
        /// The body or a command is malformed.
        Malformed = "malformed",
        /// The key is not for this command.
        Scope = "scope",
        /// The key is not for this topic.
        Topic = "topic",
        /// The method or the namespace is unknown.
        Unknown = "unknown",
        /// The command does not fit the namespace or this server.
        NotAvailable = "not_available",
        /// The batch has too many commands.
        BatchTooLong = "batch_too_long",
        /// The answers of the batch's earlier commands are too long.
        AnswerTooLong = "answer_too_long",
        /// The source did not take the delta.
        Unavailable = "unavailable",
    }
}

labels! {
    /// What an HTTP connection did too slowly.
    HttpTimeout {
        /// A request's body did not arrive.
        Body = "body",
        /// An answer was not taken.
        Answer = "answer",
    }
}

labels! {
    /// What is wrong with a proxy's PROXY header.
    ProxyHeaderFault {
        /// The header is missing.
        Missing = "missing",
        /// It is malformed.
        Malformed = "malformed",
    }
}

labels! {
    /// How a fetch of the key set ended.
    KeySetFetch {
        /// The set was replaced.
        Replaced = "replaced",
        /// The fetch failed; the set stays.
        Failed = "failed",
        /// The fetched set has no usable key; the set stays.
        NoKeys = "no_keys",
    }
}

labels! {
    /// The outcome of a subscribe whose client is ahead of this node.
    SubscribeAhead {
        /// The node read as far as the client's offset.
        CaughtUp = "caught_up",
        /// The node did not get there in time.
        TimedOut = "timed_out",
        /// Too many waited already.
        TooMany = "too_many",
    }
}

labels! {
    /// Why a token was refused.
    TokenRefusal {
        /// The configuration has no key.
        NoKeys = "no_keys",
        /// The token expired.
        Expired = "expired",
        /// The token is not valid.
        Invalid = "invalid",
        /// The key set was never fetched.
        NoKeySet = "no_key_set",
        /// The address showed too many invalid tokens.
        Failures = "failures",
        /// Too many requests wait for a fetch of the key set.
        Keys = "keys",
        /// Too many tokens wait to be verified.
        Waiting = "waiting",
        /// A fault in this server.
        Fault = "fault",
        /// The token's user has as many sessions as it may have.
        UserSessions = "user_sessions",
        /// The configured key set cannot be used.
        KeySet = "key_set",
        /// A configured key cannot be used.
        Key = "key",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::close::CloseReason;

    #[test]
    fn labels_are_identifiers_and_name_one_value_each() {
        let closes: Vec<&str> = CloseReason::ALL.iter().map(|reason| reason.label()).collect();
        for labels in [
            &closes[..],
            UpgradeRefusal::LABELS,
            PublishRefusal::LABELS,
            HttpTimeout::LABELS,
            ProxyHeaderFault::LABELS,
            KeySetFetch::LABELS,
            SubscribeAhead::LABELS,
            TokenRefusal::LABELS,
        ] {
            let mut known = std::collections::BTreeSet::new();
            for label in labels {
                assert!(label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{label:?}");
                assert!(known.insert(*label), "{label:?} twice");
            }
        }
    }
}
