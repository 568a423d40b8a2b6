//! Tests that mount file systems or have networks of their own.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells the test process inside from the one outside.
const INSIDE: &str = "DELTABUS_TEST_NAMESPACE";

/// Runs `body` in a mount namespace of its own: what it mounts is nobody else's and goes with it. `test` is the full name of
/// the test that calls this, which is run again inside.
///
/// Needs Linux and `unshare` (util-linux), and that users may make namespaces where the test doesn't run as root.
pub fn in_namespace(test: &str, body: impl FnOnce()) {
    inside(test, &["--mount", "--propagation", "private"], body);
}

/// The address of the test's own network, and of the other one.
pub const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";

/// Runs `body` in a network of its own, beside which there is another: two machines, as far as programs can tell.
///
/// Needs `ip` (iproute2) and `nsenter` (util-linux) besides.
pub fn in_networks(test: &str, body: impl FnOnce(&Elsewhere)) {
    inside(test, &["--net"], || body(&Elsewhere::new()));
}

/// The other network. It goes with this value.
pub struct Elsewhere {
    keeper: Child,
}

impl Elsewhere {
    fn new() -> Elsewhere {
        // Lives until its input ends, at the latest when this process does.
        let keeper = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let elsewhere = Elsewhere { keeper: keeper.expect("this test needs `unshare` of util-linux: run ./setup") };
        let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let pid = elsewhere.keeper.id().to_string();
        let end = std::time::Instant::now() + crate::PATIENCE;
        while network(&pid).is_none() || network(&pid) == network("self") {
            assert!(std::time::Instant::now() < end, "no second network comes up");
            std::thread::yield_now();
        }
        ip(Command::new("ip"), &["link", "set", "lo", "up"]);
        ip(Command::new("ip"), &["link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &pid]);
        ip(Command::new("ip"), &["address", "add", &format!("{HERE}/24"), "dev", "near"]);
        ip(Command::new("ip"), &["link", "set", "near", "up"]);
        ip(elsewhere.command("ip"), &["link", "set", "lo", "up"]);
        ip(elsewhere.command("ip"), &["address", "add", &format!("{THERE}/24"), "dev", "far"]);
        ip(elsewhere.command("ip"), &["link", "set", "far", "up"]);
        elsewhere
    }

    /// A program that runs in the other network.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.keeper.id())).arg("--").arg(program);
        command
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn ip(mut command: Command, arguments: &[&str]) {
    let output = command.args(arguments).output().expect("this test needs `ip` of iproute2: run ./setup");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}

fn inside(test: &str, namespaces: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("a test knows its own path");
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .args(namespaces)
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .expect("this test needs `unshare` of util-linux: run ./setup");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{test} is no test of this program: {text}");
}

/// A small file system.
pub struct SmallDisk<'a> {
    folder: &'a Path,
}

impl SmallDisk<'_> {
    /// Mounts one of so many MiB at `folder`, which is made.
    pub fn mount(folder: &Path, mib: u32) -> SmallDisk<'_> {
        std::fs::create_dir_all(folder).expect("a folder can be made");
        mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], folder);
        SmallDisk { folder }
    }

    /// Fills it to the last byte but `left`.
    pub fn fill(&self, left: usize) {
        let block = vec![1; 4096];
        let mut file = std::fs::File::create(self.folder.join("filler")).expect("there is room for a name");
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        let length = file.metadata().expect("it is there").len();
        file.set_len(length.saturating_sub(left as u64)).expect("it can be cut");
    }

    /// Makes room again.
    pub fn free(&self) {
        std::fs::remove_file(self.folder.join("filler")).expect("it was filled");
    }

    /// Lets nobody write it.
    pub fn lock(&self) {
        mount(&["-o", "remount,ro"], self.folder);
    }

    /// Lets everybody write it again.
    pub fn unlock(&self) {
        mount(&["-o", "remount,rw"], self.folder);
    }
}

fn mount(arguments: &[&str], folder: &Path) {
    let output = Command::new("mount").args(arguments).arg(folder).output().expect("`mount` is there");
    assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
}
