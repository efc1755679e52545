//! The fuzz targets: what each does with its input, and the invariants that it checks. The fuzzer runs them (`make
//! fuzz`); `tests/it/ops/fuzz_corpus.rs` runs them with every input in `corpus`.

mod api;

pub use api::{batch_api, history_api, publish_api};

use nexus_push::auth::{TokenError, Tokens, read_claims};
use nexus_push::config::{self, PayloadForm};
use nexus_push::http::{handshake_bytes, parts};
use nexus_push::protocol::{Command, Dialect, Op};
use nexus_push::source::nats::{Subjects, read_message};
use nexus_push::source::normalize::{Format, Normalizer};
use nexus_push::topic::merge::{self, Node};
use nexus_push::wire::close::CloseReason;
use nexus_push::wire::frame::header_bytes;
use nexus_push::wire::inbox::{self, Compressed, Flow, Inbox};
use nexus_push::wire::inflate::Inflater;
use nexus_push::wire::negotiate::negotiate;
use nexus_push::wire::proxy::{self, Parsed};

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 18] = [
    ("frames", frames),
    ("plain", plain),
    ("centrifuge_json", centrifuge_json),
    ("centrifuge_protobuf", centrifuge_protobuf),
    ("merge_patch", merge_patch),
    ("redis_entries", redis_entries),
    ("nats_messages", nats_messages),
    ("recording", recording),
    ("configuration", configuration),
    ("handshake", handshake),
    ("proxy_header", proxy_header),
    ("topic_lists", topic_lists),
    ("api_bodies", api_bodies),
    ("request_heads", request_heads),
    ("tokens", tokens),
    ("publish_api", publish_api),
    ("history_api", history_api),
    ("batch_api", batch_api),
];

/// Longest message of the frame target.
const MESSAGE_MAX: usize = 4_096;

/// The frame reader: it gives the same messages and the same end however the bytes are split. The first byte selects
/// the split, and whether compression was negotiated.
pub fn frames(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let deflate = how & 1 != 0;
    let piece = usize::from(how >> 1).max(1);
    let whole = read(std::iter::once(bytes), deflate);
    assert_eq!(whole, read(bytes.chunks(piece), deflate), "cut into pieces of {piece}");
    assert_eq!(whole, read(uneven(bytes, how), deflate), "cut into pieces of every length, {how}");
    for message in &whole.0 {
        assert!(message.1.len() <= MESSAGE_MAX, "{} bytes", message.1.len());
    }
}

/// The result: kind and payload of each message, and the end.
type Read = (Vec<(u8, Vec<u8>)>, Option<CloseReason>);

/// Pieces of 1 to 64 bytes, in pseudo-random order.
fn uneven(mut bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed) | 0x100;
    std::iter::from_fn(move || {
        // Any xorshift will do.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (piece, rest) = bytes.split_at_checked(state as usize % 64 + 1).unwrap_or((bytes, &[]));
        bytes = rest;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, deflate: bool) -> Read {
    let mut inflater = Inflater::new(MESSAGE_MAX);
    let mut open: Option<Box<Inbox>> = None;
    let mut messages = Vec::new();
    for part in pieces {
        let compressed = if deflate { Compressed::Inflated(&mut inflater) } else { Compressed::Refused };
        let fed = inbox::feed(&mut open, &mut part.to_vec(), MESSAGE_MAX, compressed, 0, |message| {
            messages.push(match message {
                inbox::Incoming::Text(text) => (1, text.to_vec()),
                inbox::Incoming::Binary(bytes) => (2, bytes.to_vec()),
                inbox::Incoming::Close(bytes) => (8, bytes.to_vec()),
                inbox::Incoming::Ping(bytes) => (9, bytes.to_vec()),
                inbox::Incoming::Pong => (10, Vec::new()),
            });
            Flow::Continue
        });
        if let Err(reason) = fed {
            return (messages, Some(reason));
        }
    }
    (messages, None)
}

/// Commands of `plain`.
pub fn plain(data: &[u8]) {
    commands(Dialect::Plain, data);
}

/// Commands of the Centrifuge protocol in JSON.
pub fn centrifuge_json(data: &[u8]) {
    commands(Dialect::CentrifugeJson, data);
}

/// Commands of the Centrifuge protocol in Protobuf.
pub fn centrifuge_protobuf(data: &[u8]) {
    commands(Dialect::CentrifugeProtobuf, data);
}

/// Every command is read or refused, and each refusal has an answer: one whole frame, with JSON if the dialect is JSON.
fn commands(dialect: Dialect, message: &[u8]) {
    let mut rest = message;
    let mut turns = 0;
    while let Some(one) = dialect.split(&mut rest) {
        turns += 1;
        assert!(turns <= message.len(), "each command takes bytes off the message");
        let Err(bad) = dialect.command(one, 512) else { continue };
        if bad.fatal {
            continue;
        }
        let frame = dialect.refusal(&bad.id, bad.op, &bad.refusal);
        if dialect != Dialect::CentrifugeProtobuf {
            let payload = frame.get(header_bytes(&frame)..).unwrap_or_default();
            for line in payload.split(|&b| b == b'\n') {
                assert!(
                    serde_json::from_slice::<serde_json::Value>(line).is_ok(),
                    "{:?}",
                    String::from_utf8_lossy(payload)
                );
            }
        }
        assert!(dialect == Dialect::Plain || bad.op != Op::Unknown || bad.refusal.code != 0);
    }
}

/// Merge patch (RFC 7396): a state and two patches, one per line. The result equals that of another implementation, the
/// counted size is right, and the composed patch has the effect of both patches.
pub fn merge_patch(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The other implementation gives members with such names a special meaning.
    if text.contains("$serde_json") {
        return;
    }
    let mut lines = text.splitn(3, '\n');
    let (Some(state), Some(first), Some(second)) = (lines.next(), lines.next(), lines.next()) else { return };
    let parsed = (merge::parse_object(state), merge::parse_object(first), merge::parse_object(second));
    let (Ok(mut state), Ok(first), Ok(second)) = parsed else { return };
    // A state has no nulls, because it began as a patch that was applied to nothing.
    let patch = std::mem::take(&mut state);
    merge::apply(&mut state, patch);

    let mut theirs = value(&state);
    json_patch::merge(&mut theirs, &value(&first));
    json_patch::merge(&mut theirs, &value(&second));

    let mut one_by_one = state.clone();
    let mut bytes = merge::members_bytes(&one_by_one).cast_signed();
    bytes += merge::apply(&mut one_by_one, first.clone()).bytes;
    bytes += merge::apply(&mut one_by_one, second.clone()).bytes;
    assert_eq!(bytes, merge::members_bytes(&one_by_one).cast_signed(), "size kept");
    assert_eq!(written(&one_by_one).len().cast_signed(), bytes, "size written");
    assert_eq!(value(&one_by_one), theirs, "as another implementation has it");

    let mut composed = first;
    if merge::compose(&mut composed, &second) {
        let mut at_once = state;
        merge::apply(&mut at_once, composed);
        assert_eq!(at_once, one_by_one, "composed");
    }
}

fn written(members: &merge::Members) -> Vec<u8> {
    let mut out = Vec::new();
    merge::write_members(members, &mut out);
    out
}

/// The value by another implementation. Written and read again, it must be the same.
fn value(members: &merge::Members) -> serde_json::Value {
    let text = written(members);
    let again = std::str::from_utf8(&text).ok().and_then(|text| Node::parse(text).ok());
    assert_eq!(again, Some(Node::Object(members.clone())), "what is written is read again");
    // Numbers that the other implementation cannot represent (1e999) are not compared.
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Replies of Redis, as bytes of its protocol: entries with any content.
pub fn redis_entries(data: &[u8]) {
    let Ok(reply) = redis::parse_redis_value(data) else { return };
    let config = config::Redis::default();
    for (id, outcome) in nexus_push::source::redis::read_entries(reply, &config, MESSAGE_MAX) {
        match outcome {
            Ok((_, bytes)) => assert!(bytes <= MESSAGE_MAX, "{id}: {bytes} bytes"),
            Err(reason) => assert!(!reason.is_empty(), "{id}"),
        }
    }
}

/// Messages of NATS: a line with the subject, lines of headers, an empty line, the payload. A message that is read can
/// be written again: the topic's own subject, or a header, gives the same topic.
pub fn nats_messages(data: &[u8]) {
    let mut parts = data.splitn(2, |&b| b == b'\n');
    let subject = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let mut rest = parts.next().unwrap_or_default();
    let mut headers = Vec::new();
    while let Some(end) = rest.iter().position(|&b| b == b'\n') {
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let subjects = Subjects::new(&config::Nats::default().subjects);
    let mut given = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let Ok(read) =
        read_message(&subjects, &subject, &mut given, rest.to_vec().into(), (MESSAGE_MAX, 1_723_161_256_313), &|_| {
            PayloadForm::Json
        })
    else {
        return;
    };
    assert!(read.payload.bytes().len() <= MESSAGE_MAX);
    let (again, named) = subjects.subject(&read.topic);
    assert!(again.split('.').all(|token| !token.is_empty() && token != "*" && token != ">"), "{again}");
    assert!(!again.contains(char::is_whitespace), "{again}");
    if !named {
        assert_eq!(subjects.topic(&again).as_deref(), Some(read.topic.as_str()), "{again}");
    }
}

/// Lines of recordings; the first byte selects the exchange. The results are objects with a topic.
pub fn recording(data: &[u8]) {
    let Some((&which, text)) = data.split_first() else { return };
    let name = ["binance-spot", "binance-usdm", "bybit-linear", "bybit-spot"][usize::from(which & 3)];
    let Some(format) = Format::of_file(name) else { return };
    let mut normalizer = Normalizer::default();
    let mut deltas = 0;
    for line in text.split(|&b| b == b'\n') {
        for delta in normalizer.line(format, "BTCUSDT", line) {
            deltas += 1;
            assert!(delta.data.is_object() && delta.topic.contains(':'), "{delta:?}");
        }
    }
    assert_eq!(normalizer.counts.deltas, deltas);
}

/// Configuration: accepted, or refused with an error that names the place.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let faults = match config::Config::read("fuzz.toml", text) {
        Ok(_) => return,
        Err(faults) => faults.0,
    };
    assert!(!faults.is_empty());
    for fault in faults {
        assert!(fault.starts_with("fuzz.toml"), "{fault}");
    }
}

/// The opening handshake, and extension offers (RFC 7692). A handshake that the fast path accepts is complete, does not
/// depend on the bytes after it, and can be read in only one way.
pub fn handshake(data: &[u8]) {
    if let Some(bytes) = handshake_bytes(data) {
        let head = data.get(..bytes).expect("no more than there is");
        assert!(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n"));
        assert_eq!(handshake_bytes(head), Some(bytes), "what follows does not matter");
        assert_eq!(handshake_bytes(&head[..bytes - 1]), None, "half a head is none");
        let lines = |name: &[u8]| {
            let begins = |line: &&[u8]| line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
            head.split(|&b| b == b'\n').filter(begins).count()
        };
        assert_eq!(lines(b"host:"), 1, "one host");
        assert_eq!(lines(b"content-length:") + lines(b"transfer-encoding:"), 0, "no body");
    }
    if let Some(answer) = std::str::from_utf8(data).ok().and_then(|text| negotiate(text.lines())) {
        assert!(answer.starts_with("permessage-deflate"));
    }
}

/// Longest header of the PROXY protocol that the target accepts.
const PROXY_HEADER_MAX: usize = 512;

/// The PROXY protocol (the first byte is 0), and the headers of proxies (1 and 2). A PROXY header is one for another
/// implementation too, no proper prefix of it is complete, and it does not depend on the bytes after it.
pub fn proxy_header(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else { return };
    if which != 0 {
        let client = nexus_push::http::forwarded_client(bytes, which == 2);
        assert!(client.is_none_or(|client| client.to_canonical() == client));
        return;
    }
    let parsed = proxy::parse(bytes, PROXY_HEADER_MAX);
    match parsed {
        Parsed::Header { bytes: length, source } => {
            let header = bytes.get(..length).expect("no longer than what is there");
            assert_eq!(proxy::parse(header, PROXY_HEADER_MAX), parsed, "whatever follows");
            for cut in 0..length {
                let begun = proxy::parse(&header[..cut], PROXY_HEADER_MAX);
                assert!(matches!(begun, Parsed::Begun | Parsed::Unclear), "{cut} bytes of it: {begun:?}");
            }
            let theirs = oracle(bytes);
            match source {
                Some(source) => assert_eq!(theirs, Some((Some(source), length))),
                // The other implementation reads a proxy's report about its own connection, and accepts no long text
                // after UNKNOWN.
                None => assert!(theirs.is_none_or(|(_, their_length)| their_length == length)),
            }
        }
        Parsed::Begun | Parsed::Unclear => assert!(bytes.len() < PROXY_HEADER_MAX),
        Parsed::Other => assert_eq!(oracle(bytes), None),
        Parsed::Broken(_) => {
            // The other implementation is not strict about the end of a line with UNKNOWN, and accepts longer ones.
            let none = |(source, length): (Option<_>, _)| source.is_none() || length > PROXY_HEADER_MAX;
            assert!(oracle(bytes).is_none_or(none), "another implementation has an address from it");
        }
    }
}

/// A whole header's source and length, by another implementation.
fn oracle(bytes: &[u8]) -> Option<(Option<std::net::IpAddr>, usize)> {
    use ppp::{HeaderResult, v1, v2};
    match HeaderResult::parse(bytes) {
        // It accepts ports with a sign.
        HeaderResult::V1(Ok(header)) if header.header.contains('+') => None,
        HeaderResult::V1(Ok(header)) => {
            let source = match header.addresses {
                v1::Addresses::Tcp4(both) => Some(both.source_address.into()),
                v1::Addresses::Tcp6(both) => Some(both.source_address.into()),
                v1::Addresses::Unknown => None,
            };
            Some((source, header.header.len()))
        }
        HeaderResult::V2(Ok(header)) => {
            let source = match header.addresses {
                v2::Addresses::IPv4(both) => Some(both.source_address.into()),
                v2::Addresses::IPv6(both) => Some(both.source_address.into()),
                _ => None,
            };
            Some((source, header.header.len()))
        }
        _ => None,
    }
}

/// Lists of topics and of positions in commands of `plain`: the first byte is the limit, each line is a list. The
/// topics kept, the refusals and the answer are bounded by the limit, not by the input.
pub fn topic_lists(data: &[u8]) {
    let Some((&most, text)) = data.split_first() else { return };
    let most = usize::from(most & 15);
    let mut lists = text.splitn(2, |&b| b == b'\n');
    let (args, since) = (lists.next().unwrap_or_default(), lists.next().unwrap_or(b"{}"));
    for op in ["subscribe", "unsubscribe", "rate", "snapshot"] {
        let mut message = format!("{{\"op\":\"{op}\",\"id\":7,\"args\":").into_bytes();
        message.extend_from_slice(args);
        if op == "subscribe" {
            message.extend_from_slice(b",\"since\":");
            message.extend_from_slice(since);
        }
        message.push(b'}');
        let (named, refused) = match Dialect::Plain.command(&message, most) {
            Ok(Command::Subscribe { items, refused, .. }) => (items.len(), refused),
            Ok(
                Command::Unsubscribe { topics, refused, .. }
                | Command::Rate { topics, refused, .. }
                | Command::Snapshot { topics, refused, .. },
            ) => (topics.len(), refused),
            // The input may end the list and begin another command.
            Ok(_) => continue,
            Err(bad) => {
                let frame = Dialect::Plain.refusal(&bad.id, bad.op, &bad.refusal);
                assert!(frame.len() < 4_096, "{} bytes of refusal", frame.len());
                continue;
            }
        };
        assert!(named + refused.len() <= most, "{named} and {} of {most}", refused.len());
    }
}

/// Bodies of the API (the first byte selects their encoding) with commands in both forms, and percent-decoding: read,
/// or refused with a short error.
pub fn api_bodies(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let encoding = ["identity", "gzip", "deflate", ""][usize::from(how & 3)];
    let Some(text) = parts::text(encoding, bytes) else { return };
    let text = std::str::from_utf8(&text).expect("a body is text once it is read");
    assert!(!text.starts_with('\u{feff}'));
    if let Err(reason) = parts::commands(text) {
        assert!(!reason.is_empty() && reason.len() < 1_024, "{} bytes: {reason}", reason.len());
    }
    match parts::decoded(text) {
        Ok(decoded) => assert!(decoded.len() <= text.len()),
        Err(reason) => assert!(reason.len() < 256, "{reason}"),
    }
}

/// Heads of requests: the result is the same however they are split, and an accepted request has one host and one
/// length.
pub fn request_heads(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let whole = parts::followed(std::iter::once(bytes));
    assert_eq!(whole, parts::followed(bytes.chunks(usize::from(how).max(1))), "in pieces of {how}");
    assert_eq!(whole, parts::followed(uneven(bytes, how)), "in pieces of every length, {how}");
    let lines = bytes.split(|&b| b == b'\n').count() as u64;
    assert!(whole.0 <= lines && whole.1 <= whole.0 + 1, "{whole:?} of {lines} lines");
    if let Some(host) = parts::settled(bytes) {
        assert!(!host.contains(['@', '/', ' ']), "{host}");
    }
}

/// Tokens (the first byte is 0), `Authorization` headers (1), and claims: accepted, or refused with a short error
/// without the words of a library. Accepted claims have not expired, and expire in the year 9999 at the latest.
pub fn tokens(data: &[u8]) {
    const NOW_S: f64 = 1_764_000_000.0;
    let Some((&which, bytes)) = data.split_first() else { return };
    match which & 3 {
        0 => {
            let access = config::Access {
                keys: vec![config::TokenKey {
                    kid: Some("a".into()),
                    algorithm: config::TokenAlgorithm::HS256,
                    secret: Some("0123456789abcdef0123456789abcdef".into()),
                    secret_file: None,
                    secret_env: None,
                    public_key_file: None,
                }],
                ..config::Access::default()
            };
            static TOKENS: std::sync::OnceLock<Tokens> = std::sync::OnceLock::new();
            let tokens = TOKENS.get_or_init(|| Tokens::load(&access, &Default::default()).expect("a good key"));
            if let Err(error) = tokens.identity(&String::from_utf8_lossy(bytes)).without_fetch() {
                told(&error);
            }
        }
        1 => {
            if let Ok(Some(token)) = parts::bearer(bytes) {
                assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
        _ => match read_claims(bytes, None, None, NOW_S) {
            Ok(identity) => {
                let expires_s = identity.expires_s.expect("there is an end");
                assert!(expires_s as f64 >= NOW_S - 5.0 && expires_s <= 253_402_300_799, "{expires_s}");
                assert!(identity.topics.rules().all(|rule| !rule.trim_end_matches('*').contains('*')));
                assert!(identity.subscribed.len() <= 128);
            }
            Err(error) => told(&error),
        },
    }
}

fn told(error: &TokenError) {
    let reason = error.to_string();
    assert!(!reason.is_empty() && reason.len() < 1_024, "{} bytes: {reason}", reason.len());
    for word in ["invalid type", "expected ", "Some(", " at line "] {
        // The input may contain it; the error shows the input in quotes.
        assert!(!reason.contains(word) || reason.contains(['`', '"']), "{reason}");
    }
}
