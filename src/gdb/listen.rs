//! Where clients come from: addresses as users write them, and the sockets bound there.

use std::{
    fmt,
    fs::{self, File, Permissions},
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use socket2::{Domain, SockAddr, Socket, Type};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Where to wait for GDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP: `HOST:PORT`.
    Tcp(String),
    /// A Unix socket: `unix:PATH`.
    Unix(PathBuf),
    /// The process that started us: `target remote | nettlp-gdb serve --stdio ...`.
    Stdio,
}

/// Not a place to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a place to listen at: write HOST:PORT (such as 127.0.0.1:1234) or unix:PATH")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    /// Reads `HOST:PORT`, `:PORT` (on 127.0.0.1, as GDB takes it) or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        let bad = || ListenError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp(format!("{host}:{port}")))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Stdio => f.write_str("standard input and output"),
        }
    }
}

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another server has the address.
    #[error("{0} is in use: stop what listens there, or choose another place with --listen")]
    InUse(Listen),
    /// More than this machine could reach the address, and nobody said that this is wanted.
    #[error(
        "{place} can be reached from other machines, and the remote protocol knows no password: whoever connects reads \
         all of the target's memory. Listen on 127.0.0.1 or unix:PATH (ssh forwards both), or say --allow-remote"
    )]
    Remote {
        /// Where.
        place: Listen,
    },
    /// Listening is not possible there.
    #[error("cannot listen on {place}: {source}")]
    Bind {
        /// Where.
        place: Listen,
        /// Why not.
        source: io::Error,
    },
    /// The server cannot go on.
    #[error("the server cannot go on: {0}")]
    Io(#[from] io::Error),
}

/// Sockets that wait for clients.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Stdio,
}

impl Listener {
    /// Listens at `listen`; at an address that is not a loopback one only if `allow_remote`.
    pub(super) fn bind(listen: &Listen, allow_remote: bool) -> Result<Self, ServeError> {
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => ServeError::InUse(listen.clone()),
            _ => ServeError::Bind { place: listen.clone(), source },
        };
        match listen {
            Listen::Tcp(text) => {
                // Resolved once: what is judged is what is bound.
                let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(failed)?.collect();
                if !allow_remote && !addresses.iter().all(|address| address.ip().is_loopback()) {
                    return Err(ServeError::Remote { place: listen.clone() });
                }
                let listener = TcpListener::bind(&*addresses).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener))
            }
            Listen::Unix(path) => {
                let listener = remove_stale(path).and_then(|()| bind_private(path)).map_err(failed)?;
                Ok(Self::Unix(listener, path.clone()))
            }
            Listen::Stdio => Ok(Self::Stdio),
        }
    }

    /// The address bound, with the port the system chose for port 0.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) | Self::Stdio => None,
        }
    }

    /// What GDB's `target remote` is to be given; nothing where GDB started us.
    pub(super) fn remote(&self) -> Option<String> {
        match self {
            Self::Tcp(_) => self.tcp_address().map(|address| address.to_string()),
            Self::Unix(_, path) => Some(path.display().to_string()),
            Self::Stdio => None,
        }
    }
}

/// Removes the socket of a server that ended without removing it: one that nobody answers at. Any other file refuses a
/// connection too, and stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// A socket at `path` that only its owner may connect to, from its first moment: `bind` gives the file the mode that
/// the unbound socket has (Linux, `unix_bind_bsd` in net/unix/af_unix.c).
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let unbound = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    unbound.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(unbound));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |text: &str| text.parse::<Listen>().map(|listen| listen.to_string());
        assert_eq!(check("127.0.0.1:1234").unwrap(), "127.0.0.1:1234");
        assert_eq!(check(":1234").unwrap(), "127.0.0.1:1234");
        assert_eq!(check("[::1]:1234").unwrap(), "[::1]:1234");
        assert_eq!(check("unix:/tmp/gdb").unwrap(), "unix:/tmp/gdb");
        for bad in ["1234", "localhost", "host:port", "host:99999", "unix:", ""] {
            assert!(check(bad).unwrap_err().to_string().starts_with(&format!("`{bad}` is not a place")));
        }
    }

    #[test]
    fn a_place_in_use_is_said_in_one_sentence() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Listen::Tcp(taken.local_addr().unwrap().to_string());
        let error = Listener::bind(&place, false).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{place} is in use: stop what listens there, or choose another place with --listen")
        );
    }

    #[test]
    fn a_unix_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let place = Listen::Unix(directory.path().join("socket"));
        let first = Listener::bind(&place, false).unwrap();
        assert!(matches!(Listener::bind(&place, false), Err(ServeError::InUse(_))));
        drop(first);
        Listener::bind(&place, false).unwrap();
    }

    #[test]
    fn a_unix_socket_is_its_owners_alone_and_no_other_file_makes_room_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = Listener::bind(&Listen::Unix(path.clone()), false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = Listener::bind(&Listen::Unix(file.clone()), false).unwrap_err();
        assert!(matches!(error, ServeError::InUse(_)), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn other_machines_are_let_in_only_if_told_to() {
        for place in ["0.0.0.0:0", "[::]:0"] {
            let place: Listen = place.parse().unwrap();
            let error = Listener::bind(&place, false).unwrap_err();
            assert!(matches!(error, ServeError::Remote { .. }), "{error}");
            assert!(error.to_string().contains("--allow-remote"));
        }
        assert!(Listener::bind(&"localhost:0".parse().unwrap(), false).is_ok());
        assert!(Listener::bind(&"127.9.9.9:0".parse().unwrap(), false).is_ok());
    }
}
