//! x
mod claims;
mod error;
mod keys;
pub mod rights;
pub use error::Error;
pub use keys::Keys;

#[cfg(test)]
mod probe {
    use super::*;
    use std::process::{Command, Stdio};
    use futures::StreamExt;

    async fn connect(url: &str, jwt: String, key: nkeys::KeyPair, name: &str) -> async_nats::Client {
        let key = std::sync::Arc::new(key);
        async_nats::ConnectOptions::with_jwt(jwt, move |nonce| { let key = key.clone(); async move { key.sign(&nonce).map_err(async_nats::AuthError::new) } })
            .custom_inbox_prefix(format!("_INBOX_{name}"))
            .event_callback(|event| async move { println!("{event}") })
            .connect(url).await.unwrap()
    }

    #[tokio::test]
    async fn probe() {
        let dir = tempfile::tempdir().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let (keys, trusted) = Keys::make(&dir.path().join("keys"), "test", now).unwrap();
        let conf = format!("listen: \"127.0.0.1:-1\"\nports_file_dir: {d:?}\nmax_control_line: 65536\njetstream {{ store_dir: \"{d}/js\" }}\noperator: {}\nsystem_account: {}\nresolver {{ type: full, dir: \"{d}/acc\" }}\nresolver_preload: {{ {}: {}, {}: {} }}\n",
            trusted.operator, trusted.system_key, trusted.account_key, trusted.account, trusted.system_key, trusted.system, d = dir.path().display());
        std::fs::write(dir.path().join("c.conf"), conf).unwrap();
        let server = std::path::Path::new(&std::env::var("HOME").unwrap()).join(".local/share/deltabus/bin/nats-server");
        let mut child = Command::new(server).arg("-c").arg(dir.path().join("c.conf")).stdin(Stdio::null()).spawn().unwrap();
        let ports = dir.path().join(format!("nats-server_{}.ports", child.id()));
        while !ports.exists() { tokio::time::sleep(std::time::Duration::from_millis(20)).await; }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let url = serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(&ports).unwrap()).unwrap()["nats"][0].as_str().unwrap().to_owned();
        let key = nkeys::KeyPair::new_user();
        let jwt = claims::everything("m", &key.public_key(), &keys.account, &keys.managers, now, None).unwrap();
        let admin = connect(&url, jwt, key, "m").await;
        let js = async_nats::jetstream::new(admin.clone());
        for (name, subjects) in [("deltabus_people", "deltabus.people.changes"), ("deltabus_people_REVERSE", "deltabus.people.reverse.>"), ("deltabus_people_SNAPSHOT", "deltabus.people.snapshot.>")] {
            js.create_stream(async_nats::jetstream::stream::Config { name: name.into(), subjects: vec![subjects.into()], allow_direct: true, ..Default::default() }).await.unwrap();
        }
        let rights = rights::Rights { read: ["people".to_owned()].into(), reverse: ["people".to_owned()].into(), receivers: ["oslo".to_owned()].into(), ..Default::default() };
        let key = nkeys::KeyPair::new_user();
        let jwt = claims::Participant { name: "oslo", key: &key.public_key(), rights: &rights, account: &keys.account }.signed(&keys.participants, now, now + 600).unwrap();
        let oslo = connect(&url, jwt, key, "oslo").await;
        let ojs = async_nats::jetstream::new(oslo.clone());
        println!("reverse own: {:?}", ojs.publish("deltabus.people.reverse.oslo", "evil".into()).await.unwrap().await);
        let timeout = std::time::Duration::from_secs(1);
        println!("reverse other: {:?}", tokio::time::timeout(timeout, ojs.publish("deltabus.people.reverse.bergen", "evil".into()).await.unwrap().into_future()).await);
        println!("changes: {:?}", tokio::time::timeout(timeout, ojs.publish("deltabus.people.changes", "evil".into()).await.unwrap().into_future()).await);
        // The reply trick.
        oslo.publish_with_reply("$JS.API.DIRECT.GET.deltabus_people_REVERSE.deltabus.people.reverse.oslo", "deltabus.people.changes", "".into()).await.unwrap();
        oslo.publish_with_reply("deltabus.people.reverse.oslo", "deltabus.people.changes", "x".into()).await.unwrap();
        oslo.flush().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut s = js.get_stream("deltabus_people").await.unwrap();
        println!("messages in changes: {}", s.info().await.unwrap().state.messages);
        if let Ok(m) = s.get_raw_message(1).await { println!("{:?}", m); }
        println!("own last: {:?}", oslo.request("$JS.API.DIRECT.GET.deltabus_people_REVERSE.deltabus.people.reverse.oslo", "".into()).await.map(|m| m.payload));
        println!("info: {:?}", oslo.request("$JS.API.STREAM.INFO.deltabus_people", "".into()).await.map(|m| m.payload.len()));
        println!("purge: {:?}", tokio::time::timeout(timeout, oslo.request("$JS.API.STREAM.PURGE.deltabus_people", "".into())).await.map(|m| m.map(|m| m.payload)));
        let _ = oslo.subscribe("deltabus.people.live").await.unwrap();
        child.kill().unwrap(); child.wait().unwrap();
    }
}
