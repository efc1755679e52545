//! The API of a server that runs beside the fuzzer, over a socket: publishing, and reading the published data.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nexus_push::config::Config;
use serde_json::value::RawValue;

const CONFIG: &str = r#"
[access]
anonymous = true
origins = ["*"]
[publish]
open = true
[server]
shards = 1
control_threads = 1
drain_window = "0s"
[limits]
topics = 2000
reply_bytes_per_address = 0
[namespace.stream]
class = "stream"
history_size = 8
[namespace.latest]
class = "latest"
[namespace.merge]
class = "merge"
"#;

/// Time-out for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// An answer: its status and its body.
type Answer = (u16, String);

struct Api {
    port: u16,
    connection: Option<TcpStream>,
}

impl Api {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let text = CONFIG.replace("[server]", &format!("[server]\nlisten = \"127.0.0.1:{port}\""));
        let config = Config::read("fuzz.toml", &text).expect("a configuration");
        std::thread::spawn(move || nexus_push::server::run(config, false).expect("a server"));
        let mut api = Self { port, connection: None };
        while api.try_ask("GET", "/healthz", b"").is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        api
    }

    fn connect(&self) -> Option<TcpStream> {
        let connection = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        connection.set_nodelay(true).ok()?;
        connection.set_read_timeout(Some(ANSWER_WAIT)).ok()?;
        Some(connection)
    }

    /// Every request is answered, whatever its body is.
    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        // The server may have closed a kept connection, but not a new one.
        let answer = self.try_ask(method, path, body).or_else(|| self.try_ask(method, path, body));
        answer.unwrap_or_else(|| panic!("no answer to {method} {path} with {:?}", String::from_utf8_lossy(body)))
    }

    fn try_ask(&mut self, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        connection.write_all(&request).ok()?;
        let answer = read_answer(&mut connection)?;
        self.connection = Some(connection);
        Some(answer)
    }
}

fn read_answer(connection: &mut TcpStream) -> Option<Answer> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 16_384]);
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end {
            let head = std::str::from_utf8(&bytes[..end]).expect("a head is text").to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
            let length = length.expect("a length");
            if bytes.len() >= end + length {
                let status = head.split(' ').nth(1)?.parse().expect("a status");
                let body = String::from_utf8(bytes[end..end + length].to_vec()).expect("a body is text");
                return Some((status, body));
            }
        }
        match connection.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

fn with<R>(f: impl FnOnce(&mut Api) -> R) -> R {
    static API: OnceLock<Mutex<Api>> = OnceLock::new();
    let api = API.get_or_init(|| Mutex::new(Api::start()));
    f(&mut api.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An answer is JSON, and reports no fault of the server.
fn checked(what: &str, (status, body): Answer) -> (u16, Box<RawValue>) {
    let json = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{what}: {status} {body:?}: {error}"));
    assert!(status < 500, "{what}: {status} {body}");
    (status, json)
}

/// The same for an answer to several commands: one line for each.
fn checked_lines(what: &str, (status, body): &Answer) {
    for line in body.lines() {
        checked(what, (*status, line.to_owned()));
    }
}

/// The text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// A body to publish: unchanged (the first byte is 0), or as the data of a topic of each class (1 to 3). Accepted data
/// is read back by history, by a batch, and over REST, with the same bytes.
pub fn publish_api(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let class = ["", "stream", "latest", "merge"][usize::from(how & 3)];
    if class.is_empty() {
        with(|api| {
            checked("publish", api.ask("POST", "/api/publish", bytes));
            checked("broadcast", api.ask("POST", "/api/broadcast", bytes));
        });
        return;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let topic = format!("{class}:fuzz");
    let body = format!(r#"{{"channel":"{topic}","data":{text}}}"#);
    with(|api| {
        let (_, answer) = checked("publish", api.ask("POST", "/api/publish", body.as_bytes()));
        let is_taken = answer.get().contains("\"result\"");
        let history = format!(r#"{{"channel":"{topic}","limit":1,"reverse":true}}"#);
        let (status, page) = checked("history", api.ask("POST", "/api/history", history.as_bytes()));
        assert_eq!(status, 200, "{}", page.get());
        let batch = format!(r#"{{"commands":[{{"history":{history}}},{{"presence":{{"channel":"{topic}"}}}}]}}"#);
        checked("batch", api.ask("POST", "/api/batch", batch.as_bytes()));
        let (_, state) = checked("state", api.ask("GET", &format!("/api/topics/{topic}"), b""));
        // Whether the input was one value, and did not end the object and add members.
        let is_one = serde_json::from_str::<&RawValue>(text).map(|one| one.get().trim().to_owned());
        if let (true, Ok(one)) = (is_taken && class != "merge", is_one) {
            let read = if class == "stream" { page } else { state };
            // A command is one line, so line breaks inside a value become spaces.
            let one = one.replace(['\n', '\r', '\t'], " ");
            let read = read.get().replace('\t', " ");
            assert!(read.contains(&one), "{one} was published, and {read} is read");
        }
    });
}

/// Commands for history: unchanged, or with the input as one of their members; a topic has some history.
pub fn history_api(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    let body = match how & 7 {
        0 => bytes.to_vec(),
        1 => format!(r#"{{"channel":{}}}"#, quoted(&text)).into_bytes(),
        2 => format!(r#"{{"channel":"stream:h","limit":{text}}}"#).into_bytes(),
        3 => format!(r#"{{"channel":"stream:h","limit":9,"since":{{"offset":{text},"epoch":""}}}}"#).into_bytes(),
        4 => format!(r#"{{"channel":"stream:h","limit":9,"since":{text}}}"#).into_bytes(),
        5 => format!(r#"{{"channel":"stream:h","limit":9,"since":{{"offset":1,"epoch":{}}}}}"#, quoted(&text))
            .into_bytes(),
        6 => format!(r#"{{"channel":"stream:h","reverse":{text}}}"#).into_bytes(),
        _ => format!(r#"{{"channel":"stream:h","limit":3,{text}}}"#).into_bytes(),
    };
    with(|api| {
        checked("publish", api.ask("POST", "/api/publish", br#"{"channel":"stream:h","data":1e400}"#));
        checked("history", api.ask("POST", "/api/history", &body));
        checked("history_remove", api.ask("POST", "/api/history_remove", &body));
    });
}

/// Batches: unchanged, as one command's parameters, as its name, or as several commands.
pub fn batch_api(data: &[u8]) {
    const NAMES: [&str; 8] =
        ["publish", "broadcast", "history", "history_remove", "presence", "channels", "info", "presence_stats"];
    let Some((&how, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    let name = NAMES[usize::from(how >> 3) % NAMES.len()];
    let body = match how & 7 {
        0 | 1 => bytes.to_vec(),
        2 | 3 => format!(r#"{{"commands":[{{"{name}":{text}}}]}}"#).into_bytes(),
        4 => format!(r#"{{"commands":[{{{}:{{"channel":"latest:b"}}}}]}}"#, quoted(&text)).into_bytes(),
        5 => format!(r#"{{"commands":[{text}],"parallel":true}}"#).into_bytes(),
        6 => format!(r#"{{"commands":[{{"publish":{{"channel":"merge:b","data":{text}}}}},{{"history":{{"channel":"merge:b","limit":5}}}}]}}"#)
            .into_bytes(),
        _ => format!(r#"{{"method":"{name}","params":{text}}}"#).into_bytes(),
    };
    with(|api| {
        checked("batch", api.ask("POST", "/api/batch", &body));
        checked_lines("one", &api.ask("POST", "/api", &body));
        checked("state", api.ask("GET", "/api/topics/merge:b", b""));
    });
}
