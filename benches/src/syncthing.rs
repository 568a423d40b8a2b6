//! Two Syncthing processes on this machine, one folder between them, for a comparison.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::measure::{Measured, Result};

/// The key of both interfaces, which listen on loopback and end with the benchmark.
const KEY: &str = "benchmark";

/// How often it is asked whether all is there.
const LOOK: Duration = Duration::from_millis(100);

/// Longer than it takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A sending and a receiving process.
pub(crate) struct Syncthing {
    sender: Node,
    receiver: Node,
}

struct Node {
    process: Child,
    interface: u16,
    device: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ours, and nothing to save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Syncthing {
    /// Starts both with nothing in common yet.
    pub(crate) fn start(folder: &Path, source: &Path, copy: &Path) -> Result<Syncthing> {
        std::fs::create_dir_all(copy)?;
        let (sender, sender_port) = Node::start(&folder.join("syncthing-a"))?;
        let (receiver, receiver_port) = Node::start(&folder.join("syncthing-b"))?;
        sender.share(&receiver.device, receiver_port, sender_port, source, "sendonly")?;
        receiver.share(&sender.device, sender_port, receiver_port, copy, "receiveonly")?;
        Ok(Syncthing { sender, receiver })
    }

    /// Has the source scanned and waits until the copy has everything.
    pub(crate) fn round(&self) -> Result<Measured> {
        let start = Instant::now();
        self.sender.ask("POST", "db/scan?folder=bench", None)?;
        loop {
            let sent = self.sender.ask("GET", "db/status?folder=bench", None)?;
            let there = self.receiver.ask("GET", "db/status?folder=bench", None)?;
            let idle = sent["state"] == "idle" && there["state"] == "idle";
            let equal = ["globalBytes", "globalFiles", "globalDirectories"].iter().all(|of| sent[of] == there[of]);
            if idle && equal && there["needTotalItems"] == 0 && there["globalFiles"].as_u64() > Some(0) {
                let peak_mib = [&self.sender, &self.receiver].map(Node::peak_mib).into_iter().fold(0.0, f64::max);
                return Ok(Measured { seconds: start.elapsed().as_secs_f64(), cpu_seconds: f64::NAN, peak_mib });
            }
            if start.elapsed() > PATIENCE {
                return Err("Syncthing does not come to an end".into());
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Bytes that the receiver took in from the network so far.
    pub(crate) fn moved(&self) -> Result<u64> {
        Ok(self.receiver.ask("GET", "system/connections", None)?["total"]["inBytesTotal"].as_u64().unwrap_or(0))
    }
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Node {
    fn start(home: &PathBuf) -> Result<(Node, u16)> {
        let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet(Command::new("syncthing").arg("generate").arg("--home").arg(home).arg("--no-default-folder"))?;
        let id = Command::new("syncthing").arg("--home").arg(home).arg("--device-id").output()?;
        let device = String::from_utf8(id.stdout)?.trim().to_owned();
        let interface = free_port()?;
        let process = Command::new("syncthing")
            .arg("--home")
            .arg(home)
            .args(["--no-browser", "--no-restart", "--gui-apikey", KEY])
            .arg(format!("--gui-address=127.0.0.1:{interface}"))
            .env("STNOUPGRADE", "1")
            .env("STNODEFAULTFOLDER", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let node = Node { process, interface, device };
        let start = Instant::now();
        while node.ask("GET", "system/ping", None).is_err() {
            if start.elapsed() > PATIENCE {
                return Err("Syncthing does not start".into());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok((node, free_port()?))
    }

    /// Shares the folder with the other one, over loopback and nothing else.
    fn share(&self, other: &str, other_port: u16, port: u16, path: &Path, kind: &str) -> Result<()> {
        let mut config = self.ask("GET", "config", None)?;
        let options = &mut config["options"];
        options["listenAddresses"] = json!([format!("tcp://127.0.0.1:{port}")]);
        for off in
            ["globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "crashReportingEnabled"]
        {
            options[off] = json!(false);
        }
        options["urAccepted"] = json!(-1);
        let device = json!({ "deviceID": other, "addresses": [format!("tcp://127.0.0.1:{other_port}")] });
        config["devices"].as_array_mut().ok_or("a configuration has devices")?.push(device);
        let mine = json!([{ "deviceID": self.device }, { "deviceID": other }]);
        config["folders"] = json!([{
            "id": "bench", "path": path, "type": kind, "devices": mine, "fsWatcherEnabled": false, "rescanIntervalS": 0
        }]);
        self.ask("PUT", "config", Some(&config)).map(drop)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut command = Command::new("curl");
        command.args(["-sf", "-X", method, "-H"]).arg(format!("X-API-Key: {KEY}"));
        if let Some(body) = body {
            command.args(["-H", "Content-Type: application/json", "-d"]).arg(body.to_string());
        }
        let output = command.arg(format!("http://127.0.0.1:{}/rest/{path}", self.interface)).output()?;
        if !output.status.success() {
            return Err(format!("Syncthing refuses {method} {path}").into());
        }
        Ok(if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout)? })
    }

    fn peak_mib(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    }
}
