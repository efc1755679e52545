//! `nexus-push top` and `healthcheck`, against real servers.

use serde_json::{Value, json};

use crate::support::program::{done, failed, run, run_in, text};
use crate::support::{Authority, OPEN, Server, free_port, tls_config};

#[tokio::test]
async fn once_prints_a_table_with_unreachable_nodes() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    let here = server.address.to_string();
    let output = run(&["top", "--once", "--interval", "200ms", &here]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let [head, row] = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>()[..]
        .to_vec()
        .try_into()
        .unwrap();
    let cell = |name: &str| row[head.iter().position(|h| *h == name).unwrap()];
    assert_eq!((cell("NODE"), cell("STATE"), cell("SESSIONS"), cell("QUEUE")), (here.as_str(), "ready", "1", "0"));

    let gone = format!("127.0.0.1:{}", free_port());
    let output = run(&["top", "--once", "--interval", "200ms", &here, &gone]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains(&format!("{gone} unreachable: ")), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("ready"), "a node that is down hides no other");
    assert!(text(&output.stderr).contains(&gone));
}

/// Rates and quantiles are computed from the server's counters.
#[tokio::test]
async fn json_has_rates_ages_and_the_status() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    let url = format!("http://{}/", server.address);
    let looking = std::thread::spawn(move || run(&["top", "--once", "--json", "--interval", "2s", &url]));
    while !looking.is_finished() {
        server.publish("stream:a", &json!(1));
        client.next().await;
    }
    let output = looking.join().unwrap();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let node = &all["nodes"][0];
    assert_eq!((&node["state"], &node["error"]), (&json!("ready"), &Value::Null), "{node}");
    for rate in ["deltas", "deliveries", "writes", "bytes"] {
        assert!(node["rates"][rate].as_f64().unwrap() > 0.0, "{rate}: {node}");
    }
    let ages: Vec<f64> = node["rates"]["age_ms"].as_array().unwrap().iter().map(|age| age.as_f64().unwrap()).collect();
    assert!(ages.is_sorted() && ages[0] > 0.0, "{ages:?}");
    assert_eq!(node["rates"]["busy"].as_array().unwrap().len(), 2, "of each shard");
    assert_eq!(node["status"]["sessions"]["now"], 1);
}

/// For operators with their own port and key.
#[test]
fn an_operators_key_is_shown() {
    let port = free_port();
    let at = format!("127.0.0.1:{port}");
    let key = "0123456789abcdef";
    let _server = Server::open_with(&format!("[operator]\nlisten = \"{at}\"\nkey = \"{key}\"\n"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let look = ["top", "--once", "--interval", "200ms", &at];
    let output = run(&look);
    // A server on which everybody may publish gives no operator's rights.
    assert!(text(&output.stdout).contains("unreachable: status 403"), "{}", text(&output.stdout));
    let output = run(&[&look[..], &["--key-file", file.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, needle) in [
        (&["top", "--once", "redis://127.0.0.1:1"][..], "redis:// is not a server's"),
        (&["top", "--interval", "1ms"], "outside 200ms to 1m"),
        (&["top", "--key-file", "/nonexistent"], "--key-file"),
    ] {
        let output = run(args);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(needle), "{args:?}: {}", text(&output.stderr));
    }
}

/// A server that accepts connections and never answers, and one that is not nexus-push.
#[test]
fn a_node_that_does_not_answer_is_given_up() {
    use std::io::{Read as _, Write as _};
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let others = other.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    let output = run(&["top", "--once", &deaf.local_addr().unwrap().to_string(), &others.to_string()]);
    let table = text(&output.stdout);
    assert!(
        table.contains("unreachable: operation timed out") && table.contains("is not one of nexus-push"),
        "{table}"
    );
}

#[test]
fn healthcheck_is_the_exit_code_and_one_line() {
    let mut server = Server::open();
    let at = server.address.to_string();
    for (url, asked, word) in [
        (at.clone(), "/healthz", "ok"),
        (format!("http://{at}"), "/healthz", "ok"),
        (format!("http://{at}/"), "/healthz", "ok"),
        (format!("http://{at}/healthz"), "/healthz", "ok"),
        (format!("http://{at}/readyz"), "/readyz", "ready"),
    ] {
        assert_eq!(done(&run(&["healthcheck", &url])), format!("http://{at}{asked}: {word}\n"), "{url}");
    }
    for (url, needle) in [
        (
            format!("http://{at}/nothing"),
            "its path `/nothing` is not a health check; let it end in /healthz or /readyz",
        ),
        (
            "ftp://u:secret@a".to_owned(),
            "URL ftp://***@a: ftp:// is not a server's; it may be HOST:PORT, http://HOST:PORT",
        ),
        ("http://u:secret@a:port/".to_owned(), "URL http://***@a:port/: invalid port number; it may be HOST:PORT"),
        (format!("http://u:secret@127.0.0.1:{}", free_port()), "@127.0.0.1:"),
        (String::new(), "URL \"\": it names no host"),
    ] {
        let error = failed(&run(&["healthcheck", &url]));
        assert!(error.contains(needle) && error.lines().count() == 1 && !error.contains("secret"), "{error}");
    }
    let url = format!("http://{at}/healthz");
    server.signal("TERM");
    server.wait();
    let error = failed(&run(&["healthcheck", &url]));
    assert!(error.contains(&format!("{url}: Connection refused")), "{error}");
}

/// A server with a certificate of an authority that the system does not know.
#[test]
fn healthcheck_over_tls() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue("localhost").write(folder.path(), "server");
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, other, empty) = (at("ca.crt"), at("other.crt"), at("empty.crt"));
    std::fs::write(&ca, authority.pem()).unwrap();
    std::fs::write(&other, Authority::new().pem()).unwrap();
    std::fs::write(&empty, "no PEM\n").unwrap();
    let server = Server::start(&format!("{OPEN}\n{}", tls_config(folder.path())));
    let sealed = format!("https://localhost:{}", server.sealed.unwrap().port());
    let by_address = sealed.replace("localhost", "127.0.0.1");
    for (path, word) in [("/healthz", "ok"), ("/readyz", "ready")] {
        let asked = format!("{sealed}{path}");
        assert_eq!(done(&run(&["healthcheck", &asked, "--ca", &ca])), format!("{asked}: {word}\n"));
        // The system's authorities may be extended.
        assert_eq!(done(&run_in(&[("SSL_CERT_FILE", &ca)], &["healthcheck", &asked])), format!("{asked}: {word}\n"));
    }
    let missing = at("missing.crt");
    for (args, needle) in [
        (&[sealed.as_str()][..], "; give the certificate of its authority with --ca FILE"),
        (&[&sealed, "--ca", &other], "; give the certificate of its authority with --ca FILE"),
        (&[&by_address, "--ca", &ca], "and the host by the name that the certificate has"),
        (&[&sealed, "--ca", &empty], "empty.crt: it holds no certificate (PEM: BEGIN CERTIFICATE)"),
        (&[&sealed, "--ca", &missing], "missing.crt: No such file"),
        (&[&sealed.replace("https", "http"), "--ca", &ca], "without TLS there is no certificate: https://"),
        (&["--ca", &ca], "--ca does not go with URL http://127.0.0.1:8000/healthz: without TLS"),
    ] {
        let error = failed(&run(&[&["healthcheck"], args].concat()));
        assert!(error.contains(needle) && error.lines().count() == 1, "{args:?}: {error}");
    }
}

/// The answer of a server that is not ready is the reason.
#[test]
fn healthcheck_prints_why_a_server_is_not_ready() {
    let server = Server::start(&format!("{OPEN}\n[source.redis]\nurl = \"redis://127.0.0.1:{}\"\n", free_port()));
    done(&run(&["healthcheck", &server.address.to_string()]));
    let error = failed(&run(&["healthcheck", &format!("{}/readyz", server.address)]));
    assert!(error.contains("/readyz: not ready: redis nexus:deltas: not loaded yet"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// Other servers have such a path too.
#[test]
fn another_servers_health_does_not_count() {
    use std::io::{Read as _, Write as _};
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
        }
    });
    for path in ["", "/", "/healthz", "/readyz"] {
        let error = failed(&run(&["healthcheck", &format!("http://{at}{path}")]));
        assert!(error.contains("it answers 200 OK, and not as nexus-push does"), "{error}");
    }
}
