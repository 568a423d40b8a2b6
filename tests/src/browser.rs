//! A real browser without a window, for pages that people look at.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::World;

/// Where one may be, besides on PATH.
const ELSEWHERE: [&str; 2] = [
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// By which names.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A page as it is shown: the document after everything was laid out, and a picture of it in `picture`.
pub fn open(world: &World, url: &str, picture: &Path) -> String {
    let document = run(world, &["--dump-dom", url]);
    run(world, &[&format!("--screenshot={}", picture.display()), "--window-size=1200,900", url]);
    document
}

fn run(world: &World, arguments: &[&str]) -> String {
    let profile = world.path("browser");
    let output = Command::new(program())
        .args(["--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
        // Its sandbox needs rights that tests in containers lack; the only page that it sees is ours.
        .args(["--no-sandbox", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the browser can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the browser ends with {}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    let found = on_path.chain(ELSEWHERE.map(PathBuf::from)).find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no browser: `./setup` installs it (Debian: apt-get install chromium, macOS: brew install --cask chromium)")
    })
}
