//! The shipped configurations of balancers (`deploy/haproxy`, `deploy/nginx`), with nothing changed but where things
//! listen, which nodes there are, and how many descriptors this machine allows. The server's tests use this file too.

/// What is put in place of the shipped addresses.
pub(crate) struct Plan<'a> {
    /// Port of the front, on loopback.
    pub(crate) listen: u16,
    /// Port of metrics and statistics (HAProxy), on loopback.
    pub(crate) private: u16,
    /// Ports of the nodes, on loopback; they may be down.
    pub(crate) nodes: &'a [u16],
    /// Sockets that the front may hold; each costs it two descriptors.
    pub(crate) sockets_max: usize,
}

/// `deploy/haproxy/haproxy.cfg`, changed.
///
/// # Errors
/// What is not in it any more and should be.
pub(crate) fn haproxy(shipped: &str, plan: &Plan<'_>) -> Result<String, String> {
    let mut text = shipped.to_owned();
    for (old, new) in [
        ("    bind :8080\n", format!("    bind 127.0.0.1:{}\n", plan.listen)),
        ("    bind :8404\n", format!("    bind 127.0.0.1:{}\n", plan.private)),
        ("    maxconn 40000\n", format!("    maxconn {}\n", plan.sockets_max)),
    ] {
        text = replaced("haproxy.cfg", &text, old, &new)?;
    }
    nodes("haproxy.cfg", &text, "    server push-1 ", "    server push-2 ", |line| {
        let one = |(n, port): (usize, &u16)| {
            line.replace("push-1:8000", &format!("127.0.0.1:{port}")).replace("push-1", &format!("push-{}", n + 1))
        };
        plan.nodes.iter().enumerate().map(one).collect()
    })
}

/// `deploy/nginx/nexus-push.conf`, changed.
///
/// # Errors
/// What is not in it any more and should be.
pub(crate) fn nginx(shipped: &str, plan: &Plan<'_>) -> Result<String, String> {
    let listen = format!("    listen 127.0.0.1:{} ", plan.listen);
    let text = replaced("nexus-push.conf", shipped, "    listen 8080 ", &listen)?;
    nodes("nexus-push.conf", &text, "    server 10.0.0.11:8000 ", "    server 10.0.0.12:8000 ", |line| {
        let one = |port: &u16| line.replace("10.0.0.11:8000", &format!("127.0.0.1:{port}"));
        plan.nodes.iter().map(one).collect()
    })
}

/// The file around it, as its head says, but for the limits: two workers that share the descriptors.
pub(crate) fn nginx_around(include: &str, directory: &str, sockets_max: usize) -> String {
    let connections = sockets_max + 64;
    format!(
        "worker_processes 2;\nworker_rlimit_nofile {descriptors};\nworker_shutdown_timeout 30m;\ndaemon off;\n\
         pid {directory}/nginx.pid;\nerror_log stderr crit;\nevents {{ worker_connections {connections}; }}\n\
         http {{ access_log off; include {include}; }}\n",
        descriptors = connections + 64,
    )
}

fn replaced(file: &str, text: &str, old: &str, new: &str) -> Result<String, String> {
    match text.matches(old).count() {
        1 => Ok(text.replacen(old, new, 1)),
        n => Err(format!("{file} has {n} times {old:?}, and should have it once")),
    }
}

/// Puts lines for all nodes in place of the first node's line, wherever there is one, and drops the second's.
fn nodes(
    file: &str,
    text: &str,
    first: &str,
    second: &str,
    mut lines: impl FnMut(&str) -> Vec<String>,
) -> Result<String, String> {
    let mut found = 0;
    let mut out = Vec::new();
    for line in text.lines() {
        if line.starts_with(first) {
            found += 1;
            out.extend(lines(line));
        } else if !line.starts_with(second) {
            out.push(line.to_owned());
        }
    }
    if found != 2 {
        return Err(format!("{file} has {found} lines that begin with {first:?}, and should have two"));
    }
    Ok(out.join("\n") + "\n")
}
