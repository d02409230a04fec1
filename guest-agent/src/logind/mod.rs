//! The login manager as the bus shows it: systemd-logind, or elogind, which speaks alike.
//!
//! `org.freedesktop.login1(5)`. A reply says that a request was queued, never that it was carried
//! out. All texts are made fit for the wire here.

mod bus;

pub(crate) use bus::CallError;

use crate::sessions::clean;
use bus::{Bus, Target};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

/// The folder that is there where logind, or elogind, runs: sd_login(3).
const SEATS: &str = "run/systemd/seats";
/// Where the system bus listens, in the order in which it is looked for.
const SOCKETS: [&str; 2] = ["run/dbus/system_bus_socket", "var/run/dbus/system_bus_socket"];
/// Sessions that are listed; no guest has more.
const MAX_SESSIONS: usize = 4096;
const SERVICE: &str = "org.freedesktop.login1";
const MANAGER: Target<'static> = Target {
    service: SERVICE,
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};
const SYSTEMD: Target<'static> = Target {
    service: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const SESSION: &str = "org.freedesktop.login1.Session";
const USER: &str = "org.freedesktop.login1.User";

/// A session in the list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name, as logind wants to hear it.
    pub(crate) id: String,
    /// The user's number.
    pub(crate) uid: u32,
    /// The user's name.
    pub(crate) user: String,
    path: OwnedObjectPath,
}

/// What a session says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// `user`, `greeter`, `manager`, ...
    pub(crate) class: String,
    /// `tty`, `x11`, `wayland`, ...
    pub(crate) kind: String,
    /// `active`, `online`, `closing`, ...
    pub(crate) state: String,
    /// The terminal without `/dev/`, or empty.
    pub(crate) tty: String,
    /// Where the user came from, or empty.
    pub(crate) remote_host: String,
    /// The process that asked for the session; 0 if it has none.
    pub(crate) leader: u32,
    /// When it began, in microseconds of the monotonic clock.
    pub(crate) since: u64,
    /// Whether the user has locked the screen.
    pub(crate) locked: bool,
}

impl Details {
    /// Whether it is a user's, and neither a greeter's nor a manager's nor that of a job.
    pub(crate) fn is_users(&self) -> bool {
        self.class.starts_with("user")
    }

    /// Whether it has been told to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.state == "closing"
    }
}

/// A connection to the login manager.
#[derive(Debug)]
pub(crate) struct LoginManager {
    bus: Bus,
    wake: Arc<OwnedFd>,
}

impl LoginManager {
    /// Connects to the login manager of the guest whose files are below `root`. The connection lasts
    /// when the manager is restarted.
    ///
    /// # Errors
    /// `NotFound` where the guest has none; else the bus does not let the agent in.
    pub(crate) fn connect(root: &Path) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Self::connect_waking(root, Arc::new(eventfd(0, flags)?))
    }

    /// The same, making `wake`, an eventfd, readable when sessions come and go and when the connection
    /// ends.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn connect_waking(root: &Path, wake: Arc<OwnedFd>) -> io::Result<Self> {
        if !root.join(SEATS).is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the guest has no logind"));
        }
        let mut sockets = SOCKETS.iter().map(|socket| root.join(socket));
        let socket = sockets.find(|socket| socket.exists()).unwrap_or(root.join(SOCKETS[0]));
        match Bus::connect(&socket, MANAGER, Arc::clone(&wake)) {
            Ok(bus) => Ok(Self { bus, wake }),
            Err(error) => {
                // A guest with logind has a bus, whatever has become of it.
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => io::ErrorKind::Other,
                    kind => kind,
                };
                Err(io::Error::new(kind, format!("no system bus: {error}")))
            }
        }
    }

    /// Readable when sessions have come or gone, or the connection has ended.
    pub(crate) fn wake(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }

    /// All sessions of every class, in no particular order.
    ///
    /// # Errors
    /// See [`CallError`], here and below.
    pub(crate) fn sessions(&self) -> Result<Vec<Listed>, CallError> {
        type Row = (String, u32, String, String, OwnedObjectPath);
        let rows: Vec<Row> = self.bus.call(MANAGER, "ListSessions", &())?;
        let listed = |(id, uid, user, _, path): Row| {
            let user = clean(user.as_bytes());
            Listed { id, uid, user, path }
        };
        // Whatever could not be named on the wire is no session.
        let rows = rows.into_iter().filter(|row| clean(row.0.as_bytes()) == row.0);
        Ok(rows.take(MAX_SESSIONS).map(listed).collect())
    }

    /// What `session` is now.
    pub(crate) fn details(&self, session: &Listed) -> Result<Details, CallError> {
        self.details_at(&session.path)
    }

    /// Whether the session `id` has been told to end.
    pub(crate) fn is_closing(&self, id: &str) -> Result<bool, CallError> {
        let path: OwnedObjectPath = self.bus.call(MANAGER, "GetSession", &id)?;
        Ok(self.details_at(&path)?.is_closing())
    }

    fn details_at(&self, path: &OwnedObjectPath) -> Result<Details, CallError> {
        let target = Target { service: SERVICE, path: path.as_str(), interface: PROPERTIES };
        let properties: HashMap<String, OwnedVariant> =
            self.bus.call(target, "GetAll", &SESSION)?;
        let text = |name: &str| clean(text_of(properties.get(name)).as_bytes());
        let tty = text("TTY");
        Ok(Details {
            class: text("Class"),
            kind: text("Type"),
            state: text("State"),
            tty: tty.strip_prefix("/dev/").unwrap_or(&tty).to_owned(),
            remote_host: text("RemoteHost"),
            leader: number_of(properties.get("Leader")),
            since: match properties.get("TimestampMonotonic").map(|value| &**value) {
                Some(Variant::U64(since)) => *since,
                _ => 0,
            },
            locked: is_true(properties.get("LockedHint")),
        })
    }

    /// Whether `uid`'s manager stays when its user has gone.
    pub(crate) fn lingers(&self, uid: u32) -> Result<bool, CallError> {
        let path: OwnedObjectPath = self.bus.call(MANAGER, "GetUser", &uid)?;
        self.flag(path.as_str(), USER, "Linger")
    }

    /// Whether the guest is going down: logind was told to see to it, or systemd is at it.
    pub(crate) fn is_going_down(&self) -> Result<bool, CallError> {
        if self.flag(MANAGER.path, MANAGER.interface, "PreparingForShutdown")? {
            return Ok(true);
        }
        let target = Target { interface: PROPERTIES, ..SYSTEMD };
        // elogind has no systemd beside it.
        let state: Result<OwnedVariant, _> =
            self.bus.call(target, "Get", &(SYSTEMD.interface, "SystemState"));
        Ok(state.is_ok_and(|state| text_of(Some(&state)) == "stopping"))
    }

    fn flag(&self, path: &str, interface: &str, name: &str) -> Result<bool, CallError> {
        let target = Target { service: SERVICE, path, interface: PROPERTIES };
        let value: OwnedVariant = self.bus.call(target, "Get", &(interface, name))?;
        Ok(is_true(Some(&value)))
    }

    /// Whether a user has locked their screen.
    pub(crate) fn is_screen_locked(&self) -> Result<bool, CallError> {
        for session in self.sessions()? {
            match self.details(&session) {
                Ok(details) if details.is_users() && details.locked => return Ok(true),
                Ok(_) | Err(CallError::Absent) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Ends the session `id`. Does nothing to one that is closing already.
    pub(crate) fn terminate_session(&self, id: &str) -> Result<(), CallError> {
        self.bus.call(MANAGER, "TerminateSession", &id)
    }

    /// Sends `signal` to all processes of the session `id`.
    pub(crate) fn kill_session(&self, id: &str, signal: i32) -> Result<(), CallError> {
        self.bus.call(MANAGER, "KillSession", &(id, "all", signal))
    }

    /// Ends all sessions of `uid`, and its manager.
    pub(crate) fn terminate_user(&self, uid: u32) -> Result<(), CallError> {
        self.bus.call(MANAGER, "TerminateUser", &uid)
    }

    /// Whether the connection has ended.
    pub(crate) fn is_lost(&self) -> bool {
        self.bus.is_closed()
    }
}

fn text_of(value: Option<&OwnedVariant>) -> &str {
    match value.map(|value| &**value) {
        Some(Variant::Str(text)) => text.as_str(),
        _ => "",
    }
}

fn number_of(value: Option<&OwnedVariant>) -> u32 {
    match value.map(|value| &**value) {
        Some(Variant::U32(number)) => *number,
        _ => 0,
    }
}

fn is_true(value: Option<&OwnedVariant>) -> bool {
    matches!(value.map(|value| &**value), Some(Variant::Bool(true)))
}
