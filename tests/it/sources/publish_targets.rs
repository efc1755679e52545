//! `nexus-push publish` to every kind of target: its output says where the delta is.

use serde_json::json;

#[cfg(feature = "nats")]
use crate::support::nats;
#[cfg(feature = "nats")]
use crate::support::nats::Nats;
use crate::support::program::{config_file, done, ended, failed, ready, refused, run, run_in, started, text};
use crate::support::redis_groups;
use crate::support::redis_groups::{Cluster, Sentinels};
use crate::support::{Authority, OPEN, PATIENCE, Redis, Server, free_port, tls_config};

/// The fields that it printed after the topic, by name.
fn place(printed: &str, topic: &str) -> std::collections::HashMap<String, String> {
    let parts = printed.trim_end().strip_prefix(topic).unwrap_or_else(|| panic!("{printed}"));
    parts.split('\t').skip(1).map(|part| part.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

#[tokio::test]
async fn to_a_server_over_http_and_https() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue("localhost").write(folder.path(), "server");
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("ca.crt"), authority.pem()).unwrap();
    std::fs::write(at("other.crt"), Authority::new().pem()).unwrap();
    std::fs::write(at("key"), "publish-key-0123456789\n").unwrap();
    let open = OPEN.replace("open = true", "keys = [\"publish-key-0123456789\"]");
    let server = Server::start(&format!("{open}\n{}", tls_config(folder.path())));
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    let (plain, sealed) = (format!("http://{}", server.address), server.sealed.unwrap().port());
    let sealed = format!("https://localhost:{sealed}/");
    let (ca, other, key) = (at("ca.crt"), at("other.crt"), at("key"));
    let in_time = std::time::Instant::now();
    for (args, needle) in [
        (&["--to", &plain][..], "NEXUS_API_KEY"),
        (&["--to", &plain, "--key", "another-key-0123456789"], "401"),
        (&["--to", &sealed, "--key-file", &key], "--ca FILE"),
        (&["--to", &sealed, "--key-file", &key, "--ca", &other], "certificate"),
        (&["--to", &sealed, "--key-file", &key, "--ca", &key], "key: it holds no certificate"),
        (&["--to", &sealed.replace("localhost", "127.0.0.1"), "--key-file", &key, "--ca", &ca], "certificate"),
        (&["--to", &format!("http://127.0.0.1:{}", free_port()), "--key-file", &key], "no answer from"),
        (&["--to", &plain.replace("http:", "https:"), "--key-file", &key], "no answer from"),
    ] {
        let error = failed(&run(&[&["publish", "stream:a", "0"], args].concat()));
        assert!(error.contains(needle) && error.lines().count() == 1, "{args:?}: {error}");
        assert!(!error.contains("another-key"), "{error}");
    }
    assert!(in_time.elapsed() < PATIENCE);
    for (n, args) in [&["--to", &plain][..], &["--to", &sealed, "--ca", &ca]].into_iter().enumerate() {
        let data = json!({ "n": n }).to_string();
        let printed = done(&run(&[&["publish", "stream:a", &data, "--key-file", &key], args].concat()));
        let (place, delta) = (place(&printed, "stream:a"), client.next().await);
        assert_eq!((&delta["data"]["n"], delta["offset"].to_string()), (&json!(n), place["offset"].clone()));
        assert!(!place["epoch"].is_empty());
    }
    // A configuration that names no stream leads to its own server.
    let (_folder, config) =
        config_file(&OPEN.replace("[server]", &format!("[server]\nlisten = \"{}\"", server.address)));
    let args = ["publish", "-c", &config, "--key-file", &key, "stream:a", "-6"];
    let (output, quiet) = (run(&args), run(&[&args[..], &["--quiet"]].concat()));
    let notice =
        format!("{config} names no stream ([source.redis], [source.nats]): published to its server's API at {plain} ");
    assert!(text(&output.stderr).contains(&notice) && quiet.stderr.is_empty(), "{}", text(&output.stderr));
    for output in [output, quiet] {
        done(&output);
        assert_eq!(client.next().await["data"], -6);
    }
    // Proxies are not used.
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let environment = [
        ("NEXUS_TO", plain.as_str()),
        ("NEXUS_API_KEY", "publish-key-0123456789"),
        ("http_proxy", &nobody),
        ("no_proxy", ""),
        ("NO_PROXY", ""),
    ];
    let output = run_in(&environment, &["publish", "stream:a", "-7"]);
    done(&output);
    assert_eq!(client.next().await["data"], -7);
}

/// The names of fields and streams, and the rule for streams, come from the servers' configuration.
#[tokio::test]
async fn to_redis_as_the_configuration_has_it() {
    let redis = Redis::start();
    let names = "streams = [\"a\", \"b\", \"c\"]\ntopic_field = \"t\"\ndata_field = \"d\"\nkind_field = \"k\"\nts_field = \"e\"\n";
    let text = format!("{OPEN}\n{}{names}", redis.source_config());
    let (server, (_folder, config)) = (ready(&text).await, config_file(&text));
    let mut client = server.client().await;
    let mut streams = std::collections::HashSet::new();
    for n in 0..8 {
        let topic = format!("latest:{n}");
        client.subscribe(&[&topic]).await;
        let data = format!("[{n}]");
        let args = ["publish", "-c", &config, &topic, &data, "--snapshot", "--ts", "1723161256313"];
        let place = place(&done(&run(&args)), &topic);
        let home = done(&run(&["partition", "-c", &config, &topic]));
        assert_eq!(home.trim_end().rsplit('\t').next().unwrap(), place["stream"]);
        let delta = client.next().await;
        assert_eq!((&delta["data"], &delta["ts"]), (&json!([n]), &json!(1_723_161_256_313_u64)));
        assert_eq!(delta["offset"].to_string(), place["offset"]);
        let id = redis.command(&[
            "EVAL",
            "return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]",
            "1",
            &place["stream"],
        ]);
        assert_eq!(id, place["id"]);
        streams.insert(place["stream"].clone());
    }
    assert!(streams.len() > 1, "{streams:?}");
    assert_eq!((server.metric("topics_misplaced_total"), refused(&server)), (0.0, 0));
    // The same with options: all streams, in their order.
    let home: usize =
        done(&run(&["partition", "-n", "3", "latest:0"])).trim_end().rsplit('\t').next().unwrap().parse().unwrap();
    let args = ["publish", "--to", &redis.url(), "--stream", "x,y,z", "--create-stream", "latest:0", "1"];
    assert_eq!(place(&done(&run(&args)), "latest:0")["stream"], ["x", "y", "z"][home]);
}

/// A misspelt name is a stream that no server reads: it is not created.
#[tokio::test]
async fn streams_of_redis_that_are_not_there_are_refused_by_name() {
    let redis = Redis::start();
    let url = redis.url();
    let (_folder, one) = config_file(&format!("{OPEN}\n{}streams = [\"s0\"]\n", redis.source_config()));
    let (_folder2, two) = config_file(&format!("{OPEN}\n{}streams = [\"s0\", \"s1\"]\n", redis.source_config()));
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("deltas").to_str().unwrap().to_owned();
    std::fs::write(&lines, "latest:a 1\nlatest:b 2\n").unwrap();
    let at = |text: &str| format!("nexus-push: {text} in Redis at {url}");
    let deltas = [&["latest:a", "1"][..], &["--lines", &lines]];
    let all_refused = |by: &[&str], needles: &[&str]| {
        for delta in deltas {
            let error = failed(&run(&[&["publish"], by, delta].concat()));
            for needle in [needles, &["--create-stream", "Nothing was published"]].concat() {
                assert!(error.contains(needle), "{by:?}: {needle}: {error}");
            }
            assert!(!error.contains("published,") && !error.contains("creates"), "{error}");
        }
    };
    // Nothing exists at all. A stream that was not given by hand is the first of a new Redis, which is reported.
    let typo = at("--stream typo: not");
    all_refused(&["--to", &url, "--stream", "typo"], &[&typo]);
    all_refused(&["-c", &two], &[&at("source.redis.streams s0,s1: not"), "none of source.redis.streams is"]);
    assert_eq!(redis.command(&["DBSIZE"]), ":0");
    for (by, stream) in [(["--to", &url], "nexus:deltas"), (["-c", &one], "s0")] {
        let output = run(&[&["publish", "latest:a", "1"][..], &by].concat());
        assert_eq!(place(&done(&output), "latest:a")["stream"], stream);
        let notice = at(&format!("the stream {stream} is not"));
        assert!(text(&output.stderr).contains(&notice), "{}", text(&output.stderr));
        let output = run(&[&["publish", "latest:a", "1"][..], &by].concat());
        assert!(done(&output).contains(stream) && !text(&output.stderr).contains("is not in"));
    }
    // Some exist.
    all_refused(&["--to", &url, "--stream", "s0,typo"], &[&typo, "of --stream there are s0"]);
    all_refused(&["-c", &two], &[&at("source.redis.streams s1: not"), "of source.redis.streams there are s0"]);
    assert_eq!(redis.command(&["DBSIZE"]), ":2");
    // Servers that read them have registered them, although they are still empty.
    let server = ready(&std::fs::read_to_string(&two).unwrap()).await;
    assert_eq!(redis.command(&["EXISTS", "s1"]), ":0");
    for topic in ["latest:a", "latest:b", "latest:c"] {
        done(&run(&["publish", "-c", &two, topic, "1"]));
        done(&run(&["publish", "--to", &url, "--stream", "s0,s1", topic, "1"]));
    }
    drop(server);
    // On purpose.
    let output = run(&["publish", "--to", &url, "--stream", "new", "--create-stream", "latest:a", "1"]);
    assert!(done(&output).contains("stream=new") && text(&output.stderr).contains("creates it"));
}

/// A publisher with rights only on its streams cannot see the keys of servers.
#[test]
fn a_user_of_the_streams_alone_publishes_to_existing_streams() {
    let redis = Redis::start();
    let user = ["ACL", "SETUSER", "feed", "on", ">feed-secret", "~s0", "~s1", "+xadd", "+exists", "+role"];
    assert_eq!(redis.command(&user), "+OK");
    redis.xadd("s0", "*", &["topic", "a", "data", "1"]);
    let to = redis.url().replace("redis://", "redis://feed:feed-secret@");
    let with = |stream: &str, more: &[&str]| {
        run(&[&["publish", "--to", &to, "a", "1", "--stream", stream][..], more].concat())
    };
    done(&with("s0", &[]));
    let error = failed(&with("s1", &[]));
    assert!(error.contains("--stream s1: not in Redis") && !error.contains("secret"), "{error}");
    done(&with("s1", &["--create-stream"]));
    // One that may not even check learns it from its own write.
    assert_eq!(redis.command(&["ACL", "SETUSER", "feed", "-exists"]), "+OK");
    done(&with("s0", &[]));
}

#[tokio::test]
async fn to_redis_that_is_away_or_takes_nothing() {
    let redis = Redis::start();
    for (to, needle) in [
        (format!("redis://127.0.0.1:{}", free_port()), "127.0.0.1"),
        (format!("redis://:wr0ng-word@127.0.0.1:{}", redis.port), "cannot be used: "),
        (format!("redis+sentinel://127.0.0.1:{}/mymaster", free_port()), "127.0.0.1"),
        (format!("redis+cluster://127.0.0.1:{}", free_port()), "127.0.0.1"),
        (format!("nats://127.0.0.1:{}", free_port()), "127.0.0.1"),
    ] {
        let error = failed(&run(&["publish", "--quiet", "--to", &to, "a", "1"]));
        assert!(error.contains(needle) && error.lines().count() == 1 && !error.contains("wr0ng"), "{to}: {error}");
    }
    redis.command(&["SET", "nexus:deltas", "no stream"]);
    let error = failed(&run(&["publish", "--quiet", "--to", &redis.url(), "a", "1"]));
    assert!(error.contains("WRONGTYPE"), "{error}");
}

/// Stopped processes keep their connections, and answer nothing.
#[test]
fn a_stream_that_hangs_is_given_up_in_time() {
    let given_up = |to: &str, needle: &str| {
        let error = failed(&ended(started(&["publish", "--quiet", "--to", to, "a", "1"])));
        assert!(error.contains(needle), "{to}: {error}");
    };
    let redis = Redis::start();
    redis.signal("STOP");
    given_up(&redis.url(), "publishing failed: Redis at redis://127.0.0.1");
    #[cfg(feature = "nats")]
    {
        let nats = Nats::start();
        nats.signal("STOP");
        given_up(&nats.url(), "connecting to nats://");
    }
}

#[tokio::test]
async fn to_redis_over_tls() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue("localhost").write(directory.path(), "redis");
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    let redis = redis_groups::over_tls(directory.path(), "redis-secret-1");
    let to = format!("rediss://:redis-secret-1@localhost:{}", redis.port);
    let args = ["publish", "--quiet", "--to", &to, "stream:a", "1"];
    let error = failed(&run(&args));
    assert!(error.contains("certificate") && !error.contains("redis-secret"), "{error}");
    let printed = done(&run_in(&[("SSL_CERT_FILE", ca.to_str().unwrap())], &args));
    assert_eq!(place(&printed, "stream:a")["stream"], "nexus:deltas");
}

/// Through the sentinels, before and after a failover.
#[tokio::test]
async fn to_the_master_that_sentinels_name() {
    let mut group = Sentinels::start(Some("redis-secret-1"), None);
    let (_folder, config) = config_file(&format!("{OPEN}\n{}", group.source_config()));
    let length = |group: &Sentinels| group.nodes[group.master().unwrap()].query::<u64>(&["XLEN", "nexus:deltas"]);
    let url = group.url();
    let by = [&["-c", &config][..], &["--to", &url]];
    for args in by {
        let printed = done(&run(&[&["publish", "stream:a", "1"], args].concat()));
        assert!(place(&printed, "stream:a")["id"].contains('-'));
    }
    assert_eq!(length(&group), 2);
    redis_groups::until("the replicas have it", || {
        group.nodes.iter().all(|node| node.query::<u64>(&["XLEN", "nexus:deltas"]) == 2)
    });
    group.kill_master();
    group.until_failed_over();
    for args in by {
        done(&run(&[&["publish", "stream:a", "2"], args].concat()));
    }
    assert_eq!(length(&group), 4);
}

/// Each topic in its stream, and each stream on its node.
#[tokio::test]
async fn to_a_redis_cluster() {
    let cluster = Cluster::start(3);
    let text = format!("{OPEN}\n{}", cluster.source_config());
    let (server, (_folder, config)) = (ready(&text).await, config_file(&text));
    let (url, streams) = (cluster.url(), cluster.streams.join(","));
    let mut homes = std::collections::HashSet::new();
    for n in 0..12 {
        let topic = format!("latest:{n}");
        let data = n.to_string();
        let by = if n % 2 == 0 { vec!["-c", &config] } else { vec!["--to", &url, "--stream", &streams] };
        let printed = done(&run(&[&["publish", &topic, &data][..], &by].concat()));
        homes.insert(place(&printed, &topic)["stream"].clone());
        let data = |s: &Server| s.get(&format!("/api/topics/{topic}")).1.contains(&format!("\"data\":{n}"));
        server.until("it is read", data).await;
    }
    assert_eq!(homes.len(), 3);
    assert_eq!((server.metric("topics_misplaced_total"), refused(&server)), (0.0, 0));
}

/// Subjects and headers as the server reads them, also for names that no subject can express.
#[cfg(feature = "nats")]
#[tokio::test]
async fn to_nats() {
    let nats = Nats::start();
    let more = "stream = \"MD\"\nsubjects = [\"md.>\"]\n";
    let (server, (_folder, config)) = (nats.server(more).await, config_file(&nats.config(more)));
    let url = nats.url();
    // For all topics, because `latest:*` cannot be in a path.
    let newest = |s: &Server| s.status()["sources"][0]["deltas"].as_u64().unwrap();
    let mut sequence = 0;
    for by in [&["-c", &config][..], &["--to", &url, "--stream", "MD", "--subject", "md.>"]] {
        for topic in ["latest:a", "latest:EUR.USD", "a.b:c", "latest:*"] {
            sequence += 1;
            let data = sequence.to_string();
            let args = [&["publish", topic, &data, "--ts", "1723161256313"], by].concat();
            let place = place(&done(&run(&args)), topic);
            assert_eq!((place["sequence"].clone(), place["stream"].as_str()), (sequence.to_string(), "MD"));
            server.until("it is read", |s| newest(s) == sequence).await;
        }
    }
    assert_eq!(nats::view(&server, "latest:EUR.USD")["data"], 6);
    assert_eq!(nats::view(&server, "latest:EUR.USD")["ts"], 1_723_161_256_313_u64);
    done(&run(&["publish", "-c", &config, "latest:a", "--kind", "delete"]));
    server.until("it is gone", |s| s.get("/api/topics/latest:a").0 == 404).await;
    // A stream that does not exist, and one that has other subjects.
    for stream in ["NOWHERE", "MD"] {
        let error = failed(&run(&["publish", "--quiet", "--to", &url, "--stream", stream, "a", "1"]));
        assert!(error.contains("NATS did not take the delta"), "{error}");
    }
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn to_nats_over_tls_with_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, other) = (at("ca.crt"), at("other.crt"));
    std::fs::write(&ca, authority.pem()).unwrap();
    std::fs::write(&other, Authority::new().pem()).unwrap();
    authority.issue("localhost").write(folder.path(), "server");
    let nats = Nats::start_with(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\nauthorization {{ user: push, password: \"nats-s3cret\" }}",
        at("server.crt"),
        at("server.key")
    ));
    let url = |login: &str| format!("tls://{login}localhost:{}", nats.port);
    let source = format!(
        "[source.nats]\nurls = [\"tls://localhost:{}\"]\nuser = \"push\"\npassword = \"nats-s3cret\"\nca_file = \"{ca}\"\n",
        nats.port
    );
    let text = format!("{OPEN}\n{source}");
    let (_server, (_folder, config)) = (ready(&text).await, config_file(&text));
    for (args, needle) in [
        (["--to", &url("push:nats-s3cret@"), "--ca", &other], "certificate"),
        (["--to", &url("push:wr0ng-word@"), "--ca", &ca], "authorization"),
    ] {
        let error = failed(&run(&[&["publish", "--quiet", "a", "1"][..], &args].concat()));
        assert!(error.contains(needle) && !error.contains("s3cret") && !error.contains("wr0ng"), "{error}");
    }
    // Only the second of two servers is running.
    let either = format!("tls://push:nats-s3cret@localhost:{},localhost:{}", free_port(), nats.port);
    for (sequence, args) in [&["-c", &config][..], &["--to", &either, "--ca", &ca]].into_iter().enumerate() {
        let printed = done(&run(&[&["publish", "a", "1"], args].concat()));
        assert_eq!(place(&printed, "a")["sequence"], (sequence + 1).to_string());
    }
}
