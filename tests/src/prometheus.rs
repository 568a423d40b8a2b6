//! A real Prometheus, with the configuration of `broker-config/prometheus`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::watched::{free_address, get};
use crate::{Running, World};

/// The folder of this project's configuration.
pub fn configuration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker-config/prometheus")
}

/// A program of Prometheus's, `prometheus` or `promtool`; a test that lacks it fails and says how to get it.
pub fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut folders = std::env::split_paths(&path).chain(beside);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()));
    let found = found.unwrap_or_else(|| {
        panic!("there is no `{name}`: `./setup` installs it (Debian: apt-get install prometheus, macOS: brew install prometheus)")
    });
    let mut command = Command::new(found);
    command.stdin(Stdio::null());
    command
}

/// A Prometheus that runs; killed when dropped.
pub struct Prometheus {
    /// Host and port.
    pub address: String,
    _running: Running,
}

impl Prometheus {
    /// Starts one that asks these addresses every second, by the name of the file in `targets/`.
    pub fn start(world: &World, targets: &[(&str, Vec<&str>)]) -> Prometheus {
        let folder = world.path("prometheus");
        let consoles = configuration();
        std::fs::create_dir_all(folder.join("targets")).expect("a folder can be made");
        for name in ["prometheus.yml", "rules.yml", "alerts.yml"] {
            let text = std::fs::read_to_string(consoles.join(name)).expect("the configuration is there");
            let quick = text.replace("_interval: 15s", "_interval: 1s");
            std::fs::write(folder.join(name), quick).expect("a file can be written");
        }
        for (name, addresses) in targets {
            assert!(consoles.join(format!("targets/{name}.yml")).is_file(), "there is no targets/{name}.yml");
            let list = serde_json::json!([{ "targets": addresses }]);
            std::fs::write(folder.join(format!("targets/{name}.yml")), list.to_string())
                .expect("a file can be written");
        }
        let address = free_address();
        let mut command = program("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--web.console.templates={}", consoles.join("consoles").display()))
            .arg(format!("--web.console.libraries={}", consoles.join("console_libraries").display()))
            .current_dir(&folder);
        let running = world.start_as("prometheus", command);
        world.wait("Prometheus is ready", || get(&address, "/-/ready").is_some());
        Prometheus { address, _running: running }
    }

    /// What the API answers at a path; an error is a failure.
    pub fn ask(&self, path: &str) -> Value {
        let answer = get(&self.address, path).unwrap_or_else(|| panic!("Prometheus refuses {path}"));
        let answer: Value = serde_json::from_str(&answer).expect("the API speaks JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The series that an expression gives.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)));
        match data["resultType"].as_str() {
            Some("vector") => data["result"].as_array().cloned().unwrap_or_default(),
            _ => panic!("{expression} gives no vector: {data}"),
        }
    }
}

/// As a part of an address.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
