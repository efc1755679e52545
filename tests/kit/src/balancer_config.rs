//! The shipped configurations of balancers (`deploy/haproxy`, `deploy/nginx`), changed only in ports,
//! nodes, and the number of descriptors that the machine allows.

/// Replaces the shipped addresses.
pub struct Plan<'a> {
    /// Port of the balancer, on loopback.
    pub listen: u16,
    /// Port of metrics and statistics (HAProxy), on loopback.
    pub private: u16,
    /// Ports of the nodes, on loopback; they may be down.
    pub nodes: &'a [u16],
    /// Most sockets of the balancer; each needs two descriptors.
    pub sockets_max: usize,
}

/// `deploy/haproxy/haproxy.cfg` for this plan.
///
/// # Errors
/// A line that is expected in it and missing.
pub fn haproxy(shipped: &str, plan: &Plan<'_>) -> Result<String, String> {
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

/// `deploy/nginx/nexus-push.conf` for this plan.
///
/// # Errors
/// A line that is expected in it and missing.
pub fn nginx(shipped: &str, plan: &Plan<'_>) -> Result<String, String> {
    let listen = format!("    listen 127.0.0.1:{} ", plan.listen);
    let text = replaced("nexus-push.conf", shipped, "    listen 8080 ", &listen)?;
    nodes("nexus-push.conf", &text, "    server 10.0.0.11:8000 ", "    server 10.0.0.12:8000 ", |line| {
        let one = |port: &u16| line.replace("10.0.0.11:8000", &format!("127.0.0.1:{port}"));
        plan.nodes.iter().map(one).collect()
    })
}

/// The file that includes it, as its head says, except for the limits: two workers share the
/// descriptors.
pub fn nginx_around(include: &str, directory: &str, sockets_max: usize) -> String {
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

/// Replaces each line of the first node by lines for all nodes, and drops those of the second.
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
