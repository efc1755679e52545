//! `publish`: a delta of a client. The backend publishes it and answers.

use std::borrow::Cow;

use bytes::Bytes;

use super::backend_request;
use crate::config::{Action, PayloadForm};
use crate::hub::event::Ask;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Dialect, Op, Refusal};
use crate::topic::{Payload, PayloadError};

/// Carries the command out.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, data: Bytes) {
    match check(shard, index, &topic, data) {
        Ok(payload) => apply(shard, index, id, topic, payload),
        Err(refusal) => shard.refuse(index, &id, Op::Publish, &refusal),
    }
}

fn check(shard: &mut Shard, index: SessionIndex, topic: &TopicName, data: Bytes) -> Result<Payload, Refusal> {
    let dialect = shard.sessions.get(index).map(|session| session.output.dialect);
    let (form, most) = (shard.config.namespace(topic.namespace()).payload, shard.config.limits.delta_bytes);
    let payload = if form == PayloadForm::Bytes && dialect != Some(Dialect::CentrifugeProtobuf) {
        // The form in which the server sends such a client bytes.
        serde_json::from_slice::<Cow<'_, str>>(&data)
            .map_err(|_| PayloadError::NotBase64)
            .and_then(|text| Payload::from_base64(&text, most, form))
    } else {
        Payload::read(data, most, form)
    };
    let payload = payload.map_err(|error| Refusal::new(400, error.to_string()).about(topic.as_str()))?;
    backend_request::check(shard, index, topic, Action::Publish, payload.bytes().len())?;
    Ok(payload)
}

fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, payload: Payload) {
    backend_request::apply(shard, index, id, topic, Ask::Publish(payload));
}
