//! The socket of a connection, with a second handle that can end it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};

/// Opens the socket ourselves, for two reasons.
///
/// We keep a handle that can end the connection at once and for good. The client library can only *ask* for an end, in
/// a frame behind the others; a broker that has stopped reading would get everything written so far as soon as it
/// reads again. And the client library connects in a thread of its own, and waits for ever if that fails before it
/// has begun to wait.
///
/// # Cancel safety
/// Dropped, it ends the attempt.
pub(crate) async fn open(
    uri: AMQPUri,
    address: SocketAddr,
    tls: &OwnedTLSConfig,
    properties: ConnectionProperties,
) -> lapin::Result<(Connection, Socket)> {
    let socket = Socket::default();
    // Until there is a connection to close, dropping this future must end the attempt.
    let guard = CutOnDrop(Some(socket.clone()));
    let runtime = lapin::runtime::default_runtime()?;
    let mut stream = AsyncTcpStream::connect(&runtime, address).await?;
    if let AsyncTcpStream::Plain(plain) = &stream {
        socket.hold(plain.get_ref())?;
    }
    if uri.scheme == AMQPScheme::AMQPS {
        stream = stream.into_tls(&uri.authority.host, tls.as_ref()).await?;
    }
    let ready = Mutex::new(Some(stream));
    let take = async move |_, _| {
        let stream = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    };
    let connection = Connection::connector(uri, runtime, take, properties).await?;
    guard.disarm();
    Ok((connection, socket))
}

/// A second handle to a connection's socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn hold(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        let copy = duplicate(stream)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        Ok(())
    }

    /// Ends the connection: nothing that is not on its way yet will be sent, and every wait on it fails.
    pub(crate) fn cut(&self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // An error means that it has ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(unix)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd;

    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;

    Ok(stream.as_socket().try_clone_to_owned()?.into())
}

struct CutOnDrop(Option<Socket>);

impl CutOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.cut();
        }
    }
}
