//! A real browser, and what a person does with it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use integration_tests::{Subprocess, Tool, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::DEADLINE;
use crate::webdriver::Session;

/// Names the folder in which images of the page are left.
const SCREENSHOTS: &str = "OUTBOX_SCREENSHOTS";
/// Between two looks at the page, which asks the relay every two seconds.
const LOOK: Duration = Duration::from_millis(100);

/// Keeps the texts of all messages that the page has shown.
const KEEP_TOASTS: &str = "window.toasts = []; \
    new MutationObserver((changes) => { \
        for (const change of changes) for (const node of change.addedNodes) window.toasts.push(node.textContent); \
    }).observe(document.querySelector('#toasts'), { childList: true })";

/// A window of chromium, which ends with the test.
pub(crate) struct Browser {
    session: Session,
    _driver: Subprocess,
    // Behind the process: the folder goes when the process is gone.
    _folder: TempDir,
}

impl Browser {
    /// Opens a page. `None` if there is no browser here, and nobody requires one.
    pub(crate) async fn open(url: &str) -> Option<Self> {
        let (chromium, chromedriver) = (Tool::Chromium.find()?, Tool::Chromedriver.find()?);
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(chromedriver);
        // A port of its own choice, and no settings of whoever runs the tests.
        command.arg("--port=0").env("HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
        let driver = Subprocess::start("chromedriver", command);
        let port = eventually("chromedriver", DEADLINE, || async { port(&driver.log()) }).await;
        let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
        let mut flags = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1360,900",
        ];
        flags.push(&profile);
        let options = json!({
            "goog:chromeOptions": { "args": flags, "binary": chromium },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = Session::start(port, &options);
        session.post("url", &json!({ "url": url })).unwrap();
        let browser = Self { session, _driver: driver, _folder: folder };
        browser.run(KEEP_TOASTS);
        Some(browser)
    }

    /// Waits for a message that the page shows for some seconds. A look may come later than that.
    pub(crate) async fn toast(&self, text: &str) {
        eventually(text, DEADLINE, || async {
            let toasts = self.run("return window.toasts");
            let shown = toasts.as_array().into_iter().flatten().filter_map(Value::as_str);
            shown.into_iter().any(|toast| toast.contains(text)).then_some(())
        })
        .await;
    }

    /// Runs a script in the page, and gives back what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.session.run(script, &[]).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// What a person reads in the first element that matches; nothing if there is none.
    pub(crate) fn text(&self, css: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        let text = self.session.run(script, &[json!(css)]).unwrap();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until what a person reads there is right, and gives it back.
    pub(crate) async fn reads(&self, css: &str, right: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let wait = async {
            loop {
                last = self.text(css);
                if right(&last) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(()) => last,
            Err(_) => panic!("{css} reads {last:?} after {DEADLINE:?}"),
        }
    }

    /// Clicks where a person would, once it is there.
    pub(crate) async fn click(&self, css: &str) {
        self.until_done(css, |element| self.session.post(&format!("element/{element}/click"), &json!({})))
            .await;
    }

    /// Types into a field.
    pub(crate) async fn write(&self, css: &str, text: &str) {
        let keys = json!({ "text": text });
        self.until_done(css, |element| self.session.post(&format!("element/{element}/value"), &keys)).await;
    }

    /// Does something to an element, once it is there. The page may draw anew between finding and doing.
    async fn until_done(&self, css: &str, act: impl Fn(&str) -> Result<Value, String>) {
        let mut last = String::new();
        let wait = async {
            loop {
                match self.session.find(css).and_then(|element| act(&element)) {
                    Ok(_) => return,
                    Err(error) => last = error,
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            panic!("{css} after {DEADLINE:?}: {last}");
        }
    }

    /// Sizes what is seen, as on a device.
    pub(crate) fn size(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// As if the system were set to `light` or `dark`.
    pub(crate) fn prefers(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// What the page complains about: errors of scripts, and what its policy has stopped.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.session.post("se/log", &json!({ "type": "browser" })).unwrap();
        let lines = log.as_array().cloned().unwrap_or_default();
        lines.iter().filter_map(|line| line["message"].as_str().map(str::to_owned)).collect()
    }

    /// Leaves an image of what is seen, if somebody wants images.
    pub(crate) fn shoot(&self, name: &str) {
        let Some(folder) = screenshots() else { return };
        self.run("document.activeElement?.blur(); window.scrollTo(0, 0)");
        let image = self.session.get("screenshot").unwrap();
        let image = BASE64_STANDARD.decode(image.as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), image).unwrap();
    }

    /// What chromium can do beyond the standard.
    fn devtools(&self, method: &str, parameters: &Value) {
        let command = json!({ "cmd": method, "params": parameters });
        self.session.post("goog/cdp/execute", &command).unwrap();
    }
}

/// Where images go, if somebody wants them.
pub(crate) fn screenshots() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(SCREENSHOTS)?);
    // Tests run in the folder of their crate, and whoever starts them in the one above.
    Some(if folder.is_absolute() { folder } else { PathBuf::from("..").join(folder) })
}

fn port(log: &str) -> Option<u16> {
    let (_, port) = log.split_once("started successfully on port ")?;
    port.split('.').next()?.parse().ok()
}
