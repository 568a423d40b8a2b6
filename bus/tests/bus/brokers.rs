//! The brokers that every claim is tried on.

use std::sync::Arc;

use deltabus_bus::Log;
use deltabus_bus::broker::Broker;
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::local::{LocalBus, Running};
use deltabus_record::schema::SourceName;
use rustix::process::{Pid, Signal, kill_process};

/// A nats-server of a test's own, ended with it.
pub(crate) struct Server {
    pub(crate) bus: LocalBus,
    pub(crate) running: Running,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts one; where nats-server is missing, the failure says how to get it.
    pub(crate) fn start() -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let bus = LocalBus::new(folder.path());
        let running = bus.ensure().unwrap_or_else(|error| panic!("{error}"));
        Server { bus, running, _folder: folder }
    }

    /// Ends it without any warning, as a crash would.
    pub(crate) fn kill(&self) {
        let pid = Pid::from_raw(self.bus.status().expect("it runs").pid).expect("a process has an id");
        kill_process(pid, Signal::KILL).expect("it can be killed");
        // It takes the system a moment, in which it still takes connections.
        while self.bus.status().is_some() {
            std::thread::yield_now();
        }
    }

    pub(crate) async fn connect(&self) -> Arc<dyn Broker> {
        Arc::new(JetStream::connect(&self.running.url, &self.running.access()).await.expect("it takes connections"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.bus.stop();
        if !std::thread::panicking() {
            stopped.expect("it ends");
        }
    }
}

pub(crate) fn source(name: &str) -> SourceName {
    SourceName::new(name).expect("a good name")
}

/// The log of a new source on `broker`.
pub(crate) async fn prepared(broker: &Arc<dyn Broker>) -> Log {
    let log = Log::new(broker.clone(), source("people"));
    log.prepare().await.expect("streams can be made");
    log
}

/// Makes a test of each claim (`async fn(Arc<dyn Broker>)`) on each broker.
macro_rules! on_each_broker {
    ($($claim:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $claim() {
                let broker = std::sync::Arc::new(deltabus_bus::memory::MemoryBroker::new());
                $crate::brokers::ends(super::$claim(broker)).await;
            })*
        }

        mod on_jetstream {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                let server = $crate::brokers::Server::start();
                $crate::brokers::ends(super::$claim(server.connect().await)).await;
            })*
        }
    };
}
pub(crate) use on_each_broker;

/// Runs a claim that waits for something to come; what never comes is a failure, not a hanging test.
pub(crate) async fn ends(claim: impl Future<Output = ()>) {
    let limit = std::time::Duration::from_secs(120);
    tokio::time::timeout(limit, claim).await.expect("what is waited for comes");
}
