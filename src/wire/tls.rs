//! TLS of one session (RFC 8446 for 1.3, RFC 5246 for 1.2), by rustls. Bytes pass through the caller's buffers: apart
//! from its keys, a connection stores an incomplete record and the ciphertext that its socket did not take.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};

use crate::accounts::{self, Held};

/// Most plaintext of one record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Most bytes that a record adds, of the suites in rustls: header, explicit nonce, content type,
/// tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Room for a handshake message before its length is known.
const HANDSHAKE_ROOM: usize = 2 * 1024;

/// Plaintext that is encrypted for a socket before it has taken the earlier ciphertext. Encrypted
/// data must be sent: newer state cannot replace it.
pub const SEALED_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;

/// Memory of rustls for a connection after its handshake, in separate allocations.
const KEYS_BYTES: usize = 2 * 1024;

/// The server's side of a connection.
pub struct Tls {
    connection: UnbufferedServerConnection,
    /// Bytes of incomplete records.
    partial: Vec<u8>,
    /// The memory account of those.
    account: Held,
    /// Ciphertext to be written before any other.
    due: Vec<u8>,
    closed: bool,
    /// A close alert was sent, or an error occurred: nothing more is encrypted.
    ended: bool,
}

/// The connection cannot continue; an alert for its client may be pending.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(#[from] rustls::Error);

impl Tls {
    /// A connection before its handshake.
    ///
    /// # Errors
    /// The error of rustls about `config`.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(config)?;
        let account = Held::none(&accounts::INCOMING);
        Ok(Self { connection, partial: Vec::new(), account, due: Vec::new(), closed: false, ended: false })
    }

    /// Takes received bytes and appends their plaintext to `plain`; replies become
    /// [due](Self::due).
    ///
    /// # Errors
    /// They violate TLS. Earlier plaintext is in `plain`.
    pub fn feed(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.partial.is_empty() {
            let used = self.turn(bytes, plain)?;
            self.partial = bytes.get(used..).unwrap_or_default().to_vec();
            self.account.set(self.partial.capacity());
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let used = self.turn(&mut all, plain)?;
        if used < all.len() {
            all.drain(..used);
            self.partial = all;
        }
        self.account.set(self.partial.capacity());
        Ok(())
    }

    /// Runs until rustls needs more bytes; returns the number of bytes consumed.
    fn turn(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, TlsError> {
        let mut used = 0;
        let mut failed = None;
        loop {
            let rest = bytes.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            let mut more = true;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.due),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                Ok(_) => more = false,
                Err(error) => failed = Some(error),
            }
            used += discard;
            if let Some(error) = failed.take() {
                // Continues only to send the alert; the input is not read again.
                while self.connection.wants_write() {
                    let rest = bytes.get_mut(used..).unwrap_or_default();
                    let UnbufferedStatus { discard, state } = self.connection.process_tls_records(rest);
                    let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { break };
                    encode(&mut data, &mut self.due);
                    used += discard;
                }
                self.ended = true;
                return Err(error.into());
            }
            if !more {
                self.due.shrink_to(self.due.len());
                return Ok(used);
            }
        }
    }

    /// Bytes of memory, without incomplete records and pending ciphertext.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + KEYS_BYTES
    }

    /// Bytes of incomplete records.
    pub fn partial_bytes(&self) -> usize {
        self.account.bytes()
    }

    /// Whether the handshake is still running.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the client has closed its sending side.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the client showed a certificate signed by one of the configured authorities.
    pub fn has_client_certificate(&self) -> bool {
        self.connection.peer_certificates().is_some_and(|chain| !chain.is_empty())
    }

    /// Ciphertext to be written before any other.
    pub fn due(&self) -> &[u8] {
        &self.due
    }

    /// This many bytes of the pending ciphertext were written.
    pub fn gone(&mut self, n: usize) {
        if n >= self.due.len() {
            self.due = Vec::new();
        } else {
            self.due.drain(..n);
        }
    }

    /// Stores ciphertext that the socket did not take, to be written first.
    pub fn owe(&mut self, ciphertext: &[u8]) {
        self.due.extend_from_slice(ciphertext);
    }

    /// Encrypts `plain` after the pending ciphertext; all of it becomes pending.
    ///
    /// # Errors
    /// The connection's keys are used up, or its handshake is still running.
    pub fn seal_due(&mut self, plain: &[u8]) -> Result<(), TlsError> {
        let mut sealed = Sealed::default();
        let range = self.seal(plain, &mut sealed)?;
        self.due = sealed.bytes;
        self.due.truncate(range.end);
        Ok(())
    }

    /// Moves pending ciphertext to `out`, encrypts `plain` after it, and returns the range of both.
    ///
    /// # Errors
    /// The connection's keys are used up, or its handshake is still running.
    pub fn seal(&mut self, plain: &[u8], out: &mut Sealed) -> Result<std::ops::Range<usize>, TlsError> {
        let begin = out.used;
        out.append(&std::mem::take(&mut self.due));
        if plain.is_empty() {
            return Ok(begin..out.used);
        }
        if self.ended {
            return Err(rustls::Error::EncryptError.into());
        }
        let mut room = plain.len() + (plain.len() / RECORD_BYTES_MAX + 1) * RECORD_OVERHEAD;
        loop {
            // Together with the incomplete message: rustls keeps offsets into it.
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.partial);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => match traffic.encrypt(plain, out.room(room)) {
                    Ok(written) => {
                        out.used += written;
                        return Ok(begin..out.used);
                    }
                    // A new key is announced before it is used.
                    Err(EncryptError::InsufficientSize(error)) if error.required_size > room => {
                        room = error.required_size;
                    }
                    Err(_) => return Err(rustls::Error::EncryptError.into()),
                },
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut answer = Vec::new();
                    encode(&mut data, &mut answer);
                    out.append(&answer);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.closed = true,
                _ => return Err(rustls::Error::HandshakeNotComplete.into()),
            }
            self.partial.drain(..discard.min(self.partial.len()));
        }
    }

    /// Appends the close alert (RFC 8446 §6.1) to the pending ciphertext.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let mut alert = [0; 64];
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.partial).state
            && let Ok(written) = traffic.queue_close_notify(&mut alert)
        {
            self.due.extend_from_slice(alert.get(..written).unwrap_or_default());
        }
    }
}

/// Appends the output of rustls.
fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, to: &mut Vec<u8>) {
    let begin = to.len();
    let mut room = HANDSHAKE_ROOM;
    let written = loop {
        to.resize(begin + room, 0);
        match data.encode(to.get_mut(begin..).unwrap_or_default()) {
            Ok(written) => break written,
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => room = error.required_size,
            Err(_) => break 0,
        }
    };
    to.truncate(begin + written);
}

/// Ciphertext for many sockets, one after the other.
#[derive(Default)]
pub struct Sealed {
    /// Its length only grows, so that it need not be cleared for each use.
    bytes: Vec<u8>,
    used: usize,
}

impl Sealed {
    /// The bytes at this range.
    pub fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// All of it has been written.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Frees memory beyond so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if self.bytes.len() > bytes && self.used == 0 {
            self.bytes.truncate(bytes);
            self.bytes.shrink_to(bytes);
        }
    }

    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.used + bytes;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(room) = self.room(bytes.len()).get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.used += bytes.len();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

    use super::*;

    static IDENTITY: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap());

    fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from(IDENTITY.cert.der().to_vec());
        let key = PrivateKeyDer::try_from(IDENTITY.signing_key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        server.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        (Arc::new(server), Arc::new(client))
    }

    /// All data that a client has to write.
    pub(crate) fn written(client: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn take(client: &mut ClientConnection, mut bytes: &[u8], plain: &mut Vec<u8>) {
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().unwrap();
            match client.reader().read_to_end(plain) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                other => drop(other.unwrap()),
            }
        }
    }

    /// The two ends of a connection after its handshake.
    pub(crate) fn pair(version: &'static SupportedProtocolVersion) -> (Tls, ClientConnection) {
        let (server, client) = configs(version);
        let mut client = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
        let mut server = Tls::new(server).unwrap();
        let mut plain = Vec::new();
        while server.is_handshaking() || client.is_handshaking() {
            server.feed(&mut written(&mut client), &mut plain).unwrap();
            take(&mut client, server.due(), &mut plain);
            server.gone(usize::MAX);
        }
        assert!(plain.is_empty());
        (server, client)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However the bytes are split, both ends read the other's data in order.
        #[test]
        fn encrypted_bytes_are_decrypted(
            old in any::<bool>(),
            messages in prop::collection::vec((any::<bool>(), 0usize..70_000, 1usize..20_000), 1..8),
            key_update in any::<bool>(),
        ) {
            let (mut server, mut client) = pair(if old { &TLS12 } else { &TLS13 });
            let mut sealed = Sealed::default();
            for (n, (ours, bytes, cut)) in messages.into_iter().enumerate() {
                let message: Vec<u8> = (0..bytes).map(|i| u8::try_from((i + n) % 251).unwrap()).collect();
                let mut plain = Vec::new();
                if ours {
                    let range = server.seal(&message, &mut sealed).unwrap();
                    for part in sealed.bytes(range).chunks(cut) {
                        take(&mut client, part, &mut plain);
                    }
                    sealed.clear();
                } else {
                    if key_update && !old {
                        client.refresh_traffic_keys().unwrap();
                    }
                    client.set_buffer_limit(None);
                    client.writer().write_all(&message).unwrap();
                    for part in written(&mut client).chunks_mut(cut) {
                        server.feed(part, &mut plain).unwrap();
                    }
                }
                prop_assert!(plain == message);
                prop_assert!(server.partial.is_empty());
            }
            server.close();
            let mut plain = Vec::new();
            let mut due = server.due();
            client.read_tls(&mut due).unwrap();
            client.process_new_packets().unwrap();
            prop_assert_eq!(client.reader().read_to_end(&mut plain).unwrap(), 0, "the connection was closed");
        }

        /// Bytes that are not TLS are an error with an alert, at any time.
        #[test]
        fn garbage_is_refused(garbage in prop::collection::vec(any::<u8>(), 1..200), shaken in any::<bool>()) {
            let (config, _) = configs(&TLS13);
            let mut server = if shaken { pair(&TLS13).0 } else { Tls::new(config).unwrap() };
            let mut plain = Vec::new();
            let mut record = vec![23, 3, 3, 0, u8::try_from(garbage.len()).unwrap()];
            record.extend_from_slice(&garbage);
            prop_assert!(server.feed(&mut record, &mut plain).is_err());
            prop_assert!(!server.due().is_empty() && plain.is_empty());
        }
    }

    /// A TLS 1.3 record that no client would make (RFC 8446 §5.2).
    fn record(client: ClientConnection, content_type: u8, content: &[u8]) -> Vec<u8> {
        let (seq, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let rustls::ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another suite") };
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        nonce.iter_mut().rev().zip(seq.to_le_bytes()).for_each(|(n, s)| *n ^= s);
        let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key.as_ref()).unwrap();
        let mut body = [content, &[content_type]].concat();
        let header = [23, 3, 3, 0, u8::try_from(body.len() + 16).unwrap()];
        ring::aead::LessSafeKey::new(key)
            .seal_in_place_append_tag(
                ring::aead::Nonce::assume_unique_for_key(nonce),
                ring::aead::Aad::from(header),
                &mut body,
            )
            .unwrap();
        [&header[..], &body].concat()
    }

    /// A client may stop in the middle of a message; encryption meanwhile must not fail because of
    /// it.
    #[test]
    fn half_a_message_is_waited_for() {
        let (mut server, client) = pair(&TLS13);
        let mut plain = Vec::new();
        // The first two bytes of a key update (RFC 8446 §4.6.3).
        server.feed(&mut record(client, 22, &[24, 0]), &mut plain).unwrap();
        assert!(!server.partial.is_empty());
        let mut sealed = Sealed::default();
        for _ in 0..3 {
            server.seal(b"tick", &mut sealed).unwrap();
            server.seal_due(b"tick").unwrap();
        }
        assert!(server.feed(&mut [23, 3, 3, 0, 2, 1, 1], &mut plain).is_err());
        assert!(server.seal_due(b"tick").is_err());
        server.close();
    }

    #[test]
    fn an_idle_connection_keeps_no_buffers() {
        let (mut server, mut client) = pair(&TLS13);
        client.writer().write_all(b"hello").unwrap();
        let mut plain = Vec::new();
        server.feed(&mut written(&mut client), &mut plain).unwrap();
        assert_eq!(plain, b"hello");
        assert_eq!((server.due.capacity(), server.partial.capacity()), (0, 0));
    }
}
