//! A TCP proxy that fails on demand.

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

/// The behaviour of a [`Proxy`]. A change takes effect immediately, also on open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// All data passes.
    Pass,
    /// The port is closed: new connections are refused by the system. Open ones are reset.
    Refuse,
    /// New connections are accepted and reset immediately (`RST`). Open ones are reset.
    Reset,
    /// Connections stay open and are accepted, and no data passes in either direction. Data sent meanwhile
    /// arrives when the mode changes to one that lets it through.
    Blackhole,
    /// Open connections die silently: no data ever passes again, whatever the mode becomes, and neither side
    /// is notified, not even that the other one has closed. This is what happens when a host loses power, or
    /// a router forgets a connection. New connections are accepted, and die in the same way.
    Vanish,
    /// All data passes, each chunk with this delay.
    Delay(Duration),
    /// Only this number of further bytes from the server arrives at the client; the next byte resets the
    /// connection instead. Counted on each connection, from the change of mode. The client's data passes:
    /// with 0, the server executes the request, and the client never learns of it.
    CutAnswersAfter(u64),
    /// Like [`CutAnswersAfter`](Self::CutAnswersAfter), in the opposite direction: only this number of
    /// further bytes from the client arrives at the server.
    CutRequestsAfter(u64),
}

/// The commands for the proxy.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// How often connections were instructed to vanish: the next mode may be set before all of them have
    /// noticed.
    vanishings: u64,
}

/// A TCP proxy in front of a server, on a separate port of the loopback address. It ends when dropped, and
/// resets its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Creates a proxy in front of `target`, which lets everything pass.
    ///
    /// # Panics
    /// If it finds no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let (state, states) = watch::channel(State { mode: Mode::Pass, vanishings: 0 });
        let (open, listening) = watch::channel(true);
        let listener = runtime::run(async {
            // The port must be one that can be bound again after `Refuse`.
            TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free())).await
        })
        .await
        .expect("a proxy needs a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let task = runtime::spawn(serve(listener, address, target, states, open));
        Self { address, state, listening, task }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`address`](Self::address).
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the behaviour for old and new connections. When this returns, the port is open or closed
    /// according to the mode; cancelling it leaves the mode changed.
    pub async fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.vanishings += u64::from(mode == Mode::Vanish);
        });
        let wanted = mode != Mode::Refuse;
        let mut listening = self.listening.clone();
        listening
            .wait_for(|&state| state == wanted)
            .await
            .expect("the proxy's task runs while the proxy exists");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections. The tasks of the connections end with the sender of the modes.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut states: watch::Receiver<State>,
    listening: watch::Sender<bool>,
) {
    let mut listener = Some(listener);
    loop {
        let State { mode, vanishings } = *states.borrow_and_update();
        match (&listener, mode) {
            (Some(_), Mode::Refuse) => {
                listener = None;
                listening.send_replace(false);
            }
            (None, mode) if mode != Mode::Refuse => {
                // The harness gives this port to no other server, but the system may still be closing it.
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
            changed = states.changed() => if changed.is_err() { return },
            client = accept(listener.as_ref()) => if let Ok(client) = client {
                runtime::spawn(connection(client, target, states.clone(), vanishings));
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

async fn connection(
    mut client: TcpStream,
    target: SocketAddr,
    mut states: watch::Receiver<State>,
    born: u64,
) {
    let _ = client.set_nodelay(true);
    let severing = states.clone();
    let vanishing = states.clone();
    let connected = async {
        // In a black hole a client cannot find out whether the server is up.
        let open = states.wait_for(|state| state.mode != Mode::Blackhole).await.is_ok();
        if open { TcpStream::connect(target).await.ok() } else { None }
    };
    let carried = tokio::select! {
        biased;
        () = severed(severing) => None,
        () = vanished(vanishing, born) => {
            end_of_proxy(states.clone()).await;
            None
        }
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
                carry(from_client, to_server, states.clone(), Direction::Requests),
                carry(from_server, to_client, states.clone(), Direction::Answers),
            )
        };
        tokio::select! {
            // Data sent after a change of mode must not pass under the old mode.
            biased;
            () = severed(states.clone()) => Err(io::ErrorKind::ConnectionReset.into()),
            () = vanished(states.clone(), born) => {
                end_of_proxy(states.clone()).await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            ended = both => ended,
        }
    };
    if ended.is_err() {
        // Makes the close that follows a reset.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Completes when the mode allows no open connection, or the proxy is dropped.
async fn severed(mut states: watch::Receiver<State>) {
    let _ = states.wait_for(|state| matches!(state.mode, Mode::Reset | Mode::Refuse)).await;
}

/// Completes when a connection that was opened after this number of vanish commands must vanish. Connections
/// that had ended before do not.
async fn vanished(mut states: watch::Receiver<State>, born: u64) {
    let vanishes = |state: &State| state.mode == Mode::Vanish || state.vanishings > born;
    if states.wait_for(vanishes).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Until then a vanished connection stays unchanged.
async fn end_of_proxy(mut states: watch::Receiver<State>) {
    while states.changed().await.is_ok() {}
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

/// Copies bytes in one direction until the sender has finished. An error means that both sides must see a
/// reset.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut states: watch::Receiver<State>,
    direction: Direction,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut mode = states.borrow_and_update().mode;
    let mut left = allowance(mode, direction);
    loop {
        let length = tokio::select! {
            // Data sent after a change of mode must not pass under the old mode.
            biased;
            changed = states.changed() => {
                changed.map_err(|_| io::ErrorKind::ConnectionReset)?;
                mode = states.borrow_and_update().mode;
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

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(120);
    /// For an event that must not happen. Long compared with a round trip on one machine.
    const IN_VAIN: Duration = Duration::from_millis(200);

    /// A server that echoes its input until the client has finished.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn read(stream: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut buffer)).await.expect("an answer")?;
        Ok(buffer)
    }

    async fn says(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        Ok(String::from_utf8(read(stream, text.len()).await?).unwrap())
    }

    async fn kind_of_end(stream: &mut TcpStream) -> io::ErrorKind {
        match tokio::time::timeout(DEADLINE, stream.read(&mut [0; 16])).await.expect("an end") {
            Ok(0) => io::ErrorKind::UnexpectedEof,
            Ok(length) => panic!("{length} more bytes"),
            Err(error) => error.kind(),
        }
    }

    async fn end_of_a_new_connection(proxy: &Proxy) -> io::ErrorKind {
        // Whether the reset is seen while connecting or afterwards depends on timing.
        match TcpStream::connect(proxy.address()).await {
            Ok(mut client) => kind_of_end(&mut client).await,
            Err(error) => error.kind(),
        }
    }

    async fn pair() -> (Proxy, TcpStream) {
        let proxy = Proxy::start(echo().await).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut client, "hello").await.unwrap(), "hello");
        (proxy, client)
    }

    #[tokio::test]
    async fn an_orderly_close_stays_orderly() {
        let (_proxy, mut client) = pair().await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read(&mut client, 10).await.unwrap(), b"last words");
        assert_eq!(kind_of_end(&mut client).await, io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn refuse_closes_the_port_and_resets_what_is_open() {
        let (proxy, mut client) = pair().await;
        proxy.set(Mode::Refuse).await;
        assert_eq!(kind_of_end(&mut client).await, io::ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        proxy.set(Mode::Pass).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut client, "again").await.unwrap(), "again");
    }

    #[tokio::test]
    async fn reset_accepts_and_resets() {
        let (proxy, mut client) = pair().await;
        proxy.set(Mode::Reset).await;
        assert_eq!(kind_of_end(&mut client).await, io::ErrorKind::ConnectionReset);
        assert_eq!(end_of_a_new_connection(&proxy).await, io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_black_hole_holds_back_what_is_sent() {
        let (proxy, mut client) = pair().await;
        proxy.set(Mode::Blackhole).await;
        let mut newcomer = TcpStream::connect(proxy.address()).await.unwrap();
        for stream in [&mut client, &mut newcomer] {
            stream.write_all(b"there?").await.unwrap();
            let answer = tokio::time::timeout(IN_VAIN, stream.read(&mut [0; 6])).await;
            assert!(answer.is_err(), "an answer out of a black hole");
        }
        proxy.set(Mode::Pass).await;
        for stream in [&mut client, &mut newcomer] {
            assert_eq!(read(stream, 6).await.unwrap(), b"there?");
        }
    }

    #[tokio::test]
    async fn a_delay_counts_in_both_directions() {
        let (proxy, mut client) = pair().await;
        let delay = Duration::from_millis(50);
        proxy.set(Mode::Delay(delay)).await;
        let asked = std::time::Instant::now();
        assert_eq!(says(&mut client, "slowly").await.unwrap(), "slowly");
        assert!(asked.elapsed() >= delay * 2, "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn a_cut_lets_through_exactly_so_many_bytes() {
        for mode in [Mode::CutAnswersAfter(8), Mode::CutRequestsAfter(8)] {
            let (proxy, mut client) = pair().await;
            proxy.set(mode).await;
            assert_eq!(says(&mut client, "12345").await.unwrap(), "12345", "{mode:?}");
            client.write_all(b"678").await.unwrap();
            assert_eq!(read(&mut client, 3).await.unwrap(), b"678", "{mode:?}");
            client.write_all(b"9").await.unwrap();
            assert_eq!(kind_of_end(&mut client).await, io::ErrorKind::ConnectionReset, "{mode:?}");
            // The next connection has its own byte count.
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(says(&mut client, "again").await.unwrap(), "again", "{mode:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_looks_like_a_reset() {
        let nobody = (Ipv4Addr::LOCALHOST, crate::ports::free()).into();
        let proxy = Proxy::start(nobody).await;
        assert_eq!(end_of_a_new_connection(&proxy).await, io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_proxy_that_is_dropped_resets_its_connections() {
        let (proxy, mut client) = pair().await;
        drop(proxy);
        assert_eq!(kind_of_end(&mut client).await, io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_connection_that_has_vanished_stays_dead_and_new_ones_work() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut buffer = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        // Back before any connection has noticed.
        proxy.set(Mode::Vanish).await;
        proxy.set(Mode::Pass).await;
        stream.write_all(b"lost").await.unwrap();
        assert!(
            tokio::time::timeout(IN_VAIN, stream.read(&mut buffer)).await.is_err(),
            "neither side is notified"
        );
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        other.write_all(b"pong").await.unwrap();
        tokio::time::timeout(DEADLINE, other.read_exact(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer, b"pong");
    }
}
