//! What a nats-server says of itself at its monitoring port, which speaks JSON over HTTP.
//!
//! ```no_run
//! # async fn look() -> Result<(), deltabus_bus::monitor::MonitorError> {
//! let monitor = deltabus_bus::monitor::Monitor::at("http://127.0.0.1:8222")?;
//! println!("{} connections", monitor.look().await?.connections);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use deltabus_record::schema::SourceName;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::Stream;
use crate::error::causes;

/// How long the server may take for one page.
const ANSWER: Duration = Duration::from_secs(5);

/// A page of some thousand streams is a few megabytes.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a server's figures could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The address is none.
    #[error("`{0}` is no monitoring port: http://HOST:PORT is wanted")]
    Address(String),
    /// The server doesn't answer, or not with what it should.
    #[error("the monitoring port at {address} gives no {page}: {problem}")]
    Page {
        /// Where it should be.
        address: String,
        /// What was asked for.
        page: &'static str,
        /// What happened.
        problem: String,
    },
}

/// A server's monitoring port.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Host and port.
    address: String,
}

/// A server's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its version.
    pub version: String,
    /// Clients connected.
    pub connections: u64,
    /// Subscriptions of all clients.
    pub subscriptions: u64,
    /// Clients that were cut off because they read too slowly, since its start.
    pub slow_consumers: u64,
    /// Its resident memory.
    pub memory_bytes: u64,
    /// Messages received from clients and sent to them, since its start.
    pub messages: Traffic,
    /// The same in bytes.
    pub bytes: Traffic,
    /// What JetStream stores in files.
    pub storage_bytes: u64,
    /// What it may.
    pub storage_bytes_max: u64,
    /// The streams of sources; empty where JetStream is off.
    pub streams: Vec<StreamFigures>,
}

/// Both directions, as the server sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From clients.
    pub received: u64,
    /// To clients.
    pub sent: u64,
}

/// A stream's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFigures {
    /// Whose it is.
    pub source: SourceName,
    /// Which of the source's.
    pub stream: Stream,
    /// Messages stored.
    pub messages: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// How many may be; `None`: no limit.
    pub bytes_max: Option<u64>,
    /// Its consumers.
    pub consumers: u64,
}

impl Monitor {
    /// The one at `url`, `http://HOST:PORT`; nothing is asked yet.
    pub fn at(url: &str) -> Result<Monitor, MonitorError> {
        let wrong = || MonitorError::Address(url.to_owned());
        let address = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let plain = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c));
        if !plain || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Monitor { address: address.to_owned() })
    }

    /// Reads its figures.
    pub async fn look(&self) -> Result<Server, MonitorError> {
        let varz: Varz = self.page("/varz").await?;
        let jsz: Jsz = self.page("/jsz?accounts=1&streams=1&config=1").await?;
        let streams = jsz.account_details.into_iter().flat_map(|account| account.stream_detail);
        let streams = streams.filter_map(|stream| {
            let (source, kind) = Stream::named(&stream.name)?;
            Some(StreamFigures {
                source,
                stream: kind,
                messages: stream.state.messages,
                bytes: stream.state.bytes,
                bytes_max: u64::try_from(stream.config.max_bytes).ok().filter(|limit| *limit > 0),
                consumers: stream.state.consumer_count,
            })
        });
        Ok(Server {
            version: varz.version,
            connections: varz.connections,
            subscriptions: varz.subscriptions,
            slow_consumers: varz.slow_consumers,
            memory_bytes: varz.mem,
            messages: Traffic { received: varz.in_msgs, sent: varz.out_msgs },
            bytes: Traffic { received: varz.in_bytes, sent: varz.out_bytes },
            storage_bytes: jsz.storage,
            storage_bytes_max: u64::try_from(jsz.config.max_storage).unwrap_or(0),
            streams: streams.collect(),
        })
    }

    async fn page<T: serde::de::DeserializeOwned>(&self, page: &'static str) -> Result<T, MonitorError> {
        let failed = |problem: String| MonitorError::Page { address: self.address.clone(), page, problem };
        let asked = timeout(ANSWER, self.fetch(page)).await;
        let answer = asked.map_err(|_| failed("no answer".into()))?.map_err(|error| failed(causes(&error)))?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = answer.split_at(end.ok_or_else(|| failed("no answer of HTTP".into()))?);
        let status = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if status != b"200" {
            return Err(failed(format!("status {}", String::from_utf8_lossy(status))));
        }
        serde_json::from_slice(&body[4..]).map_err(|error| failed(error.to_string()))
    }

    /// One request by the oldest version of HTTP, which answers in one piece and then ends the connection.
    async fn fetch(&self, page: &str) -> std::io::Result<Vec<u8>> {
        let mut connection = TcpStream::connect(&self.address).await?;
        connection.write_all(format!("GET {page} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).as_bytes()).await?;
        let mut answer = Vec::new();
        connection.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Varz {
    version: String,
    connections: u64,
    subscriptions: u64,
    slow_consumers: u64,
    mem: u64,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Jsz {
    storage: u64,
    config: JszConfig,
    account_details: Vec<Account>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JszConfig {
    max_storage: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Account {
    stream_detail: Vec<Detail>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Detail {
    name: String,
    state: DetailState,
    config: DetailConfig,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DetailState {
    messages: u64,
    bytes: u64,
    consumer_count: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DetailConfig {
    max_bytes: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitoring_port_has_a_host_and_a_port_and_nothing_else() {
        for url in ["http://127.0.0.1:8222", "http://bus.example.org:8222/", "http://[::1]:8222"] {
            assert!(Monitor::at(url).is_ok(), "{url}");
        }
        for url in
            ["127.0.0.1:8222", "https://bus:8222", "http://bus", "http://:8222", "http://bus\r\nx:1", "http://b:x"]
        {
            assert!(Monitor::at(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn what_is_no_page_is_an_error_that_says_where() {
        for answer in
            ["", "junk", "HTTP/1.0 404 Not Found\r\n\r\n{}", "HTTP/1.0 200 OK\r\n\r\n{", "HTTP/1.0 200 OK\r\n"]
        {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let address = listener.local_addr().expect("it has an address").to_string();
            tokio::spawn(async move {
                let (mut asked, _) = listener.accept().await.expect("somebody asks");
                let mut request = [0; 256];
                let _ = asked.read(&mut request).await;
                let _ = asked.write_all(answer.as_bytes()).await;
            });
            let monitor = Monitor::at(&format!("http://{address}")).expect("it is an address");
            let error = monitor.look().await.expect_err(answer).to_string();
            assert!(error.contains(&address) && error.contains("/varz"), "{answer}: {error}");
        }
    }
}
