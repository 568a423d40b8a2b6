//! What a receiver of one source may do on a bus that a transmitter opened, and how it comes in.
//!
//! There is one user for each source that is open. Its rights are those of receiving and of sending edits back, nothing else:
//! it makes, changes and empties no stream, writes no change set, asks the transmitter nothing, and reads no other source.

use std::sync::Arc;

use deltabus_record::schema::SourceName;
use rustls::ClientConfig;
use serde_json::json;

use crate::access::{Access, Login};
use crate::broker::Stream;

/// Who receivers of the source are.
pub(crate) fn user(source: &SourceName) -> String {
    format!("direct-{source}")
}

/// Where their answers come: nobody else may listen there.
fn inbox(source: &SourceName) -> String {
    format!("_INBOX_direct-{source}")
}

/// How a receiver of the source comes in; `password` is the token's.
pub fn access(source: &SourceName, password: String, tls: Arc<ClientConfig>) -> Access {
    let login = Login::Password { user: user(source), password };
    Access { login, tls: Some(tls), inbox: Some(inbox(source)), ..Access::default() }
}

/// What that user may do, in nats-server's form.
pub(crate) fn permissions(source: &SourceName) -> serde_json::Value {
    let mut publish = Vec::new();
    // No consumers: one could be told to deliver to any subject, where its maker may not write, and the log would store it.
    for stream in Stream::ALL {
        let name = stream.name(source);
        publish.push(format!("$JS.API.STREAM.INFO.{name}"));
        publish.push(format!("$JS.API.DIRECT.GET.{name}"));
        publish.push(format!("$JS.API.DIRECT.GET.{name}.>"));
    }
    // Edits, and what large values in them hold: stored under their hash, by which every reader tests them.
    publish.push(format!("deltabus.{source}.reverse.*"));
    publish.push(format!("deltabus.{source}.snapshot.chunk.*"));
    publish.push(format!("deltabus.{source}.snapshot.value.*"));
    // How they stand, when they are called: nothing that anybody relies on.
    publish.push(format!("deltabus.{source}.standing"));
    let subscribe =
        [format!("{}.>", inbox(source)), format!("deltabus.{source}.live"), format!("deltabus.{source}.call")];
    json!({ "publish": { "allow": publish }, "subscribe": { "allow": subscribe } })
}
