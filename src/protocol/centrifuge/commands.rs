//! Reading commands from a client's message.

use bytes::Bytes;
use prost::Message as _;

use super::format::Format;
use super::messages;
use crate::limits::CONNECT_SUBS_MAX;
use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::protocol::members::{Members, Object};
use crate::protocol::{
    BadCommand, Command, CommandId, HistoryQuery, Op, Refusal, Refused, SessionWishes, SubscribeItem, SubscribeOptions,
    SubscribeTerms, lists,
};

/// Takes the first command off a message; `None` at its end. A wrong length takes the whole rest,
/// which is then not a valid command.
pub(in crate::protocol) fn split<'a>(format: Format, message: &mut &'a [u8]) -> Option<&'a [u8]> {
    loop {
        if message.is_empty() {
            return None;
        }
        match format {
            Format::Json => {
                let end = message.iter().position(|b| *b == b'\n').unwrap_or(message.len());
                let (line, rest) = message.split_at(end);
                *message = rest.get(1..).unwrap_or_default();
                if !line.trim_ascii().is_empty() {
                    return Some(line);
                }
            }
            Format::Protobuf => {
                let mut rest = *message;
                let len = prost::decode_length_delimiter(&mut rest).ok().filter(|len| *len <= rest.len());
                let Some(len) = len else { return Some(std::mem::take(message)) };
                let (one, rest) = rest.split_at(len);
                *message = rest;
                return Some(one);
            }
        }
    }
}

impl CommandId {
    fn from_number(id: u32) -> Self {
        Self((id != 0).then(|| compact_str::format_compact!("{id}")))
    }
}

/// An error that no SDK causes. The session is closed, because its client would misread all that
/// follows.
fn fatal(reason: impl Into<String>) -> BadCommand {
    BadCommand { id: CommandId::default(), op: Op::Unknown, refusal: Refusal::new(400, reason), fatal: true }
}

/// Reads one command.
pub(in crate::protocol) fn command(format: Format, bytes: &[u8], topics_max: usize) -> Result<Command, BadCommand> {
    let command = match format {
        Format::Json => {
            let Object(command) =
                serde_json::from_slice::<Object<messages::Command>>(bytes).map_err(|e| fatal(e.to_string()))?;
            command
        }
        Format::Protobuf => {
            match messages::connect_subs(bytes) {
                Some(count) if count > CONNECT_SUBS_MAX => return Err(fatal(messages::too_many_subs())),
                Some(_) => {}
                None => return Err(fatal("not a message, or one with groups, which the protocol does not use")),
            }
            messages::Command::decode(Bytes::copy_from_slice(bytes)).map_err(|e| fatal(e.to_string()))?
        }
    };
    let id = CommandId::from_number(command.id);
    let bad = |op, refusal| BadCommand { id: id.clone(), op, refusal, fatal: false };
    let topic = |op, name: &str| {
        TopicName::new(name).map_err(|e| bad(op, Refusal::new(400, e.to_string()).about(name.to_owned())))
    };
    let messages::Command {
        connect,
        subscribe,
        unsubscribe,
        publish,
        presence,
        presence_stats,
        history,
        ping,
        send,
        rpc,
        refresh,
        sub_refresh,
        ..
    } = command;
    // All commands but a message and a pong need an id for their answer.
    if id.0.is_none() && send.is_none() {
        let any = connect.is_some() || subscribe.is_some() || unsubscribe.is_some() || publish.is_some();
        let other = presence.is_some() || presence_stats.is_some() || history.is_some() || ping.is_some();
        if any || other || rpc.is_some() || refresh.is_some() || sub_refresh.is_some() {
            return Err(fatal("a command without an id"));
        }
        return Ok(Command::Pong);
    }
    if let Some(request) = connect {
        let mut items = Vec::with_capacity(request.subs.len());
        for (channel, mut sub) in request.subs {
            sub.channel = channel;
            items.push(item(sub).map_err(|refusal| bad(Op::Connect, refusal))?);
        }
        let token = Some(request.token).filter(|token| !token.is_empty());
        return Ok(Command::Connect { id, token, items });
    }
    if let Some(request) = subscribe {
        let terms = terms(&request.data).map_err(|refusal| bad(Op::Subscribe, refusal))?;
        let item = item(request).map_err(|refusal| bad(Op::Subscribe, refusal))?;
        return Ok(Command::Subscribe { id, items: vec![item], refused: Refused::default(), terms });
    }
    if let Some(request) = unsubscribe {
        let topics = vec![topic(Op::Unsubscribe, &request.channel)?];
        return Ok(Command::Unsubscribe { id, topics, refused: Refused::default() });
    }
    if let Some(request) = publish {
        let topic = topic(Op::Publish, &request.channel)?;
        return Ok(Command::Publish { id, topic, data: request.data });
    }
    if let Some(request) = presence {
        return Ok(Command::Presence { topic: topic(Op::Presence, &request.channel)?, id, stats: false });
    }
    if let Some(request) = presence_stats {
        return Ok(Command::Presence { topic: topic(Op::PresenceStats, &request.channel)?, id, stats: true });
    }
    if let Some(request) = history {
        let topic = topic(Op::History, &request.channel)?;
        let since = match request.since {
            Some(since) => Some(position(since.offset, &since.epoch).map_err(|refusal| bad(Op::History, refusal))?),
            None => None,
        };
        // A negative limit means all.
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        return Ok(Command::History { id, topic, query: HistoryQuery { limit, since, reverse: request.reverse } });
    }
    if ping.is_some() {
        return Ok(Command::Ping { id });
    }
    if let Some(request) = rpc {
        if let Some(method) = request.method.strip_prefix(OWN_METHODS) {
            return own(&id, method, &request.data, topics_max).map_err(|refusal| bad(Op::Rpc, refusal));
        }
        return Ok(Command::Rpc { id, method: request.method, data: request.data });
    }
    if let Some(request) = refresh {
        return Ok(Command::Refresh { id, token: request.token });
    }
    if let Some(request) = sub_refresh {
        return Ok(Command::SubRefresh { topic: topic(Op::SubRefresh, &request.channel)?, id, token: request.token });
    }
    if send.is_some() {
        return Ok(Command::Send);
    }
    Err(bad(Op::Unknown, Refusal::new(404, "no command that this server knows")))
}

/// The server answers calls with this prefix itself.
const OWN_METHODS: &str = "nexus.";

/// Commands that the protocol does not have.
fn own(id: &CommandId, method: &str, data: &[u8], topics_max: usize) -> Result<Command, Refusal> {
    let members = |names| {
        Members::all(data, names)
            .map_err(|refusal| Refusal::new(refusal.code, format!("{OWN_METHODS}{method}: {}", refusal.reason)))
    };
    match method {
        "rate" => {
            let members = members(&["channels", "max_rate"])?;
            let max_rate = SubscribeTerms::new(members.value("max_rate", "a number")?, 0)?.max_rate;
            let lists::Names { topics, refused } = lists::names("channels", members.raw("channels"), topics_max)?;
            if let Some(first) = refused.first() {
                return Err(first.clone());
            }
            Ok(Command::Rate { id: id.clone(), topics, refused, max_rate })
        }
        "session" => {
            let wishes = SessionWishes::read(&members(SessionWishes::MEMBERS)?)?;
            Ok(Command::Session { id: id.clone(), wishes })
        }
        _ => {
            let method = method.chars().take(40).collect::<String>();
            Err(Refusal::new(404, format!("there is no {OWN_METHODS}{method}; there are rate and session")))
        }
    }
}

fn position(offset: u64, epoch: &str) -> Result<Position, Refusal> {
    let offset =
        Offset::new(offset).ok_or_else(|| Refusal::new(400, format!("offset {offset} is larger than 2^53-1")))?;
    Ok(Position { offset, epoch: Epoch::from_text(epoch) })
}

fn item(request: messages::SubscribeRequest) -> Result<SubscribeItem, Refusal> {
    let topic = TopicName::new(&request.channel)
        .map_err(|e| Refusal::new(400, e.to_string()).about(request.channel.clone()))?;
    let since = match request.recover {
        true => Some(position(request.offset, &request.epoch)?),
        false => None,
    };
    if request.kind != 0 {
        return Err(Refusal::new(400, format!("subscription type {} is not one that this server has", request.kind))
            .about(topic.as_str()));
    }
    if request.tf.is_some() {
        return Err(Refusal::new(400, "there are no tag filters here").about(topic.as_str()));
    }
    let options = SubscribeOptions {
        token: Some(request.token).filter(|token| !token.is_empty()),
        recoverable: request.recoverable || request.recover,
        positioned: request.positioned,
        join_leave: request.join_leave,
        // An unknown kind of delta is not an error: it is not negotiated.
        fossil: request.delta == "fossil",
        reject_unrecovered: request.flag & messages::REJECT_UNRECOVERED != 0,
    };
    Ok(SubscribeItem { topic, since, options: Some(Box::new(options)) })
}

/// Options in a subscription's `data`, beyond those of the protocol.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Data {
    max_rate: Option<f64>,
    history: u32,
}

fn terms(data: &Bytes) -> Result<SubscribeTerms, Refusal> {
    // Other data is not for this server.
    let Ok(Object(data)) = serde_json::from_slice::<Object<Data>>(data) else { return Ok(SubscribeTerms::default()) };
    SubscribeTerms::new(data.max_rate, data.history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands(message: &[u8]) -> Vec<Result<Command, BadCommand>> {
        let mut rest = message;
        std::iter::from_fn(|| split(Format::Json, &mut rest)).map(|one| command(Format::Json, one, 512)).collect()
    }

    #[test]
    fn several_commands_a_message() {
        let all = commands(
            b"{\"id\":1,\"connect\":{\"token\":null,\"name\":\"js\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a:b\",\"recover\":true,\
              \"offset\":7,\"epoch\":\"e\",\"delta\":\"fossil\",\"flag\":1,\"data\":{\"max_rate\":2}}}\n\n{}\n",
        );
        assert_eq!(all.len(), 3);
        assert!(matches!(&all[0], Ok(Command::Connect { token: None, .. })));
        let Ok(Command::Subscribe { items, terms, .. }) = &all[1] else { panic!("{:?}", all[1]) };
        assert_eq!(items[0].since.as_ref().unwrap().offset.get(), 7);
        assert!(items[0].options.as_ref().unwrap().fossil);
        assert_eq!(terms.max_rate, Some(2.0));
        assert_eq!(all[2], Ok(Command::Pong));
    }

    #[test]
    fn the_same_in_protobuf() {
        let connect = messages::Command {
            id: 1,
            connect: Some(messages::ConnectRequest { token: "t".into(), ..Default::default() }),
            ..Default::default()
        };
        let history = messages::Command {
            id: 2,
            history: Some(messages::HistoryRequest {
                channel: "a:b".into(),
                limit: -1,
                since: Some(messages::StreamPosition { offset: 3, epoch: "e".into() }),
                reverse: true,
            }),
            ..Default::default()
        };
        let mut message = connect.encode_length_delimited_to_vec();
        message.extend(history.encode_length_delimited_to_vec());
        message.push(0);
        let mut rest = message.as_slice();
        let all: Vec<_> = std::iter::from_fn(|| split(Format::Protobuf, &mut rest))
            .map(|one| command(Format::Protobuf, one, 512).unwrap())
            .collect();
        assert_eq!(all.len(), 3);
        assert!(matches!(&all[0], Command::Connect { token: Some(token), .. } if token == "t"));
        let Command::History { query, .. } = &all[1] else { panic!("{:?}", all[1]) };
        assert_eq!((query.limit, query.reverse), (usize::MAX, true));
        assert_eq!(all[2], Command::Pong);
    }

    /// Fields that the protocol does not have are skipped. A group is refused before anything after
    /// it is decoded, because only decoding finds its end.
    #[test]
    fn groups_hide_no_positions() {
        let subs = |n: usize| (0..n).map(|n| (n.to_string(), messages::SubscribeRequest::default())).collect();
        let encoded = |n: usize| {
            let connect = messages::ConnectRequest { subs: subs(n), ..Default::default() };
            messages::Command { id: 1, connect: Some(connect), ..Default::default() }.encode_to_vec()
        };
        let read = |bytes: &[u8]| command(Format::Protobuf, bytes, 512);
        assert!(read(&encoded(CONNECT_SUBS_MAX)).is_ok());
        assert!(read(&encoded(CONNECT_SUBS_MAX + 1)).is_err_and(|bad| bad.fatal));
        let group: &[u8] = &[0xa3, 0x01, 0xa4, 0x01];
        let unknown: &[u8] = &[0xa0, 0x01, 0x05];
        assert!(read(&[unknown, &encoded(1)].concat()).is_ok());
        assert!(read(&[group, &encoded(1)].concat()).is_err_and(|bad| bad.fatal));
        let inner = messages::ConnectRequest { subs: subs(CONNECT_SUBS_MAX + 1), ..Default::default() };
        let inner = [group, &inner.encode_to_vec()].concat();
        let mut outer = vec![0x22];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend(inner);
        assert!(read(&outer).is_err_and(|bad| bad.fatal));
    }

    #[test]
    fn what_cannot_be_read_ends_the_session_and_what_is_wrong_is_answered() {
        for message in [
            "{",
            "7",
            "{\"id\":-1}",
            "{\"connect\":{}}",
            "{\"id\":1,\"subscribe\":7}",
            "[1,{}]",
            "{\"id\":1,\"connect\":[\"token\"]}",
            "{\"id\":1,\"connect\":{\"subs\":{\"a\":[\"a\"]}}}",
            "{\"id\":1,\"subscribe\":[\"a\"]}",
            "{\"id\":1,\"history\":{\"channel\":\"a\",\"since\":[1,\"e\"]}}",
            "{\"id\":1,\"ping\":[]}",
        ] {
            assert!(commands(message.as_bytes())[0].as_ref().is_err_and(|bad| bad.fatal), "{message}");
        }
        for message in [
            "{\"id\":1}",
            "{\"id\":1,\"dance\":{}}",
            "{\"id\":1,\"subscribe\":{\"channel\":\"\"}}",
            "{\"id\":1,\"subscribe\":{\"channel\":\"a b\"}}",
            "{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"recover\":true,\"offset\":9007199254740993}}",
            "{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"data\":{\"max_rate\":-1}}}",
        ] {
            assert!(
                commands(message.as_bytes())[0].as_ref().is_err_and(|bad| !bad.fatal && bad.id.0.is_some()),
                "{message}"
            );
        }
    }

    /// A connect with more positions than any token has topics is not read to its end.
    #[test]
    fn positions_of_a_connect_are_bounded() {
        for (count, good) in [(CONNECT_SUBS_MAX, true), (CONNECT_SUBS_MAX + 1, false)] {
            let subs: Vec<String> = (0..count).map(|n| format!("\"a:{n}\":{{}}")).collect();
            let json = format!("{{\"id\":1,\"connect\":{{\"subs\":{{{}}}}}}}", subs.join(","));
            assert_eq!(command(Format::Json, json.as_bytes(), 512).is_ok(), good, "{count}");
            let subs = (0..count).map(|n| (format!("a:{n}"), messages::SubscribeRequest::default())).collect();
            let connect = messages::ConnectRequest { subs, ..Default::default() };
            let connect = messages::Command { id: 1, connect: Some(connect), ..Default::default() };
            assert_eq!(command(Format::Protobuf, &connect.encode_to_vec(), 512).is_ok(), good, "{count}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_commands_or_reasons(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Json, Format::Protobuf] {
                let mut rest = bytes.as_slice();
                let mut left = bytes.len() + 1;
                while let Some(one) = split(format, &mut rest) {
                    let _ = command(format, one, 512);
                    prop_assert!(rest.len() < left, "every command takes something");
                    left = rest.len();
                }
            }
        }
    }
}
