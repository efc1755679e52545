//! Secrets on the command line, which any user of the machine can read (`ps`). The program starts
//! itself again with the secrets in its environment, which only its own user can read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Set for the second start, which logs the warning once the log is set up.
const MOVED: &str = "NEXUS_ARGUMENTS_MOVED";

/// Flags whose values may be secret, and the variables that do the same.
const FLAGS: [(&str, &str); 4] =
    [("--redis", "NEXUS_REDIS_URL"), ("--nats", "NEXUS_NATS_URL"), ("--to", "NEXUS_TO"), ("--key", "NEXUS_API_KEY")];

/// Whether a flag's value contains a secret.
fn is_secret(flag: &str, value: &[u8]) -> bool {
    flag == "--key" || value.contains(&b'@')
}

/// Variables and their values.
type Moved = Vec<(&'static str, OsString)>;

/// The arguments without the secret ones, and the variables for these.
fn parted(arguments: impl Iterator<Item = OsString>) -> (Vec<OsString>, Moved) {
    let (mut rest, mut moved) = (Vec::new(), Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let text = argument.as_bytes();
        if text == b"--" {
            rest.push(argument);
            rest.extend(arguments);
            break;
        }
        let (name, joined) = match text.iter().position(|byte| *byte == b'=') {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            None => (text, None),
        };
        let known = FLAGS.iter().find(|(flag, _)| flag.as_bytes() == name);
        let value = known.and_then(|_| joined.or_else(|| arguments.peek().map(|next| next.as_bytes())));
        match (known, value) {
            (Some((flag, variable)), Some(value)) if is_secret(flag, value) => {
                moved.push((*variable, std::ffi::OsStr::from_bytes(value).to_owned()));
                if joined.is_none() {
                    arguments.next();
                }
            }
            _ => rest.push(argument),
        }
    }
    (rest, moved)
}

/// Moves secrets from the arguments into the environment by executing this program again. Returns
/// if there are none, or if that fails.
pub(super) fn hide_secrets() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let (rest, moved) = parted(arguments);
    if moved.is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let variables = moved.iter().map(|(variable, _)| *variable).collect::<Vec<_>>().join(", ");
    // Returns only if it fails; then the command line stays as it was.
    let error = Command::new(program).arg0(name).args(rest).envs(moved).env(MOVED, variables).exec();
    eprintln!("nexus-push: secrets stay in the command line, where others can read them: {error}");
}

/// The variables that would have kept the secrets off the command line.
pub(super) fn moved() -> Option<String> {
    std::env::var(MOVED).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_taken_out_and_nothing_else() {
        let of = |text: &str| {
            let (rest, moved) = parted(text.split(' ').map(OsString::from));
            let rest: Vec<_> = rest.iter().map(|argument| argument.to_str().unwrap()).collect();
            let moved: Vec<_> =
                moved.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
            (rest.join(" "), moved.join(" "))
        };
        for (given, rest, moved) in [
            ("serve --redis redis://:pw@h --shards 2", "serve --shards 2", "NEXUS_REDIS_URL=redis://:pw@h"),
            ("serve --redis=redis://u:p=w@h", "serve", "NEXUS_REDIS_URL=redis://u:p=w@h"),
            ("serve --redis redis://h", "serve --redis redis://h", ""),
            ("serve --nats nats://token@h", "serve", "NEXUS_NATS_URL=nats://token@h"),
            ("publish --key k --to redis://:pw@h a 1", "publish a 1", "NEXUS_API_KEY=k NEXUS_TO=redis://:pw@h"),
            ("publish a -- --key k", "publish a -- --key k", ""),
            ("drain --key", "drain --key", ""),
            ("drain --key-file f", "drain --key-file f", ""),
        ] {
            assert_eq!(of(given), (rest.to_owned(), moved.to_owned()), "{given}");
        }
    }
}
