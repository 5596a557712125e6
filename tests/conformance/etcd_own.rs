//! What only etcd has: its other key formats, and its users.

use std::time::Duration;

use prestop::Deadline;
use prestop::registry::etcd::{Etcd, KeyFormat};
use prestop::registry::{Beat, Gone, Instance, Registry};
use serde_json::{Value, json};

use crate::fixtures::etcd as fixture;
use crate::fixtures::etcd::encode;
use crate::raw;
use crate::server::{BOUND, Server};

const PASSWORD: &str = "hush-hush";

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

fn orders() -> Instance {
    Instance::new("orders", ([10, 0, 0, 5], 50051).into()).with_id("o-1")
}

struct Cluster(Server<fixture::Etcd>);

impl Cluster {
    async fn start() -> Option<Self> {
        Server::start().await.map(Self)
    }

    fn etcd(&self) -> Etcd {
        let member = format!("http://{}", self.0.at());
        let etcd = Etcd::new([member]).unwrap();
        etcd.with_ttl(Duration::from_secs(600))
    }

    async fn ask(&self, path: &str, token: &str, body: Value) -> raw::Answer {
        let request = format!("POST /v3/{path}");
        let token = if token.is_empty() {
            String::new()
        } else {
            format!("\r\nauthorization: {token}")
        };
        let body = body.to_string();
        raw::ask_with(self.0.at(), &request, &token, &body)
            .await
            .unwrap()
    }

    async fn must(&self, path: &str, token: &str, body: Value) -> Value {
        let answer = self.ask(path, token, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json().unwrap()
    }

    /// Every key with its value.
    async fn keys(&self) -> Vec<(String, String)> {
        let all = json!({ "key": encode("\0"), "range_end": encode("\0") });
        let found = self.must("kv/range", "", all).await;
        let pairs = found["kvs"].as_array().into_iter().flatten();
        let text = |value: &Value| fixture::decode(value.as_str().unwrap());
        pairs
            .map(|pair| (text(&pair["key"]), text(&pair["value"])))
            .collect()
    }

    /// Users `root` and `svc`, the latter with this permission on what begins with `orders/`.
    async fn with_users(&self, permission: &str) {
        for user in ["root", "svc"] {
            let add = json!({ "name": user, "password": PASSWORD });
            self.must("auth/user/add", "", add).await;
            self.must("auth/role/add", "", json!({ "name": user }))
                .await;
            let grant = json!({ "user": user, "role": user });
            self.must("auth/user/grant", "", grant).await;
        }
        let permission = json!({
            "permType": permission,
            "key": encode("orders/"),
            "range_end": encode("orders0"),
        });
        let grant = json!({ "name": "svc", "perm": permission });
        self.must("auth/role/grant", "", grant).await;
        self.must("auth/enable", "", json!({})).await;
    }

    async fn token(&self) -> String {
        let login = json!({ "name": "root", "password": PASSWORD });
        let answer = self.must("auth/authenticate", "", login).await;
        answer["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn each_format_makes_its_own_key_and_leaving_takes_no_other() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let others = [
        ("orders", "x"),
        ("orders/", "x"),
        ("/microservices/orders/o-2", "x"),
    ];
    for (key, value) in others {
        let put = json!({ "key": encode(key), "value": encode(value) });
        cluster.must("kv/put", "", put).await;
    }
    let others = cluster.keys().await;
    let kratos = r#"{"id":"o-1","name":"orders","version":"","metadata":{},"endpoints":["grpc://10.0.0.5:50051"]}"#;
    let grpc = r#"{"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}"#;
    let custom = |i: &Instance, lease| (format!("{}:{lease:x}", i.id()), "here".to_owned());
    for (format, key, value) in [
        (KeyFormat::grpc_naming(), "orders/10.0.0.5:50051", grpc),
        (
            KeyFormat::kratos("grpc"),
            "/microservices/orders/o-1",
            kratos,
        ),
        (KeyFormat::go_zero(), "orders/", "10.0.0.5:50051"),
        (KeyFormat::custom(custom), "o-1:", "here"),
    ] {
        let etcd = cluster.etcd().with_format(format);
        let mut entry = etcd.register(&orders(), soon()).await.unwrap();
        // What an attempt leaves behind whose answer was lost.
        let mut again = etcd.register(&orders(), soon()).await.unwrap();
        let keys = cluster.keys().await;
        let new: Vec<_> = keys.iter().filter(|pair| !others.contains(pair)).collect();
        assert_eq!(new.len(), 1, "{keys:?}");
        assert!(new[0].0.starts_with(key), "{new:?}");
        assert_eq!(new[0].1, value);

        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
        assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
        assert_eq!(again.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
        assert_eq!(cluster.keys().await, others);
    }
}

#[tokio::test]
async fn a_key_that_somebody_deleted_is_put_again_on_the_same_lease() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let etcd = cluster.etcd();
    let mut entry = etcd.register(&orders(), soon()).await.unwrap();
    let before = cluster.keys().await;
    let delete = json!({ "key": encode("orders/10.0.0.5:50051") });
    cluster.must("kv/deleterange", "", delete).await;
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    let mut again = etcd.register(&orders(), soon()).await.unwrap();
    assert_eq!(cluster.keys().await, before);
    let leases = cluster.must("lease/leases", "", json!({})).await;
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1, "{leases}");
    assert_eq!(again.deregister(soon()).await.unwrap(), Gone::Removed);
}

#[tokio::test]
async fn a_user_registers_and_leaves_also_with_a_token_that_is_no_longer_taken() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    cluster.with_users("READWRITE").await;
    let stranger = cluster.etcd().register(&orders(), soon()).await;
    let error = stranger.map(drop).unwrap_err().to_string();
    assert!(error.contains("see Etcd::with_user"), "{error}");
    let wrong = cluster.etcd().with_user("svc", "open sesame");
    let error = wrong
        .register(&orders(), soon())
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("invalid user ID or password"), "{error}");
    assert!(!error.contains("sesame"), "{error}");

    let etcd = cluster.etcd().with_user("svc", PASSWORD);
    let elsewhere = Instance::new("payments", orders().address());
    let error = etcd
        .register(&elsewhere, soon())
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        error.to_string().contains("needs readwrite on the key"),
        "{error}"
    );

    let mut entry = etcd.register(&orders(), soon()).await.unwrap();
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    // As by a restart, or after five minutes without a call, every token is forgotten.
    let root = cluster.token().await;
    cluster.must("auth/disable", &root, json!({})).await;
    cluster.must("auth/enable", "", json!({})).await;
    assert_eq!(
        cluster
            .ask("kv/range", &root, json!({"key": "YQ=="}))
            .await
            .status,
        401
    );
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    let root = cluster.token().await;
    cluster.must("auth/disable", &root, json!({})).await;
    cluster.must("auth/enable", "", json!({})).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
}

#[tokio::test]
async fn a_user_who_may_only_write_does_without_reading_back() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    cluster.with_users("WRITE").await;
    let etcd = cluster.etcd().with_user("svc", PASSWORD);
    let mut entry = etcd.register(&orders(), soon()).await.unwrap();
    assert_eq!(entry.is_listed(soon()).await.unwrap(), None);
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
}
