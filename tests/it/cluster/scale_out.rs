//! Nodes on one Redis behind the real HAProxy and the real nginx, with the configurations of `deploy/` (except for
//! ports, nodes and the number of descriptors). One node is drained, one killed, one added: the sessions are balanced
//! again, and nothing is lost. `nexus-loadtest scale-out` does the same with thousands of sessions.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nexus_testkit::balancer_config::{Plan, haproxy, nginx, nginx_around};
use serde_json::Value;

use crate::support::publishing::{Publishing, all_have_all, to_redis};
use crate::support::reconnecting_client::{Diary, TOPIC, reconnecting_clients, span};
use crate::support::{OPEN, Redis, Server, free_port, signal};

/// Sessions.
const SESSIONS: usize = 180;

/// Longest wait for sessions to be balanced again: HAProxy sends clients to a new node gradually, over 30 s.
const SPREAD_PATIENCE: Duration = Duration::from_secs(120);

const DRAIN_WINDOW: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Balancer {
    Haproxy,
    Nginx,
}

/// A running balancer; ended when dropped.
struct Front {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Front {
    fn start(balancer: Balancer, nodes: &[u16]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let plan = Plan { listen: free_port(), private: free_port(), nodes, sockets_max: 2_000 };
        let shipped =
            |file: &str| std::fs::read_to_string(format!("{}/deploy/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let path = directory.path().join("front.conf");
        let mut command = match balancer {
            Balancer::Haproxy => {
                std::fs::write(&path, haproxy(&shipped("haproxy/haproxy.cfg"), &plan).unwrap()).unwrap();
                let mut command = Command::new("/usr/sbin/haproxy");
                command.arg("-f").arg(&path);
                command
            }
            Balancer::Nginx => {
                std::fs::write(&path, nginx(&shipped("nginx/nexus-push.conf"), &plan).unwrap()).unwrap();
                let around = directory.path().join("nginx.conf");
                let folder = directory.path().to_str().unwrap();
                std::fs::write(&around, nginx_around(path.to_str().unwrap(), folder, plan.sockets_max)).unwrap();
                let mut command = Command::new("/usr/sbin/nginx");
                command.arg("-p").arg(directory.path()).arg("-c").arg(&around);
                command
            }
        };
        let child = command.stdout(Stdio::null()).spawn().expect("haproxy and nginx must be there: `make tools`");
        let address = SocketAddr::from(([127, 0, 0, 1], plan.listen));
        Self { child, address, _directory: directory }
    }

    /// An answer's status and body, through the balancer.
    fn ask(&self, method: &str, path: &str) -> Option<(u16, String)> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Not KILL: a killed master would leave its workers running.
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

fn sessions(server: &Server) -> usize {
    usize::try_from(server.status()["sessions"]["now"].as_u64().unwrap()).unwrap()
}

/// Waits until all sessions are subscribed and every node of `nodes` is within a fifth of the mean. `nudge` is called
/// from time to time.
async fn spread(what: &str, diary: &Diary, nodes: &[&Server], nudge: impl Fn()) {
    let deadline = Instant::now() + SPREAD_PATIENCE;
    loop {
        let counts: Vec<usize> = nodes.iter().map(|node| sessions(node)).collect();
        let standing = diary.standing.load(Ordering::SeqCst);
        let mean = SESSIONS / nodes.len();
        if standing == SESSIONS && counts.iter().all(|n| n.abs_diff(mean) * 5 <= mean) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {standing} subscribed, distributed as {counts:?}");
        nudge();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn a_fleet_behind(balancer: Balancer) {
    let redis = Redis::start();
    let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
    let config = OPEN.replace("drain_window = \"0s\"", &format!("drain_window = \"{DRAIN_WINDOW:?}\""));
    // History reaches back far enough, even if a busy machine delays a client.
    let config = config.replace("class = \"stream\"", "class = \"stream\"\nhistory_size = 10000");
    let node = async |n: usize| {
        let server = Server::start_at(&format!("{config}\n{}", redis.source_config()), ports[n]);
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        server
    };
    let (mut first, second, third) = (node(0).await, node(1).await, node(2).await);
    let front = Front::start(balancer, &ports);
    first.until("the front lets through", |_| front.ask("GET", "/api/topics").is_some_and(|a| a.0 == 200)).await;

    let diary = Arc::new(Diary::default());
    let reconnecting_clients = reconnecting_clients(SESSIONS, &[front.address], &diary);
    spread("three nodes", &diary, &[&first, &second, &third], || ()).await;
    assert_eq!(diary.codes().len(), 0, "a session was closed");
    let publishing = Publishing::start(to_redis(&redis));

    // One node is drained: its sessions return to the others gradually, with the delays that they were given.
    diary.clear();
    let left = sessions(&first);
    first.signal("TERM");
    assert!(first.wait().success());
    spread("one drained", &diary, &[&second, &third], || ()).await;
    let codes = diary.codes();
    assert!(codes.keys().all(|code| [1012, 3001].contains(code)), "{codes:?}");
    assert_eq!(codes.values().sum::<usize>(), left, "sessions of other nodes were closed");
    let closes = span(diary.closes.lock().unwrap().iter().map(|(at, _)| *at));
    let returns = span(diary.returns.lock().unwrap().iter().copied());
    assert!(
        closes > DRAIN_WINDOW / 2 && returns > DRAIN_WINDOW / 2,
        "all at once: closed in {closes:?}, back in {returns:?}"
    );

    // One node is killed, without a close.
    diary.clear();
    second.signal("KILL");
    spread("one killed", &diary, &[&third], || ()).await;
    assert!(diary.codes().keys().all(|code| *code == 1006), "{:?}", diary.codes());

    // One node is added: it gets sessions when the full one is asked to close some.
    diary.clear();
    let fourth = node(3).await;
    let nudge = || {
        // 409 while an earlier request is in progress, and until the nodes know of each other.
        let (status, reply) = third.post("/admin/drain?to=mean&window=2s", &Value::Null);
        assert!([200, 409].contains(&status), "{status} {reply}");
    };
    spread("one added", &diary, &[&third, &fourth], nudge).await;
    let codes = diary.codes();
    assert!(codes.keys().all(|code| [1012, 3001].contains(code)), "{codes:?}");

    let last = publishing.end();
    all_have_all(&third, &reconnecting_clients, &diary, last).await;

    // The balancer forwards plain HTTP too, but not operators' paths.
    let topic: Value = serde_json::from_str(&front.ask("GET", &format!("/api/topics/{TOPIC}")).unwrap().1).unwrap();
    assert_eq!(topic["topic"], TOPIC, "{topic}");
    for path in ["/metrics", "/status", "/healthz", "/readyz", "/debug/echo", "/admin/drain?share=1"] {
        for method in ["GET", "POST"] {
            assert_eq!(front.ask(method, path).unwrap().0, 404, "{balancer:?}: {method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_spreads_sessions_over_the_available_nodes() {
    a_fleet_behind(Balancer::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_spreads_sessions_over_the_available_nodes() {
    a_fleet_behind(Balancer::Nginx).await;
}
