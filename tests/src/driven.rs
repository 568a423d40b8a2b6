//! A real browser without a window that does what a person would: opens pages, presses keys, looks. It is told so over a pipe, by
//! Chromium's own DevTools protocol.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::{PATIENCE, Running, World, browser};

/// A browser with a profile of its own and one tab; killed when dropped.
pub struct Driven<'a> {
    world: &'a World,
    to: File,
    from: Receiver<Value>,
    session: String,
    last: u64,
    /// What the page complained about: errors on its console, exceptions, what its policy forbade.
    complaints: Vec<String>,
    _running: Running,
}

impl<'a> Driven<'a> {
    /// Starts one. `name` is its profile's.
    pub fn start(world: &'a World, name: &str) -> Driven<'a> {
        let profile = world.path(&format!("browser-{name}"));
        std::fs::create_dir(&profile).expect("a folder can be made");
        let pipes = ["to", "from"].map(|way| profile.join(way));
        let made = Command::new("mkfifo").args(&pipes).status().expect("mkfifo is there");
        assert!(made.success(), "pipes can be made");
        // The browser's descriptors 3 and 4, which only a shell can say without unsafe code.
        let mut command = Command::new("sh");
        command
            .args(["-c", "to=$1; from=$2; shift 2; exec \"$@\" 3<\"$to\" 4>\"$from\"", "sh"])
            .args(&pipes)
            .arg(browser::program())
            .args(["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--lang=en"])
            // Its sandbox needs rights that tests in containers lack; the only page that it sees is ours.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"])
            // The manager's authority is of this test alone.
            .args(["--ignore-certificate-errors", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.join("profile").display()))
            .arg("about:blank")
            .stdin(Stdio::null());
        let running = world.start_as(&format!("browser {name}"), command);
        let to = OpenOptions::new().write(true).open(&pipes[0]).expect("the browser listens");
        let read = File::open(&pipes[1]).expect("the browser answers");
        let (sender, from) = mpsc::channel();
        std::thread::spawn(move || {
            for message in BufReader::new(read).split(0) {
                let message = message.ok().and_then(|message| serde_json::from_slice(&message).ok());
                let Some(message) = message else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let (session, complaints) = (String::new(), Vec::new());
        let mut driven = Driven { world, to, from, session, last: 0, complaints, _running: running };
        let target = driven.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = driven.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        driven.session = attached["sessionId"].as_str().expect("a session has a name").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            driven.call(&format!("{domain}.enable"), json!({}));
        }
        driven
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser listens");
        loop {
            let heard = self.from.recv_timeout(PATIENCE);
            let heard = heard.unwrap_or_else(|_| panic!("the browser doesn't answer {method}\n{}", self.world.logs()));
            if heard["id"] == self.last {
                assert!(heard["error"].is_null(), "{method}: {}", heard["error"]);
                return heard["result"].clone();
            }
            self.note(&heard);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(parameters["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" || parameters["type"] == "assert" => {
                self.complaints.push(parameters["args"].to_string());
            }
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            _ => {}
        }
    }

    /// Opens an address, and waits until it is there.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.wait("the page is there", "document.readyState === 'complete'");
    }

    /// What an expression is on the page; promises are waited for.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// The text of the page, as a person reads it.
    pub fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression holds on the page.
    pub fn wait(&mut self, what: &str, expression: &str) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            // A page that is just being left has no document.
            let asked = json!({ "expression": format!("Boolean({expression})"), "returnByValue": true });
            let answer = self.call("Runtime.evaluate", asked);
            if answer["result"]["value"] == true {
                return;
            }
            if std::time::Instant::now() > end {
                let seen = self.text();
                panic!("waited in vain until {what}; the page:\n{seen}\n{:?}\n{}", self.complaints, self.world.logs());
            }
            std::thread::park_timeout(crate::LOOK);
        }
    }

    /// Waits until the page says something.
    pub fn wait_for(&mut self, text: &str) {
        self.wait(&format!("the page says {text:?}"), &format!("document.body.innerText.includes({})", json!(text)));
    }

    /// Presses and releases a key.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            other => panic!("nobody has said what {other} is"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Goes on by Tab until what has the focus says this, as somebody does who has no mouse.
    pub fn tab_to(&mut self, text: &str) {
        const STOPS_MAX: usize = 100;
        for _ in 0..STOPS_MAX {
            self.press("Tab");
            let focused = self.value("document.activeElement?.innerText ?? ''");
            if focused.as_str().is_some_and(|focused| focused.trim() == text) {
                let visible = self.value("getComputedStyle(document.activeElement).outlineStyle !== 'none'");
                assert_eq!(visible, true, "one sees that {text:?} has the focus");
                return;
            }
        }
        panic!("{text:?} can't be reached by Tab; the page:\n{}", self.text());
    }

    /// As a screen of that size with that colour scheme.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Takes a picture, where the environment names a folder for it (`DELTABUS_PICTURES`).
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("DELTABUS_PICTURES") else { return };
        // No more than there is to see.
        let size = "[innerWidth, Math.min(innerHeight, 20 + Math.ceil(Math.max(...[...document.querySelectorAll('main *')].map(one => \
             one.getBoundingClientRect().bottom))))]";
        let size = self.value(size);
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png", "clip": clip }));
        let data = picture["data"].as_str().expect("a picture has data");
        let bytes = BASE64.decode(data.as_bytes()).expect("it is base64");
        std::fs::write(std::path::Path::new(&folder).join(name), bytes).expect("a file can be written");
    }

    /// What the page complained about so far.
    pub fn complaints(&mut self) -> Vec<String> {
        // Whatever came before this answer was said before.
        self.value("0");
        std::mem::take(&mut self.complaints)
    }
}
