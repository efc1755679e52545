//! Groups of Redis processes: under real sentinels, and a real cluster of six.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ::redis::{Cmd, Connection, FromRedisValue, RedisResult, Value, cmd};
use serde_json::Value as Json;

use crate::support::free_port;

/// Longest wait for processes to agree among themselves.
pub(crate) const SETTLE: Duration = Duration::from_secs(90);

/// Time-out of a node's answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Waits until the condition is true.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SETTLE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One `redis-server`: a Redis, a sentinel, a node of a cluster. Killed when dropped.
pub(crate) struct Node {
    child: Option<Child>,
    pub(crate) port: u16,
    arguments: Vec<String>,
    password: Option<&'static str>,
    directory: tempfile::TempDir,
}

impl Node {
    fn new(port: u16, password: Option<&'static str>, arguments: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { child: None, port, arguments: arguments.to_vec(), password, directory }
    }

    fn redis(port: u16, password: Option<&'static str>, more: &[&str]) -> Self {
        let mut arguments: Vec<String> = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
            .iter()
            .chain(more)
            .map(ToString::to_string)
            .collect();
        if let Some(password) = password {
            arguments.extend(["--requirepass", password, "--masterauth", password].map(str::to_owned));
        }
        let mut node = Self::new(port, password, &arguments);
        node.start();
        node
    }

    /// Starts it; without data, if it ran before.
    pub(crate) fn start(&mut self) {
        let child = Command::new("redis-server")
            .args(self.arguments.iter().filter(|argument| argument.ends_with(".conf")))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.directory.path())
            .args(self.arguments.iter().filter(|argument| !argument.ends_with(".conf")))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: `make tools` does it");
        self.child = Some(child);
        until("it answers", || self.try_query::<String>(&cmd("PING")).is_ok());
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn connect(&self) -> RedisResult<Connection> {
        let password = self.password.map_or_else(String::new, |password| format!(":{password}@"));
        let client = ::redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port))?;
        let connection = client.get_connection_with_timeout(ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        Ok(connection)
    }

    pub(crate) fn try_query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        command.query(&mut self.connect()?)
    }

    pub(crate) fn query<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = Cmd::new();
        command.arg(words);
        self.try_query(&command).unwrap_or_else(|error| panic!("{words:?} on {}: {error}", self.port))
    }

    pub(crate) fn signal(&self, name: &str) {
        crate::support::signal(self.child.as_ref().unwrap().id(), name);
    }

    /// From here on sentinels and replicas cannot log in any more. Existing connections stay, but theirs are closed.
    pub(crate) fn keep_out_all_but_servers(&self, inside: &mut Connection) {
        cmd("CONFIG").arg("SET").arg("requirepass").arg("no-longer-this").query::<()>(inside).unwrap();
        cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").query::<()>(inside).unwrap();
        let clients: String = cmd("CLIENT").arg("LIST").query(inside).unwrap();
        for client in clients.lines().filter(|client| client.contains(" name=sentinel-")) {
            let id = client.split(' ').find_map(|field| field.strip_prefix("id=")).unwrap();
            cmd("CLIENT").arg("KILL").arg("ID").arg(id).query::<()>(inside).unwrap();
        }
    }

    /// Appends a delta, without waiting for a replica.
    pub(crate) fn append(&self, stream: &str, topic: &str, data: &Json) -> RedisResult<String> {
        add_to(&mut self.connect()?, stream, topic, data)
    }

    /// Appends a delta. Returns whether a replica has it too, or `None` if it is unknown whether it was appended.
    pub(crate) fn add(&self, stream: &str, topic: &str, data: &Json) -> Option<bool> {
        let mut connection = self.connect().ok()?;
        add_to(&mut connection, stream, topic, data).ok()?;
        wait(&mut connection)
    }

    /// The merge of all patches in a stream.
    pub(crate) fn state(&self, stream: &str) -> Json {
        let entries: Vec<(String, std::collections::HashMap<String, String>)> =
            self.query(&["XRANGE", stream, "-", "+"]);
        let mut state = Json::Object(serde_json::Map::new());
        for (_, fields) in entries {
            json_patch::merge(&mut state, &serde_json::from_str(&fields["data"]).unwrap());
        }
        state
    }

    pub(crate) fn role(&self) -> String {
        match self.try_query::<Vec<Value>>(&cmd("ROLE")).ok().and_then(|parts| parts.into_iter().next()) {
            Some(Value::BulkString(role)) => String::from_utf8(role).unwrap(),
            _ => String::new(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A master and two replicas, and three sentinels that watch them.
pub(crate) struct Sentinels {
    pub(crate) nodes: Vec<Node>,
    sentinels: Vec<Node>,
    password: Option<&'static str>,
}

impl Sentinels {
    /// With a password for Redis and another for the sentinels, or without.
    pub(crate) fn start(password: Option<&'static str>, sentinels_password: Option<&'static str>) -> Self {
        let master = Node::redis(free_port(), password, &[]);
        let of = master.port.to_string();
        let mut nodes = vec![master];
        nodes.extend((0..2).map(|_| Node::redis(free_port(), password, &["--replicaof", &format!("127.0.0.1 {of}")])));
        let sentinels = (0..3).map(|_| sentinel(&of, password, sentinels_password)).collect();
        let group = Self { nodes, sentinels, password };
        until("the sentinels know each other and the replicas", || {
            group.sentinels.iter().all(|sentinel| {
                let known: RedisResult<std::collections::HashMap<String, String>> =
                    sentinel.try_query(cmd("SENTINEL").arg("MASTER").arg("mymaster"));
                known.is_ok_and(|known| known["num-slaves"] == "2" && known["num-other-sentinels"] == "2")
            })
        });
        group.until_replicated();
        group
    }

    /// Waits until the current master has `n` replicas that follow it.
    fn until_replicas(&self, n: u64) {
        until("replicas follow the master", || {
            let Some(master) = self.master() else { return false };
            let mut wait = cmd("WAIT");
            self.nodes[master].try_query::<u64>(wait.arg(n).arg(1_000)).is_ok_and(|acknowledged| acknowledged >= n)
        });
    }

    fn until_replicated(&self) {
        self.until_replicas(self.nodes.iter().filter(|node| node.is_running()).count() as u64 - 1);
    }

    /// The Redis that the sentinels name.
    fn named(&self) -> Option<usize> {
        let mut ask = cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg("mymaster");
        let (_, port) = self.sentinels.iter().find_map(|s| s.try_query::<(String, u16)>(&ask).ok())?;
        self.nodes.iter().position(|node| node.port == port && node.is_running())
    }

    /// The one that the sentinels name, if it is a master.
    pub(crate) fn master(&self) -> Option<usize> {
        self.named().filter(|found| self.nodes[*found].role() == "master")
    }

    /// The same, if it is not `old`, which does not answer.
    pub(crate) fn master_other_than(&self, old: usize) -> Option<usize> {
        self.named().filter(|found| *found != old && self.nodes[*found].role() == "master")
    }

    /// `kill -9` of the current master. Returns its index.
    pub(crate) fn kill_master(&mut self) -> usize {
        until("there is a master", || self.master().is_some());
        let master = self.master().unwrap();
        self.nodes[master].kill();
        master
    }

    /// Waits until there is another master, and every other running Redis follows it.
    pub(crate) fn until_failed_over(&self) -> usize {
        until("there is another master", || self.master().is_some());
        self.until_replicated();
        self.master().unwrap()
    }

    /// From here on the replicas do not get new writes.
    pub(crate) fn cut_replicas(&self) {
        let master = self.master().unwrap();
        for (i, node) in self.nodes.iter().enumerate() {
            if i != master {
                node.query::<()>(&["CONFIG", "SET", "masterauth", "no-longer-this"]);
            }
        }
        self.nodes[master].query::<()>(&["CLIENT", "KILL", "TYPE", "replica"]);
        until("the replicas are disconnected", || {
            self.nodes[master].query::<String>(&["INFO", "replication"]).contains("connected_slaves:0")
        });
    }

    /// Lets the replicas follow again.
    pub(crate) fn mend_replicas(&self) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            node.query::<()>(&["CONFIG", "SET", "masterauth", self.password.unwrap()]);
        }
    }

    /// Appends a delta. Returns whether a replica has it too, or `None` if it is unknown whether it was appended.
    pub(crate) fn add(&self, topic: &str, data: &Json) -> Option<bool> {
        self.nodes[self.master()?].add("nexus:deltas", topic, data)
    }

    /// Everything in one URL, as on a command line. The sentinels have no password.
    pub(crate) fn url(&self) -> String {
        let user = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        let hosts: Vec<String> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{user}{}/mymaster", hosts.join(","))
    }

    /// The configuration of a server with this source.
    pub(crate) fn source_config(&self) -> String {
        let user = |password: Option<&str>| password.map_or_else(String::new, |password| format!(":{password}@"));
        let urls: Vec<String> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("redis://{}127.0.0.1:{}", user(sentinel.password), sentinel.port))
            .collect();
        let master = match self.password {
            Some(_) => format!("redis://{}mymaster", user(self.password)),
            None => "mymaster".to_owned(),
        };
        format!("[source.redis]\nsentinels = {urls:?}\nmaster = {master:?}\n")
    }
}

fn sentinel(master_port: &str, password: Option<&str>, own_password: Option<&'static str>) -> Node {
    let mut sentinel = Node::new(free_port(), own_password, &[]);
    let mut text = format!(
        "sentinel monitor mymaster 127.0.0.1 {master_port} 2\nsentinel down-after-milliseconds mymaster 2000\n\
         sentinel failover-timeout mymaster 10000\n"
    );
    if let Some(password) = password {
        text.push_str(&format!("sentinel auth-pass mymaster {password}\n"));
    }
    if let Some(password) = own_password {
        text.push_str(&format!("requirepass {password}\nsentinel sentinel-pass {password}\n"));
    }
    let path = sentinel.directory.path().join("sentinel.conf");
    std::fs::write(&path, text).unwrap();
    sentinel.arguments = vec![path.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
    sentinel.start();
    sentinel
}

/// A cluster of three masters with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// The streams, one per partition.
    pub(crate) streams: Vec<String>,
}

/// A port whose cluster port, 10,000 above, is free too.
fn free_ports() -> u16 {
    loop {
        let port = free_port();
        if port < 55_000 && std::net::TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl Cluster {
    pub(crate) fn start(partitions: usize) -> Self {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-require-full-coverage",
            "no",
            "--cluster-replica-validity-factor",
            "0",
        ];
        let nodes: Vec<Node> = (0..6).map(|_| Node::redis(free_ports(), None, &arguments)).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli is part of Redis");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { nodes, streams: (0..partitions).map(|n| format!("nexus:deltas:{{{n}}}")).collect() };
        until("every node sees a whole cluster", || {
            cluster.nodes.iter().all(|node| {
                node.query::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && node.query::<String>(&["CLUSTER", "NODES"]).matches("connected").count() >= 6
            })
        });
        until("every master has a replica", || {
            let masters = cluster.nodes.iter().filter(|node| node.role() == "master");
            masters.map(|m| m.query::<u64>(&["WAIT", "1", "1000"])).filter(|n| *n > 0).count() == 3
        });
        cluster
    }

    pub(crate) fn slot(&self, partition: usize) -> String {
        let nodes = self.nodes.iter().find(|node| node.is_running()).unwrap();
        nodes.query::<u16>(&["CLUSTER", "KEYSLOT", &self.streams[partition]]).to_string()
    }

    /// The node that accepts commands for this partition now.
    pub(crate) fn owner(&self, partition: usize) -> Option<usize> {
        let mut exists = cmd("EXISTS");
        exists.arg(&self.streams[partition]);
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.is_running());
        let mut answers = running.map(|(i, node)| (i, node.try_query::<Value>(&exists)));
        answers.find_map(|(i, answer)| match answer {
            Ok(_) => Some(i),
            // Moving away, but still there.
            Err(error) => (error.code() == Some("ASK")).then_some(i),
        })
    }

    /// Appends a delta to a partition. Returns whether a replica has it too, or `None` if it is unknown whether it was
    /// appended.
    pub(crate) fn add(&self, partition: usize, topic: &str, data: &Json) -> Option<bool> {
        let mut connection = self.nodes[self.owner(partition)?].connect().ok()?;
        let stream = &self.streams[partition];
        match add_to(&mut connection, stream, topic, data) {
            Ok(_) => {}
            Err(error) => {
                if error.code() != Some("ASK") {
                    return None;
                }
                let (to, _) = error.redirect_node()?;
                let node = self.nodes.iter().find(|node| to.ends_with(&format!(":{}", node.port)))?;
                connection = node.connect().ok()?;
                cmd("ASKING").query::<()>(&mut connection).ok()?;
                add_to(&mut connection, stream, topic, data).ok()?;
            }
        }
        wait(&mut connection)
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].query(&["CLUSTER", "MYID"])
    }

    /// Begins to move a partition's slot to another node.
    pub(crate) fn begin_move(&self, partition: usize, from: usize, to: usize) {
        let slot = self.slot(partition);
        self.nodes[to].query::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].query::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// The keys of a partition that are on a node.
    pub(crate) fn keys(&self, partition: usize, node: usize) -> Vec<String> {
        self.nodes[node].query(&["CLUSTER", "GETKEYSINSLOT", &self.slot(partition), "100"])
    }

    /// Moves one key.
    pub(crate) fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port.to_string();
        self.nodes[from].query::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "10000"]);
    }

    /// Ends the move: the slot belongs to the other node.
    pub(crate) fn end_move(&self, partition: usize, to: usize) {
        let (slot, id) = (self.slot(partition), self.id(to));
        // Its new owner first.
        self.nodes[to].query::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        for node in self.nodes.iter().filter(|node| node.is_running() && node.role() == "master") {
            node.query::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// Everything in one URL, as on a command line.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().take(2).map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The configuration of a server with this source; two nodes are enough to find the others.
    pub(crate) fn source_config(&self) -> String {
        let urls: Vec<String> =
            self.nodes.iter().take(2).map(|node| format!("redis://127.0.0.1:{}", node.port)).collect();
        format!("[source.redis]\ncluster = {urls:?}\nstreams = {:?}\n", self.streams)
    }
}

/// Whether a replica has what was written over this connection.
fn wait(connection: &mut Connection) -> Option<bool> {
    cmd("WAIT").arg(1).arg(1_000).query::<u64>(connection).ok().map(|replicas| replicas > 0)
}

fn add_to(connection: &mut Connection, stream: &str, topic: &str, data: &Json) -> RedisResult<String> {
    let mut add = cmd("XADD");
    add.arg(stream).arg("*").arg("topic").arg(topic).arg("data").arg(data.to_string());
    add.query(connection)
}

/// A Redis that accepts only TLS; its certificate is `redis.crt` in `folder`.
pub(crate) fn over_tls(folder: &Path, password: &'static str) -> Node {
    let port = free_port();
    let (certificate, key) = (folder.join("redis.crt"), folder.join("redis.key"));
    let child = Command::new("redis-server")
        .args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--tls-auth-clients", "no", "--requirepass", password, "--tls-cert-file"])
        .arg(&certificate)
        .arg("--tls-key-file")
        .arg(key)
        .arg("--tls-ca-cert-file")
        .arg(certificate)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server must be installed: `make tools` does it");
    until("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut node = Node::new(port, Some(password), &[]);
    node.child = Some(child);
    node
}
