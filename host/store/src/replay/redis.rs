//! Redis: `SET key NX PX`, over one multiplexed connection.
//!
//! A command is sent once and never again. Whoever gets no answer does not know whether Redis has
//! consumed the token, and does not ask: a second `SET NX` would find the key, perhaps its own, and
//! the enclave has spent the token in any case. So the value says nothing, and each way to fail is
//! an error that ends the execution.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection, cmd};
use toani_links::ClientLink;
use toani_protocol::{Hash, Time};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use zeroize::Zeroizing;

use super::{
    ReplayError, ReplayFuture, ReplayStore,
    address::{Host, Place, RedisAddress},
    bounded::Bounded,
    server, system_time,
};

/// Longest wait for an answer, connecting anew included.
pub const REPLAY_MS_MAX: u64 = 2_000;
/// What a person may have put into a password file.
const PASSWORD_BYTES_MAX: u64 = 1_024;
/// What is told of a text that comes from a Redis.
const SHOWN_CHARS_MAX: usize = 200;

/// A Redis, and what it takes to be let in.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub address: RedisAddress,
    /// Whom a `rediss://` is believed by.
    pub ca: Option<PathBuf>,
    /// Holds the password and nothing else, for its owner alone.
    pub password_file: Option<PathBuf>,
}

/// A replay store that outlives the gateway, on this machine or another.
pub struct RedisReplay {
    config: RedisConfig,
    /// The connection, until something went wrong on it.
    current: Mutex<Option<MultiplexedConnection>>,
    /// Held by the one who connects.
    connecting: tokio::sync::Mutex<()>,
}

impl fmt::Debug for RedisReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisReplay").field("config", &self.config).finish_non_exhaustive()
    }
}

impl RedisReplay {
    /// Connects, and looks whether this Redis is fit for a replay store.
    ///
    /// # Errors
    /// A Redis that cannot be reached, refuses the password, or would forget redeemed tokens.
    pub async fn open(config: RedisConfig) -> Result<Self, ReplayError> {
        let connecting = tokio::sync::Mutex::default();
        let store = Self { config, current: Mutex::default(), connecting };
        let limit = Duration::from_millis(REPLAY_MS_MAX);
        tokio::time::timeout(limit, store.connection()).await.map_err(|_| too_slow())??;
        Ok(store)
    }

    fn current(&self) -> Option<MultiplexedConnection> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_current(&self, connection: Option<MultiplexedConnection>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// The connection, or a new one: it is made by one caller while the others wait, each for as
    /// long as its own time lasts.
    async fn connection(&self) -> Result<MultiplexedConnection, ReplayError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let _alone = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let connection = connect(&self.config).await?;
        self.set_current(Some(connection.clone()));
        Ok(connection)
    }

    async fn set(&self, jti: Hash, life_ms: u64) -> Result<bool, ReplayError> {
        let mut connection = self.connection().await?;
        let mut set = cmd("SET");
        set.arg(format!("toani:jti:{jti}")).arg(1).arg("NX").arg("PX").arg(life_ms);
        match set.query_async::<Value>(&mut connection).await {
            Ok(Value::Okay) => Ok(true),
            Ok(Value::Nil) => Ok(false),
            Ok(other) => Err(ReplayError::Unclear(shown(&format!("{other:?}")))),
            Err(error) => Err(of_redis(&error)),
        }
    }

    async fn consume_before(&self, jti: Hash, expires: Time) -> Result<bool, ReplayError> {
        let life_ms = expires.ms().saturating_sub(system_time().ms());
        if life_ms == 0 {
            return Err(ReplayError::Expired);
        }
        let limit = Duration::from_millis(REPLAY_MS_MAX);
        let consumed = tokio::time::timeout(limit, self.set(jti, life_ms)).await;
        let consumed = consumed.unwrap_or_else(|_| Err(too_slow()));
        // After an error nobody knows what the next answer on this connection is to.
        if consumed.as_ref().is_err_and(|error| *error != ReplayError::Full) {
            self.set_current(None);
        }
        consumed
    }
}

impl ReplayStore for RedisReplay {
    fn consume(&self, jti: Hash, expires: Time) -> ReplayFuture<'_> {
        Box::pin(self.consume_before(jti, expires))
    }
}

fn too_slow() -> ReplayError {
    ReplayError::Unclear(format!("nothing within {REPLAY_MS_MAX} ms"))
}

/// A text of a Redis as logs and terminals may show it.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

fn of_redis(error: &RedisError) -> ReplayError {
    if error.code() == Some("OOM") {
        return ReplayError::Full;
    }
    ReplayError::Unclear(shown(&error.to_string()))
}

async fn connect(config: &RedisConfig) -> Result<MultiplexedConnection, ReplayError> {
    let unreachable = |error: io::Error| {
        ReplayError::Unreachable(format!("{}: {}", config.address, shown(&error.to_string())))
    };
    let mut connection = match &config.address.place {
        Place::Unix(path) => {
            greet(config, UnixStream::connect(path).await.map_err(unreachable)?).await?
        }
        Place::Plain(host) => {
            let stream = tcp(host).await.map_err(unreachable)?;
            let peer = stream.peer_addr().map_err(unreachable)?;
            if !peer.ip().is_loopback() {
                let text = format!("{} leads to another machine without TLS", config.address);
                return Err(ReplayError::Unfit(text));
            }
            greet(config, stream).await?
        }
        Place::Tls(host) => {
            let ca = config.ca.as_deref().ok_or_else(|| {
                ReplayError::Unfit("rediss:// needs --replay-ca, the CA that signed for it".into())
            })?;
            let link =
                ClientLink::unnamed(ca).map_err(|error| ReplayError::Unfit(error.to_string()))?;
            let stream = tcp(host).await.map_err(unreachable)?;
            greet(config, link.handshake(&host.name, stream).await.map_err(unreachable)?).await?
        }
    };
    let info = cmd("INFO").query_async::<String>(&mut connection).await;
    server::judge(&info.map_err(|error| {
        ReplayError::Unfit(format!("it does not answer INFO: {}", shown(&error.to_string())))
    })?)?;
    Ok(connection)
}

async fn tcp(host: &Host) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `AUTH` and `SELECT`, where they are needed.
async fn greet<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    config: &RedisConfig,
    stream: S,
) -> Result<MultiplexedConnection, ReplayError> {
    let info = RedisConnectionInfo {
        db: i64::from(config.address.database),
        username: config.address.user.clone(),
        password: password(config)?.map(|password| password.to_string()),
        ..RedisConnectionInfo::default()
    };
    let greeted = MultiplexedConnection::new(&info, Bounded::new(stream)).await;
    let (connection, driver) = greeted.map_err(|error| {
        ReplayError::Unfit(format!("it does not let us in: {}", shown(&error.to_string())))
    })?;
    // Ends when the last clone of the connection is dropped.
    tokio::spawn(driver);
    Ok(connection)
}

/// Read at each connection, so that a password may change.
fn password(config: &RedisConfig) -> Result<Option<Zeroizing<String>>, ReplayError> {
    let Some(path) = &config.password_file else { return Ok(None) };
    let shown = path.display();
    let unfit = |what: String| ReplayError::Unfit(format!("the password file {shown} {what}"));
    let metadata =
        std::fs::metadata(path).map_err(|error| unfit(format!("cannot be read: {error}")))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(unfit(format!("can be read by others; run: chmod 600 {shown}")));
    }
    if metadata.size() > PASSWORD_BYTES_MAX {
        return Err(unfit("is larger than 1 KiB".to_owned()));
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| unfit(format!("cannot be read: {error}")))?;
    Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}
