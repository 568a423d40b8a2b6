//! A bus with a manager, and clients that speak with it as nobody means them to.

use std::net::TcpListener;
use std::sync::Arc;

use async_nats::{Auth, AuthError, Client, ConnectOptions, Event};
use deltabus_bus::access::Issuer;
use deltabus_manager::{Client as ManagerClient, Identities, Membership};
use tokio::sync::mpsc;

use crate::{Running, World};

/// A bus with a manager, set up as anybody would.
pub struct Managed<'a> {
    world: &'a World,
    manager: Option<Running>,
    manager_port: u16,
    bus_port: u16,
}

impl<'a> Managed<'a> {
    /// Sets one up in the folder `bus` and starts it; `options` are more of `deltabus manage`.
    pub fn start(world: &'a World, options: &str) -> Managed<'a> {
        let (bus_port, manager_port) = (free_port(), free_port());
        let set_up = format!(
            "manage --new bus --host localhost --bus-port {bus_port} --manager-port {manager_port} --setup-only {options}"
        );
        world.run(&set_up).exits(0);
        let mut managed = Managed { world, manager: None, manager_port, bus_port };
        managed.restart();
        managed
    }

    /// Starts the manager, again if need be.
    pub fn restart(&mut self) {
        self.manager = None;
        self.manager = Some(self.world.start("manage --config bus/manager.toml"));
        self.wait_for(self.manager_port);
    }

    /// Kills the manager with signal 9; its broker lives on.
    pub fn kill(&mut self) {
        if let Some(manager) = self.manager.take() {
            manager.kill();
        }
    }

    /// Starts another manager of the same bus, with the same keys; gives its address.
    pub fn second(&self) -> (Running, String) {
        let port = free_port();
        let first = self.world.read("bus/manager.toml");
        let second = first
            .replace(&format!("0.0.0.0:{}", self.manager_port), &format!("127.0.0.1:{port}"))
            .replace("manager-1", "manager-2")
            .replace("broker = \"nats-server.conf\"", "");
        std::fs::write(self.world.path("bus/second.toml"), second).expect("a file can be written");
        let running = self.world.start("manage --config bus/second.toml");
        self.wait_for(port);
        (running, format!("https://localhost:{port}"))
    }

    fn wait_for(&self, port: u16) {
        self.world.wait("the manager listens", || {
            // It takes connections when its log says so; before that the port is only bound.
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && self.world.run("who").code() == Some(0)
        });
    }

    /// The manager's address.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.manager_port)
    }

    /// The bus's address.
    pub fn bus_url(&self) -> String {
        format!("tls://localhost:{}", self.bus_port)
    }

    /// Makes a token for somebody with these rights, in the file `<name>.token`.
    pub fn token(&self, name: &str, rights: &str) {
        self.world.run(&format!("enroll {name} {rights} --output {name}.token")).exits(0);
    }

    /// A command of somebody who was given a token, with a state directory of its own.
    pub fn line(&self, name: &str, command: &str) -> String {
        format!("{command} --manager {} --token-file {name}.token --state state-{name}", self.url())
    }

    /// A NATS client that has the credentials of somebody who has enrolled.
    pub async fn intruder(&self, name: &str) -> Intruder {
        let identities = Identities::new(self.world.path(&format!("state-{name}")).join("manager"));
        let identity = identities.all().expect("they can be read").pop().expect("it has enrolled");
        let tls = identity.tls().expect("its TLS settings are good");
        let client = Arc::new(ManagerClient::new(identity).expect("its manager has an address"));
        let membership = Membership::new(client, identities);
        let (said, violations) = mpsc::unbounded_channel();
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let membership = membership.clone();
            let issued = tokio::spawn(async move { membership.credentials(&nonce).await });
            async move {
                let issued = issued.await.map_err(AuthError::new)?.map_err(AuthError::new)?;
                let mut auth = Auth::new();
                (auth.jwt, auth.signature) = (Some(issued.jwt), Some(issued.signature));
                Ok(auth)
            }
        });
        let client = options
            .require_tls(true)
            .tls_client_config(tls)
            .custom_inbox_prefix(format!("_INBOX_{name}"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = &event {
                    let _ = said.send(error.to_string());
                }
                async {}
            })
            .connect(self.bus_url())
            .await
            .expect("it may connect");
        Intruder { client, violations }
    }
}

impl Drop for Managed<'_> {
    fn drop(&mut self) {
        self.manager = None;
        // Its broker has a life of its own.
        let pid = std::fs::read_to_string(self.world.path("bus/nats-server.pid")).ok();
        let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A client that tries what it may not.
pub struct Intruder {
    /// The connection.
    pub client: Client,
    violations: mpsc::UnboundedReceiver<String>,
}

impl Intruder {
    /// Publishes; whether the server refused that.
    pub async fn may_not_publish(&mut self, subject: &str) -> bool {
        self.client.publish(subject.to_owned(), "x".into()).await.expect("it goes out");
        self.is_refused("Publish", subject).await
    }

    /// Subscribes; whether the server refused that.
    pub async fn may_not_subscribe(&mut self, subject: &str) -> bool {
        let _subscription = self.client.subscribe(subject.to_owned()).await.expect("it goes out");
        self.is_refused("Subscription", subject).await
    }

    /// The server answers in order: something that is refused for certain tells that it has said all about what came before.
    async fn is_refused(&mut self, how: &str, subject: &str) -> bool {
        const CERTAIN: &str = "nobody.may";
        self.client.publish(CERTAIN, "x".into()).await.expect("it goes out");
        self.client.flush().await.expect("it goes out");
        let mut refused = false;
        loop {
            let said = tokio::time::timeout(crate::PATIENCE, self.violations.recv()).await;
            let said = said.expect("the server answers").expect("the client lives");
            if said.contains(&format!("\"{CERTAIN}\"")) {
                return refused;
            }
            refused |= said.contains("Permissions Violation")
                && said.contains(how)
                && said.contains(&format!("\"{subject}\""));
        }
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}
