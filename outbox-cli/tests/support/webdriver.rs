//! As much of the WebDriver protocol as the tests need: commands as JSON, by plain HTTP to a process on this machine.
//!
//! The clients on the registry bring two dozen crates, some of them second versions of what we have.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::DEADLINE;

/// How an element is called in answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A session with a driver, and so a window.
pub(crate) struct Session {
    port: u16,
    path: String,
}

impl Session {
    /// Opens a window.
    pub(crate) fn start(port: u16, options: &Value) -> Self {
        let wanted = json!({ "capabilities": { "alwaysMatch": options } });
        let session = ask(port, "POST", "/session", Some(&wanted)).unwrap();
        Self { port, path: format!("/session/{}", session["sessionId"].as_str().unwrap()) }
    }

    pub(crate) fn get(&self, command: &str) -> Result<Value, String> {
        ask(self.port, "GET", &format!("{}/{command}", self.path), None)
    }

    pub(crate) fn post(&self, command: &str, body: &Value) -> Result<Value, String> {
        ask(self.port, "POST", &format!("{}/{command}", self.path), Some(body))
    }

    /// The first element that matches.
    pub(crate) fn find(&self, css: &str) -> Result<String, String> {
        let found = self.post("element", &json!({ "using": "css selector", "value": css }))?;
        Ok(found[ELEMENT].as_str().unwrap_or_default().to_owned())
    }

    /// Runs a script, and waits if what it returns is a promise.
    pub(crate) fn run(&self, script: &str, arguments: &[Value]) -> Result<Value, String> {
        self.post("execute/sync", &json!({ "script": script, "args": arguments }))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The window closes. If it cannot, it goes with the driver.
        let _ = ask(self.port, "DELETE", &self.path, None);
    }
}

fn ask(port: u16, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let answer = exchange(port, method, path, &body.map(Value::to_string).unwrap_or_default());
    let answer: Value = answer.map_err(|error| format!("{method} {path}: {error}"))?;
    match answer["value"]["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", answer["value"]["message"].as_str().unwrap_or_default())),
        None => Ok(answer["value"].clone()),
    }
}

fn exchange(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // Some versions of the driver leave the connection open, so what is read is what was announced.
    let mut buffer = [0; 65_536];
    loop {
        if let Some(body) = whole(&answer) {
            return Ok(serde_json::from_slice(body)?);
        }
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The body, once all of it is there.
fn whole(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    answer[end..].get(..length.trim().parse().ok()?)
}
