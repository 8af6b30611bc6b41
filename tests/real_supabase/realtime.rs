//! The official clients join the local cloud's Realtime, which judges our own client elsewhere.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tampu::demo::cloud::{ApiKey, Cloud, CloudSettings, PostgRestSettings, Role};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::PATIENCE;

const KEY: &str = "sb_publishable_demo";
const TOKEN: &str = "demo.authenticated.jwt";
const RENEWED: &str = "demo.authenticated.renewed";

struct Client {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(cloud: &Cloud, program: &str, script: &str, (variable, library): (&str, &str)) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = root.join("target/peers").join(library);
        assert!(library.is_dir(), "{} is not there: tests/run installs it", library.display());
        let settings = json!({
            "url": cloud.supabase.line().url(), "key": KEY, "token": TOKEN, "renewed": RENEWED,
        });
        let mut process = Command::new(program)
            .arg(root.join("tests/real_supabase").join(script))
            .arg(settings.to_string())
            .env(variable, library)
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let says = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, says }
    }

    /// Waits until it says something with this in it.
    async fn until(&mut self, what: &str) -> Value {
        let heard = async {
            while let Some(line) = self.says.next_line().await.expect("its output can be read") {
                let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it says {line}"));
                if said == what || said.get(what).is_some() {
                    return said;
                }
            }
            panic!("it has ended before {what}: {:?}", self.process.wait().await);
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{what}: never"))
    }

    async fn ends_well(mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("it ends");
        assert!(ended.as_ref().is_ok_and(std::process::ExitStatus::success), "{ended:?}");
    }
}

async fn cloud() -> Cloud {
    let mut supabase = PostgRestSettings::default();
    supabase.keys.push(ApiKey { text: RENEWED.to_owned(), role: Role::Authenticated });
    Cloud::start(CloudSettings { supabase, ..CloudSettings::default() }).await.unwrap()
}

fn insert(cloud: &Cloud, gateway: &str, payload: &str) {
    let row = json!({ "gateway_id": gateway, "device": "lamp", "payload": payload });
    cloud.supabase.insert("commands", &row).unwrap();
}

#[tokio::test]
async fn supabase_js_joins_is_told_rows_and_leaves() {
    let cloud = cloud().await;
    let peer = ("NODE_PATH", "supabase-js/node_modules");
    let mut client = Client::start(&cloud, "node", "supabase_js.js", peer);
    client.until("ready").await;
    insert(&cloud, "other", "not for it");
    insert(&cloud, "gw", "first");
    let told = client.until("row").await;
    assert_eq!((&told["row"]["payload"], &told["type"]), (&json!("first"), &json!("INSERT")), "{told}");
    client.until("renewed").await;
    // It has sent the new token by now; that it has come is another matter.
    let renewed = async {
        while !cloud.supabase.realtime().seen().renewed.contains(&RENEWED.to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("the new token comes");
    cloud.supabase.realtime().expire(TOKEN);
    insert(&cloud, "gw", "second");
    assert_eq!(client.until("row").await["row"]["payload"], "second");
    assert_eq!(client.until("left").await["left"], "ok");
    client.ends_well().await;
    let seen = cloud.supabase.realtime().seen();
    assert_eq!(seen.joins, [("2.0.0".to_owned(), Some(TOKEN.to_owned()))], "in the version of its own");
    assert_eq!((seen.connections, seen.told), (1, 2));
    assert!(seen.renewed.contains(&RENEWED.to_owned()), "{seen:?}");
}

#[tokio::test]
async fn the_python_client_joins_is_told_a_row_and_leaves() {
    let cloud = cloud().await;
    let peer = ("PYTHONPATH", "supabase-realtime");
    let mut client = Client::start(&cloud, "python3", "realtime_client.py", peer);
    client.until("ready").await;
    insert(&cloud, "other", "not for it");
    insert(&cloud, "gw", "first");
    let told = client.until("row").await;
    assert_eq!((&told["row"]["payload"], &told["type"]), (&json!("first"), &json!("INSERT")), "{told}");
    assert_eq!(client.until("left").await["left"], "ok");
    client.ends_well().await;
    let seen = cloud.supabase.realtime().seen();
    assert_eq!(seen.joins, [("1.0.0".to_owned(), Some(TOKEN.to_owned()))], "in the version of its own");
}
