//! The listening side: one client at a time, for ever; a second one is told, not kept waiting.
//!
//! Each session runs on a thread of its own, because reading a target blocks. Accepting, turning away and
//! stopping are one task, which ends only when asked to.

use std::{fs, future::pending, io, net::SocketAddr, sync::Arc, thread, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Options, View,
    connection::{Connection, HangUp},
    event_loop,
    host::{Host, Hosts, Once},
    listen::{Listen, Listener, ServeError},
    patience::Patience,
    turn_away::turn_away,
};
use crate::audit::Trail;

/// How long a session may take to finish its packet when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a session may take to notice that its client has gone when the next one is there.
const GRACE: Duration = Duration::from_millis(250);
/// Most clients being turned away at once; more are cut off without a word.
const MAX_TURNED_AWAY: usize = 16;
/// Pause after a failed accept (too many open files...), so that it is not retried in a tight loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Stops a [`Server`] from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<Notify>);

impl Stopper {
    /// Asks the server to finish the packet being answered, hang up and return.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// A server that is listening, and serves once it is told what.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    options: Options,
    stopper: Stopper,
}

impl Server {
    /// Starts to listen; clients wait until [`Server::run`].
    ///
    /// # Errors
    /// [`ServeError::InUse`], [`ServeError::Remote`] or [`ServeError::Bind`].
    pub fn bind(options: Options) -> Result<Self, ServeError> {
        let listener = Listener::bind(&options.listen, options.allow_remote)?;
        Ok(Self { listener, options, stopper: Stopper::default() })
    }

    /// The TCP address clients reach it at.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.listener.tcp_address()
    }

    /// What GDB's `target remote` is to be given; `None` where GDB started the server.
    #[must_use]
    pub fn remote(&self) -> Option<String> {
        self.listener.remote()
    }

    /// What stops this server.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves `host` until SIGINT, SIGTERM or the stopper; with [`Options::once`], until the first client leaves. Once it
    /// was booted anew, clients are refused.
    ///
    /// # Errors
    /// [`ServeError::Io`] when the server cannot go on.
    pub fn run(self, host: Arc<dyn Host>) -> Result<(), ServeError> {
        self.run_any(Arc::new(Once(host)))
    }

    /// As [`Server::run`], each client with the machine that `hosts` has then.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_any(self, hosts: Arc<dyn Hosts>) -> Result<(), ServeError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(self.serve(hosts));
        // A session that is stuck in a read of the target must not hold up the end.
        runtime.shutdown_background();
        result
    }

    /// Says where it listens, in the log, and warns of a place that is open to more than this machine.
    fn announce(&self) {
        match (&self.options.listen, self.tcp_address()) {
            (Listen::Tcp(_), Some(address)) => {
                log::info!("listening for GDB: target remote {address}");
                if !address.ip().is_loopback() {
                    log::warn!(
                        "{address} is no loopback address: whoever reaches it can read all of the target's memory, \
                         without a password and without a trace on the target"
                    );
                }
            }
            (place, _) => log::info!("listening for GDB on {place}"),
        }
    }

    async fn serve(self, hosts: Arc<dyn Hosts>) -> Result<(), ServeError> {
        // Whoever is told that it listens may end it at once.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        self.announce();
        let port = self.tcp_address().map_or(0, |address| address.port());
        let options = self.options;
        let mut sessions = Sessions { hosts, options, port, active: None, waiting: None, started: false };
        let acceptor = match self.listener {
            Listener::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener, path) => {
                Acceptor::Unix(UnixListener::from_std(listener)?, RemoveOnDrop(path))
            }
            Listener::Stdio => return serve_stdio(sessions, &self.stopper).await,
        };
        let turned_away = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
        while !sessions.are_over() {
            tokio::select! {
                client = acceptor.accept() => match client {
                    Ok(client) => sessions.welcome(client, &turned_away),
                    Err(error) => {
                        log::warn!("cannot accept a client: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = sessions.change() => sessions.settle(&turned_away),
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = self.stopper.0.notified() => break,
            }
        }
        sessions.drain().await;
        Ok(())
    }
}

/// Serves the process at the other end of our pipes. Its Ctrl-C reaches us too, and is not for us.
async fn serve_stdio(mut sessions: Sessions, stopper: &Stopper) -> Result<(), ServeError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    sessions.start(Connection::stdio()?, "standard input".to_owned())?;
    loop {
        tokio::select! {
            () = sessions.end() => return Ok(()),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => break,
            () = stopper.0.notified() => break,
        }
    }
    sessions.drain().await;
    Ok(())
}

/// The session there may be, and what the next one is started with.
struct Sessions {
    hosts: Arc<dyn Hosts>,
    options: Options,
    /// For the names of their threads; 0 without one.
    port: u16,
    active: Option<Active>,
    /// Who waits until the session has ended, and until when.
    waiting: Option<(Client, Instant)>,
    started: bool,
}

/// A session on its thread.
struct Active {
    hang_up: HangUp,
    /// Resolves when the thread ends, in whatever way.
    done: oneshot::Receiver<()>,
}

impl Sessions {
    /// Serves a client if there is none. If there is one that may be just leaving, it waits a moment: a debugger that
    /// detaches and attaches again at once must not be told that it stands in its own way. Any more are turned away, so
    /// that a crowd holds up nobody.
    fn welcome(&mut self, client: Client, room: &Arc<Semaphore>) {
        if self.active.is_none() {
            self.admit(client);
        } else if self.waiting.is_none() {
            self.waiting = Some((client, Instant::now() + GRACE));
        } else {
            self.turn_away(client, room);
        }
    }

    /// Waits until [`Sessions::settle`] has something to do.
    async fn change(&mut self) {
        let Some(active) = &mut self.active else { return pending().await };
        let waited = self.waiting.as_ref().map(|(_, until)| *until);
        let waited = async { waited.map_or_else(|| sleep(Duration::MAX), sleep_until).await };
        tokio::select! {
            // The sender is only ever dropped, with the thread.
            _ = &mut active.done => self.active = None,
            () = waited => {}
        }
    }

    /// Serves who waited for the end of a session, or turns it away.
    fn settle(&mut self, room: &Arc<Semaphore>) {
        match self.waiting.take() {
            Some((client, _)) if self.active.is_none() && !self.are_over() => self.admit(client),
            Some((client, until)) if until <= Instant::now() => self.turn_away(client, room),
            waiting => self.waiting = waiting,
        }
    }

    fn admit(&mut self, client: Client) {
        let peer = client.peer();
        let connection = client.into_connection(self.options.patience.reply);
        if let Err(error) = connection.and_then(|connection| self.start(connection, peer)) {
            log::warn!("a client could not be served: {error}");
        }
    }

    fn turn_away(&self, client: Client, room: &Arc<Semaphore>) {
        if let Some(audit) = &self.options.audit
            && let Err(error) = audit.turned_away(&client.peer())
        {
            log::error!("{error}");
        }
        client.turn_away(room);
    }

    fn start(&mut self, connection: Connection, peer: String) -> io::Result<()> {
        let begun = self.options.audit.as_ref().map(|audit| audit.begin(Some(peer))).transpose();
        let trail = begun.map_err(io::Error::other)?;
        let hang_up = connection.hang_up()?;
        let (alive, done) = oneshot::channel();
        let (hosts, view) = (Arc::clone(&self.hosts), self.options.view.clone());
        let patience = self.options.patience;
        thread::Builder::new().name(format!("gdb:{}", self.port)).spawn(move || {
            // Dropped last: when the server ends, nothing of the session is left that had to be written down.
            let _alive: oneshot::Sender<()> = alive;
            attend(connection, hosts, view, trail, patience);
        })?;
        self.active = Some(Active { hang_up, done });
        self.started = true;
        Ok(())
    }

    /// Waits for the end of the session; for ever when there is none.
    async fn end(&mut self) {
        match &mut self.active {
            Some(active) => {
                // The sender is only ever dropped, with the thread.
                let _ = (&mut active.done).await;
                self.active = None;
            }
            None => pending().await,
        }
    }

    /// Whether the only session there was to be has been.
    fn are_over(&self) -> bool {
        self.options.once && self.started && self.active.is_none()
    }

    async fn drain(mut self) {
        let Some(active) = &self.active else { return };
        active.hang_up.now();
        if timeout(DRAIN, self.end()).await.is_err() {
            log::warn!("a session did not finish in time and was abandoned");
        }
    }
}

/// A session from its client's first byte to its last.
fn attend(
    connection: Connection,
    hosts: Arc<dyn Hosts>,
    view: View,
    trail: Option<Trail>,
    patience: Patience,
) {
    let Some((connection, host)) = shown(connection, &*hosts) else { return };
    log::info!("a debugger attached");
    match event_loop::run(connection, host, view, trail, patience) {
        Ok(()) => log::info!("the debugger left"),
        Err(error) => log::warn!("a session ended: {error}"),
    }
}

/// The machine for a client that has just connected; `None` when there is none, and the client was told.
fn shown(mut connection: Connection, hosts: &dyn Hosts) -> Option<(Connection, Arc<dyn Host>)> {
    if let Some(host) = hosts.found() {
        // What an earlier client was shown is no picture for this one.
        host.refresh();
        return Some((connection, host));
    }
    log::warn!("the host was booted anew: its kernel is looked for again");
    // Finding it may take longer than GDB waits for an acknowledgement; one too many does no harm.
    let waits = connection.write(b"+");
    match waits.map_err(|error| error.to_string()).and_then(|()| hosts.find()) {
        Ok(host) => Some((connection, host)),
        Err(sentence) => {
            log::warn!("a client was refused: {sentence}");
            if let Err(error) = event_loop::refuse(connection, &sentence) {
                log::debug!("refusing a client: {error}");
            }
            None
        }
    }
}

struct RemoveOnDrop(std::path::PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the socket when dropped")] RemoveOnDrop),
}

enum Client {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Client::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Client::Unix(stream)),
        }
    }
}

impl Client {
    /// Who it is: an address, or the process on this machine that connected.
    fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string())
            }
            Self::Unix(stream) => stream.peer_cred().map_or_else(
                |_| "unknown".to_owned(),
                |peer| match peer.pid() {
                    Some(pid) => format!("uid {}, pid {pid}", peer.uid()),
                    None => format!("uid {}", peer.uid()),
                },
            ),
        }
    }

    fn into_connection(self, reply: Duration) -> io::Result<Connection> {
        match self {
            Self::Tcp(stream) => Connection::tcp(stream.into_std()?, reply),
            Self::Unix(stream) => Connection::unix(stream.into_std()?, reply),
        }
    }

    fn turn_away(self, room: &Arc<Semaphore>) {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
        log::info!("a second debugger was turned away");
        tokio::spawn(async move {
            match self {
                Self::Tcp(stream) => turn_away(stream).await,
                Self::Unix(stream) => turn_away(stream).await,
            }
            drop(permit);
        });
    }
}
