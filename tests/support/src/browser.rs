//! A real Chromium without a window, driven by its ChromeDriver.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{free_port, http, wait_for};

/// The flags without which it asks others for this and that, or needs what a test machine has not.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// One browser with one tab; ended on drop.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts it. Takes Debian's packages `chromium` and `chromium-driver`.
    #[must_use]
    pub fn start() -> Self {
        let (port, profile) = (free_port(), TempDir::new().expect("there is room for a profile"));
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        wait_for("ChromeDriver listens", Duration::from_secs(30), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let folder = browser._profile.path().display().to_string();
        let flags: Vec<_> = FLAGS
            .iter()
            .map(|flag| (*flag).to_owned())
            .chain([format!("--user-data-dir={folder}")])
            .collect();
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": flags } } } });
        let made = browser.order("POST", "/session", &wanted);
        browser.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        browser
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page; `arguments` are its `arguments`. Gives what it returns.
    pub fn run(&self, script: &str, arguments: &Value) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// Runs a script in the page, and gives what it calls its last argument with.
    #[must_use]
    pub fn run_until_done(&self, script: &str) -> Value {
        self.post("/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// What an expression gives in the page.
    pub fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return {expression}"), &json!([]))
    }

    /// Types on the keyboard, into whatever has the focus. Special keys are WebDriver's characters.
    pub fn keys(&self, keys: &str) {
        let actions: Vec<_> = keys
            .chars()
            .flat_map(|key| {
                [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
            })
            .collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }));
    }

    /// Gives the page this many pixels, and says whether it is to be dark.
    pub fn look(&self, width: u32, height: u32, is_dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// A picture of what is in sight, as PNG in base64.
    #[must_use]
    pub fn picture(&self) -> String {
        let picture = self.order("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        picture.as_str().expect("a picture is text").to_owned()
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.order("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn order(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = http::request(method, self.port, path, &[("Content-Type", "application/json")], &body);
        assert_eq!(reply.status, 200, "{method} {path} {body}: {}", reply.body);
        let mut reply: Value = serde_json::from_str(&reply.body).expect("ChromeDriver answers in JSON");
        reply["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.order("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        // It ends its browser with itself.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.driver),
            rustix::process::Signal::TERM,
        );
        let _ = self.driver.wait();
    }
}
