//! A nats-server with settings of a test's own.

use std::process::{Child, Command};

use crate::World;

/// A nats-server; killed when dropped.
pub struct Broker {
    child: Child,
    url: String,
    monitoring: Option<String>,
}

impl Broker {
    /// Starts one in the world's folder, on a free port of the loopback address, with these settings besides.
    pub fn start(world: &World, settings: &str) -> Broker {
        let (program, _) = deltabus_bus::local::find_server().unwrap_or_else(|error| panic!("{error}"));
        let ports = world.path("ports");
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir(&ports).expect("a folder can be made");
        let configuration =
            format!("listen: \"127.0.0.1:-1\"\nports_file_dir: {:?}\n{settings}\n", ports.display().to_string());
        std::fs::write(world.path("broker.conf"), configuration).expect("a file can be written");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(world.path("broker.log"));
        let log = log.expect("a log can be made");
        let mut command = Command::new(program);
        command.arg("-c").arg(world.path("broker.conf")).current_dir(world.path(".")).stderr(log);
        let child = command.spawn().expect("nats-server can be started");
        let said = ports.join(format!("nats-server_{}.ports", child.id()));
        let url = || {
            let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&said).ok()?).ok()?;
            Some((said["nats"][0].as_str()?.to_owned(), said["monitoring"][0].as_str().map(str::to_owned)))
        };
        let mut broker = Broker { child, url: String::new(), monitoring: None };
        world.wait("the broker is up", || {
            (broker.url, broker.monitoring) = url().unwrap_or_default();
            !broker.url.is_empty()
        });
        broker
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its monitoring port is, if the settings ask for one.
    pub fn monitoring(&self) -> &str {
        self.monitoring.as_deref().expect("the settings ask for a monitoring port")
    }

    /// The port it listens on.
    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().expect("an address has a port")
    }

    /// Has it read its configuration, and the files that it names, again.
    pub fn reload(&self) {
        let (program, _) = deltabus_bus::local::find_server().unwrap_or_else(|error| panic!("{error}"));
        let signal = format!("reload={}", self.child.id());
        let status = Command::new(program).args(["--signal", &signal]).status().expect("nats-server can be started");
        assert!(status.success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
