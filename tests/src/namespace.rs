//! Tests that mount file systems of their own.

use std::path::Path;
use std::process::Command;

/// Tells the test process inside from the one outside.
const INSIDE: &str = "DELTABUS_TEST_NAMESPACE";

/// Runs `body` in a mount namespace of its own: what it mounts is nobody else's and goes with it. `test` is the full name of
/// the test that calls this, which is run again inside.
///
/// Needs Linux and `unshare` (util-linux), and that users may make namespaces where the test doesn't run as root.
pub fn in_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("a test knows its own path");
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .args(["--mount", "--propagation", "private"])
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
