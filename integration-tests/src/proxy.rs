//! A TCP proxy that misbehaves on demand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::runtime;

const BUFFER: usize = 16 * 1024;

/// What a [`Proxy`] does with connections. A change takes effect at once, on open connections too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Everything goes through.
    Pass,
    /// Nobody listens: new connections are refused by the system. Open ones are reset.
    Refuse,
    /// New connections are accepted and reset at once (`RST`). Open ones are reset.
    Reset,
    /// Connections stay open and are accepted, and nothing goes through in either direction. What is sent
    /// meanwhile arrives when the mode changes to one that lets it through.
    Blackhole,
    /// Everything goes through, each chunk this much later.
    Delay(Duration),
    /// Of what the server sends, only so many more bytes arrive at the client; the byte after them resets the
    /// connection instead. Counted on each connection, from the change of mode on. What the client sends goes
    /// through: with 0, the server does what it was asked to, and the client never learns.
    CutAnswersAfter(u64),
    /// As [`CutAnswersAfter`](Self::CutAnswersAfter), the other way round: of what the client sends, only so many
    /// more bytes arrive at the server.
    CutRequestsAfter(u64),
}

/// A TCP proxy in front of a server, on a port of its own on the loopback address. It ends when dropped, and resets
/// its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target`, which lets everything pass.
    ///
    /// # Panics
    /// If it finds no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let (mode, modes) = watch::channel(Mode::Pass);
        let (state, listening) = watch::channel(true);
        let listener = runtime::run(async {
            // The port must be one that can be bound again after `Refuse`.
            TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free())).await
        })
        .await
        .expect("a proxy needs a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let task = runtime::spawn(serve(listener, address, target, modes, state));
        Self { address, mode, listening, task }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`address`](Self::address).
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes what happens to connections, old and new. When this returns, the port is open or closed as the mode
    /// says; cancelling it leaves the mode changed.
    pub async fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        let wanted = mode != Mode::Refuse;
        let mut listening = self.listening.clone();
        listening.wait_for(|&state| state == wanted).await.expect("the proxy's task goes on while it exists");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections. The connections' tasks end with the sender of the modes.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
    listening: watch::Sender<bool>,
) {
    let mut listener = Some(listener);
    loop {
        let mode = *modes.borrow_and_update();
        match (&listener, mode) {
            (Some(_), Mode::Refuse) => {
                listener = None;
                listening.send_replace(false);
            }
            (None, mode) if mode != Mode::Refuse => {
                // Nobody else is given this port by the harness, but the system may still be at closing it.
                match TcpListener::bind(address).await {
                    Ok(bound) => {
                        listener = Some(bound);
                        listening.send_replace(true);
                    }
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                }
            }
            _ => {}
        }
        tokio::select! {
            changed = modes.changed() => if changed.is_err() { return },
            client = accept(listener.as_ref()) => if let Ok(client) = client {
                runtime::spawn(connection(client, target, modes.clone()));
            },
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn connection(mut client: TcpStream, target: SocketAddr, mut modes: watch::Receiver<Mode>) {
    let _ = client.set_nodelay(true);
    let severing = modes.clone();
    let connected = async {
        // In a black hole nobody knows whether the server is there.
        let open = modes.wait_for(|mode| *mode != Mode::Blackhole).await.is_ok();
        if open { TcpStream::connect(target).await.ok() } else { None }
    };
    let carried = tokio::select! {
        biased;
        () = severed(severing) => None,
        server = connected => server,
    };
    let Some(mut server) = carried else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = server.set_nodelay(true);
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                carry(from_client, to_server, modes.clone(), Direction::Requests),
                carry(from_server, to_client, modes.clone(), Direction::Answers),
            )
        };
        tokio::select! {
            () = severed(modes.clone()) => Err(io::ErrorKind::ConnectionReset.into()),
            ended = both => ended,
        }
    };
    if ended.is_err() {
        // Makes the close that follows a reset.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Completes when the mode allows no open connection, or the proxy is gone.
async fn severed(mut modes: watch::Receiver<Mode>) {
    let _ = modes.wait_for(|mode| matches!(mode, Mode::Reset | Mode::Refuse)).await;
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

/// Carries bytes in one direction until the sender has said all. An error means that both sides are to see a reset.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut modes: watch::Receiver<Mode>,
    direction: Direction,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut mode = *modes.borrow_and_update();
    let mut left = allowance(mode, direction);
    loop {
        let length = tokio::select! {
            // What is sent after a change of mode must not slip through under the old one.
            biased;
            changed = modes.changed() => {
                changed.map_err(|_| io::ErrorKind::ConnectionReset)?;
                mode = *modes.borrow_and_update();
                left = allowance(mode, direction);
                continue;
            }
            length = from.read(&mut buffer), if mode != Mode::Blackhole => length?,
        };
        if length == 0 {
            return to.shutdown().await;
        }
        if let Mode::Delay(delay) = mode {
            tokio::time::sleep(delay).await;
        }
        let allowed = left.map_or(length, |left| usize::try_from(left).unwrap_or(usize::MAX).min(length));
        to.write_all(&buffer[..allowed]).await?;
        if allowed < length {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        left = left.map(|left| left - allowed as u64);
    }
}

fn allowance(mode: Mode, direction: Direction) -> Option<u64> {
    match (mode, direction) {
        (Mode::CutAnswersAfter(bytes), Direction::Answers)
        | (Mode::CutRequestsAfter(bytes), Direction::Requests) => Some(bytes),
        _ => None,
    }
}

/// A server's URL, changed so that it leads through a proxy.
pub(crate) fn through(url: &url::Url, proxy: &Proxy) -> String {
    let mut url = url.clone();
    let changed = url.set_ip_host(proxy.address().ip()).and_then(|()| url.set_port(Some(proxy.port())));
    changed.expect("the URL of a server has a host and a port");
    url.into()
}
