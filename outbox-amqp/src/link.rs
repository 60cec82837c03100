//! A connection, its channels, and what is known about it.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection, ConnectionState, ErrorKind, Event};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::dial::Endpoint;
use crate::exchanges::Known;
use crate::socket::Socket;

/// The largest number of channels opened on one connection, idle or long gone.
///
/// Once the broker has closed a channel, the client library never sends on a channel of that number again, and the
/// numbers come round. A connection is replaced before they do. RabbitMQ's default `channel_max` is 2047.
const MAX_CHANNELS_OPENED: u32 = 2_000;

/// How long a broker may take to answer a goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// How often a wait that may be in vain looks whether the connection is still there.
const GLANCE: Duration = Duration::from_millis(100);

type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// One connection to the broker. It is closed when the last user drops it.
pub(crate) struct Link {
    connection: Arc<Connection>,
    /// Where it leads to.
    endpoint: Endpoint,
    /// Absent if the connection was made by the user's own connector.
    socket: Option<Socket>,
    cut: AtomicBool,
    retired: AtomicBool,
    idle: Mutex<Vec<Channel>>,
    opened: AtomicU32,
    exchanges: Known,
    alarm: Mutex<Alarm>,
}

/// The broker's word on whether it takes messages at the moment.
struct Alarm {
    events: Events,
    reason: Option<String>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("connection", &self.connection)
            .field("cut", &self.cut)
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(connection: Connection, socket: Option<Socket>, endpoint: Endpoint) -> Self {
        let alarm = Alarm { events: Box::pin(connection.events_listener()), reason: None };
        Self {
            connection: Arc::new(connection),
            endpoint,
            socket,
            cut: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            idle: Mutex::default(),
            opened: AtomicU32::new(0),
            exchanges: Known::default(),
            alarm: Mutex::new(alarm),
        }
    }

    /// Whether new calls should use it.
    pub(crate) fn is_usable(&self) -> bool {
        let retired = self.retired.load(Ordering::Relaxed);
        !retired && self.is_alive() && self.opened.load(Ordering::Relaxed) < self.max_channels_opened()
    }

    /// Has new calls use another connection, while those on this one may end.
    ///
    /// When the broker closes a channel in the middle of a window, the client library may still send what it has
    /// queued after it has agreed to the close. The broker then closes the whole connection.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !self.cut.load(Ordering::Relaxed) && self.connection.status().connected()
    }

    /// Where it leads to.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn max_channels_opened(&self) -> u32 {
        // Some are left for the calls that hold the connection at this moment.
        let negotiated = u32::from(self.connection.configuration().channel_max());
        MAX_CHANNELS_OPENED.min(negotiated - negotiated / 8)
    }

    /// The largest frame both sides agreed on.
    pub(crate) fn frame_max(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// The exchanges known to be there.
    pub(crate) fn exchanges(&self) -> &Known {
        &self.exchanges
    }

    /// The reason for which the broker takes no messages from this connection at the moment, if it does not.
    pub(crate) fn blocked(&self) -> Option<String> {
        if !self.connection.status().blocked() {
            return None;
        }
        let mut alarm = lock(&self.alarm);
        while let Some(Some(event)) = alarm.events.next().now_or_never() {
            if let Event::ConnectionBlocked(reason) = event {
                alarm.reason = Some(reason);
            }
        }
        Some(alarm.reason.clone().unwrap_or_default())
    }

    /// A channel as it comes, for declarations.
    pub(crate) async fn open_channel(&self) -> lapin::Result<Channel> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let mut opening = pin!(self.connection.create_channel());
        loop {
            // The client library never answers if the connection ended a moment before, and does not say so either.
            match tokio::time::timeout(GLANCE, &mut opening).await {
                Ok(opened) => return opened,
                Err(_) if self.is_alive() => {}
                Err(_) => return Err(ErrorKind::InvalidConnectionState(ConnectionState::Error).into()),
            }
        }
    }

    /// A channel in confirm mode for one caller's window.
    pub(crate) async fn lease(self: &Arc<Self>) -> lapin::Result<Lease> {
        let idle = loop {
            let candidate = lock(&self.idle).pop();
            match candidate {
                // The broker may have closed it meanwhile, with an answer that came late.
                Some(channel) if !channel.status().connected() => {}
                other => break other,
            }
        };
        let channel = match idle {
            Some(channel) => channel,
            None => self.open_confirming().await?,
        };
        Ok(Lease { link: Arc::clone(self), channel: Some(channel), writing: false })
    }

    async fn open_confirming(&self) -> lapin::Result<Channel> {
        let channel = self.open_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    /// Waits for something that the broker owes on this connection, at most until the deadline. `None` if it did not
    /// come.
    ///
    /// What is late can be the fault of one queue: a quorum queue without its majority confirms nothing for as long as
    /// that lasts, and the connection is as good as before. So the broker is asked for a channel when most of the time
    /// is over. If it does not answer that either, the connection is cut. An answer proves that the broker reads what
    /// we send, so nothing that was sent can come up later as a surprise.
    ///
    /// A connection that the broker has blocked is kept too: on it we learn when the alarm is over, while a new one
    /// would learn of the alarm only by another message whose outcome is unknown.
    pub(crate) async fn wait<T>(&self, deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        let patience = deadline.saturating_duration_since(Instant::now());
        if let Ok(answer) = timeout_at(deadline - patience / 4, &mut answer).await {
            return Some(answer);
        }
        let mut probe = pin!(async {
            let fresh = timeout_at(deadline, self.open_confirming()).await;
            fresh.ok().and_then(lapin::Result::ok)
        });
        let mut answers = None;
        loop {
            tokio::select! {
                biased;
                answer = timeout_at(deadline, &mut answer) => match answer {
                    Ok(answer) => return Some(answer),
                    Err(_) => break,
                },
                channel = &mut probe, if answers.is_none() => {
                    answers = Some(channel.is_some());
                    lock(&self.idle).extend(channel);
                }
            }
        }
        if answers != Some(true) && self.blocked().is_none() {
            warn!(broker = %self.endpoint.broker, "the broker answers nothing, cutting the connection");
            self.cut();
        }
        None
    }

    /// Ends the connection at once: nothing that is not on its way yet will be sent.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        match &self.socket {
            Some(socket) => socket.cut(),
            None => self.close_in_background(),
        }
    }

    /// Says goodbye, and cuts the connection if the broker does not answer in time.
    pub(crate) async fn close(&self) {
        self.cut.store(true, Ordering::Relaxed);
        if self.connection.status().connected() {
            let _ = tokio::time::timeout(GOODBYE, self.connection.close(200, "OK".into())).await;
        }
        if let Some(socket) = &self.socket {
            socket.cut();
        }
    }

    /// For a connection whose socket is not ours. The frame that says goodbye overtakes messages that wait.
    fn close_in_background(&self) {
        lock(&self.idle).clear();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let connection = Arc::clone(&self.connection);
            runtime.spawn(async move {
                let _ = tokio::time::timeout(GOODBYE, connection.close(200, "OK".into())).await;
            });
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Otherwise the client library says goodbye itself. A broker that does not read would never see it, and the
        // library's thread would wait for it.
        if self.connection.status().blocked()
            && let Some(socket) = &self.socket
        {
            socket.cut();
        }
    }
}

/// A channel for one window. Dropped in the middle of it, the channel is closed and not used again.
#[derive(Debug)]
pub(crate) struct Lease {
    link: Arc<Link>,
    /// Present until the lease is given back.
    channel: Option<Channel>,
    writing: bool,
}

impl Lease {
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref()
    }

    /// Says whether a message is being written. A drop meanwhile must cut the connection: with the channel closed
    /// only, the message would still go out, some time or other.
    pub(crate) fn set_writing(&mut self, writing: bool) {
        self.writing = writing;
    }

    /// Makes the channel available to other windows. Only if nothing of this one is still open.
    pub(crate) fn give_back(mut self) {
        if let Some(channel) = self.channel.take()
            && channel.status().connected()
        {
            lock(&self.link.idle).push(channel);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.writing {
            self.link.cut();
        }
        // The channel itself is closed by the client library when its last handle goes.
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
