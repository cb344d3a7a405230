//! The listening side: one client at a time, for ever; a second one is told, not kept waiting.
//!
//! Each session runs on a thread of its own, because reading a target blocks. Accepting, turning away and
//! stopping are one task, which ends only when asked to.

use std::{fs, future::pending, io, net::SocketAddr, sync::Arc, thread, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{
    Options,
    connection::{Connection, HangUp},
    event_loop,
    host::Host,
    listen::{Listen, Listener, ServeError},
    packet,
};

/// How long a session may take to finish its packet when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client that is turned away may take to ask its first question and to hang up.
const TURN_AWAY: Duration = Duration::from_secs(2);
/// Most clients being turned away at once; more are cut off without a word.
const MOST_TURNED_AWAY: usize = 16;
/// Pause after a failed accept (too many open files...), so that it is not retried in a tight loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const BUSY: &str =
    "another debugger is attached to this nettlp-gdb; it serves one at a time. Detach that one first";

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
    /// [`ServeError::InUse`] or [`ServeError::Bind`].
    pub fn bind(options: Options) -> Result<Self, ServeError> {
        let listener = Listener::bind(&options.listen)?;
        Ok(Self { listener, options, stopper: Stopper::default() })
    }

    /// The TCP address clients reach it at.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.listener.tcp_address()
    }

    /// What stops this server.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves `host` until SIGINT, SIGTERM or the stopper; with [`Options::once`], until the first client leaves.
    ///
    /// # Errors
    /// [`ServeError::Io`] when the server cannot go on.
    pub fn run(self, host: Arc<dyn Host>) -> Result<(), ServeError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(self.serve(host));
        // A session that is stuck in a read of the target must not hold up the end.
        runtime.shutdown_background();
        result
    }

    async fn serve(self, host: Arc<dyn Host>) -> Result<(), ServeError> {
        let port = self.tcp_address().map_or(0, |address| address.port());
        let sessions = Sessions { host, percpu_rebase: self.options.percpu_rebase, port };
        let acceptor = match self.listener {
            Listener::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener, path) => {
                Acceptor::Unix(UnixListener::from_std(listener)?, RemoveOnDrop(path))
            }
            Listener::Stdio => return serve_stdio(&sessions, &self.stopper).await,
        };
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let turned_away = Arc::new(Semaphore::new(MOST_TURNED_AWAY));
        let mut active: Option<Active> = None;
        loop {
            tokio::select! {
                client = acceptor.accept() => match client {
                    Ok(client) if active.is_some() => client.turn_away(&turned_away),
                    Ok(client) => match client.into_connection().and_then(|connection| sessions.start(connection)) {
                        Ok(started) => active = Some(started),
                        Err(error) => log::warn!("a client could not be served: {error}"),
                    },
                    Err(error) => {
                        log::warn!("cannot accept a client: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = ended(&mut active) => {
                    active = None;
                    if self.options.once {
                        break;
                    }
                }
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = self.stopper.0.notified() => break,
            }
        }
        if let Some(active) = active {
            active.drain().await;
        }
        Ok(())
    }
}

/// Serves the process at the other end of our pipes. Its Ctrl-C reaches us too, and is not for us.
async fn serve_stdio(sessions: &Sessions, stopper: &Stopper) -> Result<(), ServeError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut active = sessions.start(Connection::stdio()?)?;
    loop {
        tokio::select! {
            _ = &mut active.done => return Ok(()),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => return Ok(()),
            () = stopper.0.notified() => return Ok(()),
        }
    }
}

/// Starts sessions.
struct Sessions {
    host: Arc<dyn Host>,
    percpu_rebase: bool,
    /// For the names of their threads; 0 without one.
    port: u16,
}

/// A session on its thread.
struct Active {
    hang_up: Option<HangUp>,
    /// Resolves when the thread ends, in whatever way.
    done: oneshot::Receiver<()>,
}

impl Sessions {
    fn start(&self, connection: Connection) -> io::Result<Active> {
        let hang_up = connection.hang_up()?;
        let (alive, done) = oneshot::channel();
        let (host, percpu_rebase) = (Arc::clone(&self.host), self.percpu_rebase);
        thread::Builder::new().name(format!("gdb:{}", self.port)).spawn(move || {
            let _alive: oneshot::Sender<()> = alive;
            log::info!("a debugger attached");
            match event_loop::run(connection, host, percpu_rebase) {
                Ok(()) => log::info!("the debugger left"),
                Err(error) => log::warn!("a session ended: {error}"),
            }
        })?;
        Ok(Active { hang_up, done })
    }
}

impl Active {
    async fn drain(self) {
        if let Some(hang_up) = &self.hang_up {
            hang_up.now();
        }
        if timeout(DRAIN, self.done).await.is_err() {
            log::warn!("a session did not finish in time and was abandoned");
        }
    }
}

/// Waits for the end of the session; for ever when there is none.
async fn ended(active: &mut Option<Active>) {
    match active {
        Some(active) => drop((&mut active.done).await),
        None => pending().await,
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
    fn into_connection(self) -> io::Result<Connection> {
        match self {
            Self::Tcp(stream) => Connection::tcp(stream.into_std()?),
            Self::Unix(stream) => Connection::unix(stream.into_std()?),
        }
    }

    fn turn_away(self, room: &Arc<Semaphore>) {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
        log::info!("a second debugger was turned away");
        tokio::spawn(async move {
            let told = match self {
                Self::Tcp(stream) => timeout(2 * TURN_AWAY, tell_busy(stream)).await,
                Self::Unix(stream) => timeout(2 * TURN_AWAY, tell_busy(stream)).await,
            };
            log::debug!("turning away: {told:?}");
            drop(permit);
        });
    }
}

/// Answers the client's first packet with the reason, and waits for it to hang up: closing first could throw away
/// what it has not read yet.
async fn tell_busy(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut decoder = packet::Decoder::default();
    let mut buffer = [0; 1024];
    let asked = async {
        while let len @ 1.. = stream.read(&mut buffer).await? {
            let mut events = buffer.iter().take(len).filter_map(|byte| decoder.push(*byte));
            if events.any(|event| matches!(event, packet::Event::Packet(_))) {
                break;
            }
        }
        Ok::<(), io::Error>(())
    };
    // A client that says nothing is told all the same.
    let _ = timeout(TURN_AWAY, asked).await;
    let reply = packet::frame(&packet::error_text(BUSY));
    stream.write_all(&[b"+", reply.as_slice()].concat()).await?;
    stream.shutdown().await?;
    let _ = timeout(TURN_AWAY, async { while let Ok(1..) = stream.read(&mut buffer).await {} }).await;
    Ok(())
}

/// Serves `host` as `options` say.
///
/// # Errors
/// [`ServeError`].
pub fn serve(host: Arc<dyn Host>, options: Options) -> Result<(), ServeError> {
    let server = Server::bind(options)?;
    server.announce();
    server.run(host)
}

impl Server {
    /// Says where it listens, in the log, and warns of a place that is open to more than this machine.
    fn announce(&self) {
        match (&self.options.listen, self.tcp_address()) {
            (Listen::Tcp(_), Some(address)) => {
                log::info!("listening for GDB: target remote {address}");
                if !address.ip().is_loopback() {
                    log::warn!(
                        "{address} is not a loopback address: whoever reaches it can read the target's memory"
                    );
                }
            }
            (place, _) => log::info!("listening for GDB on {place}"),
        }
    }
}
