//! The program as a command, run beside servers that see its effects.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, PROGRAM, Server};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    for variable in ["NEXUS_CONFIG", "NEXUS_TO", "NEXUS_API_KEY"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// The same with additional environment variables.
pub(crate) fn run_in(environment: &[(&str, &str)], args: &[&str]) -> Output {
    command(args).envs(environment.iter().copied()).output().unwrap()
}

/// The same with this on its standard input.
pub(crate) fn fed(args: &[&str], input: &[u8]) -> Output {
    let mut child = started(args);
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // It may end before it has read everything.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

/// Starts it with all streams piped.
pub(crate) fn started(args: &[&str]) -> Child {
    command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Its output at the end, which must come in time.
pub(crate) fn ended(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Its standard output; it must have succeeded.
pub(crate) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Its error output; it must have failed without a panic.
pub(crate) fn failed(output: &Output) -> String {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}{error}", text(&output.stdout));
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// A configuration in a file, which exists as long as the folder.
pub(crate) fn config_file(config: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nexus-push.toml");
    std::fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// A server with this configuration, once it is ready.
pub(crate) async fn ready(config: &str) -> Server {
    let server = Server::start(config);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    server
}

/// Number of entries and messages that its sources have refused.
pub(crate) fn refused(server: &Server) -> u64 {
    let status = server.status();
    status["sources"].as_array().unwrap().iter().map(|source| source["skipped"].as_u64().unwrap()).sum()
}
