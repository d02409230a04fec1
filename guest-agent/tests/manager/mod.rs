//! A small login manager on a bus of its own, which answers over the real wire as logind would.
//!
//! Its sessions are the world's logins. It ends them as systemd does: everybody in the session's
//! group gets SIGTERM, SIGHUP and SIGCONT, the session is closing, and is dropped when its group is
//! empty. Every call that changes something is noted.

#![allow(dead_code, reason = "each test program uses a part of it")]

use crate::world::{World, groups_of};
use guest_agent::process::{Identity, Proc};
use guest_agent::sessions::logind::Logind;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use zbus::connection::Builder;
use zbus::fdo::Error;
use zbus::{Connection, OwnedObjectPath, block_on, interface};

const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";

/// A session as the manager has it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) uid: u32,
    pub(crate) user: String,
    pub(crate) class: &'static str,
    pub(crate) state: &'static str,
    pub(crate) tty: String,
    pub(crate) host: String,
    pub(crate) leader: u32,
    pub(crate) since: u64,
    pub(crate) locked: bool,
    /// It stays, in the state that it is in, whatever is done to it.
    pub(crate) stuck: bool,
}

/// A user's session of class `user` with this leader.
pub(crate) fn session(id: &str, uid: u32, leader: u32) -> Session {
    let now = clock_gettime(ClockId::Monotonic);
    Session {
        id: id.into(),
        uid,
        user: format!("user{uid}"),
        class: "user",
        state: "active",
        tty: String::new(),
        host: String::new(),
        leader,
        since: now.tv_sec as u64 * 1_000_000,
        locked: false,
        stuck: false,
    }
}

/// The line of systemd's that puts a process into the session `id` of `uid`.
pub(crate) fn scope(id: &str, uid: u32) -> String {
    format!("0::/user.slice/user-{uid}.slice/session-{id}.scope")
}

/// The one that puts it into a service of `uid`'s manager.
pub(crate) fn service(uid: u32) -> String {
    format!("0::/user.slice/user-{uid}.slice/user@{uid}.service/app.slice/job.service")
}

#[derive(Debug, Default)]
struct Model {
    sessions: Vec<Session>,
    lingering: Vec<u32>,
    calls: Vec<String>,
    /// It lets nobody do anything.
    denies: bool,
    going_down: bool,
}

type Shared = Arc<Mutex<Model>>;

fn lock(model: &Shared) -> MutexGuard<'_, Model> {
    model.lock().unwrap()
}

fn path_of(id: &str) -> OwnedObjectPath {
    format!("{PATH}/session/_3{id}").try_into().unwrap()
}

fn living(is_meant: impl Fn(&str) -> bool) -> Vec<Identity> {
    let table = Proc::new(Path::new("/proc"), World::scope()).table().unwrap();
    let living = table.processes().iter().filter(|one| !one.dead);
    let meant = living.filter(|one| {
        let groups = groups_of(one.pid()).unwrap_or_default();
        is_meant(&String::from_utf8_lossy(&groups))
    });
    meant.map(|one| one.identity).collect()
}

fn signal(is_meant: impl Fn(&str) -> bool, signals: &[Signal]) {
    let proc = Proc::new(Path::new("/proc"), World::scope());
    for one in living(is_meant) {
        if let Ok(Some(handle)) = proc.hold(one) {
            for signal in signals {
                let _ = handle.signal(*signal);
            }
        }
    }
}

struct Manager(Shared);

impl Manager {
    /// Notes a call, or refuses it.
    fn note(&self, call: String) -> Result<MutexGuard<'_, Model>, Error> {
        let mut model = lock(&self.0);
        model.calls.push(call);
        if model.denies {
            return Err(Error::AccessDenied("not for you".into()));
        }
        Ok(model)
    }
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn list_sessions(&self) -> Vec<(String, u32, String, String, OwnedObjectPath)> {
        let model = lock(&self.0);
        let row = |one: &Session| {
            (one.id.clone(), one.uid, one.user.clone(), "seat0".into(), path_of(&one.id))
        };
        model.sessions.iter().map(row).collect()
    }

    fn get_session(&self, id: String) -> Result<OwnedObjectPath, Error> {
        let known = lock(&self.0).sessions.iter().any(|one| one.id == id);
        known.then(|| path_of(&id)).ok_or_else(|| Error::UnknownObject("no such session".into()))
    }

    fn get_user(&self, uid: u32) -> Result<OwnedObjectPath, Error> {
        let known = lock(&self.0).sessions.iter().any(|one| one.uid == uid);
        match known {
            true => Ok(format!("{PATH}/user/_{uid}").try_into().unwrap()),
            false => Err(Error::UnknownObject("no such user".into())),
        }
    }

    fn terminate_session(&self, id: String) -> Result<(), Error> {
        let mut model = self.note(format!("TerminateSession {id}"))?;
        let Some(found) = model.sessions.iter_mut().find(|one| one.id == id) else {
            return Err(Error::UnknownObject("no such session".into()));
        };
        if found.state != "closing" && !found.stuck {
            found.state = "closing";
            let group = scope(&id, found.uid);
            signal(|one| one == group, &[Signal::TERM, Signal::HUP, Signal::CONT]);
        }
        Ok(())
    }

    fn kill_session(&self, id: String, who: String, number: i32) -> Result<(), Error> {
        let model = self.note(format!("KillSession {id} {who} {number}"))?;
        let found = model.sessions.iter().find(|one| one.id == id).cloned().unwrap();
        let group = scope(&id, found.uid);
        signal(|one| one == group, &[Signal::from_named_raw(number).unwrap()]);
        Ok(())
    }

    fn terminate_user(&self, uid: u32) -> Result<(), Error> {
        drop(self.note(format!("TerminateUser {uid}"))?);
        let slice = format!("/user-{uid}.slice/");
        signal(|one| one.contains(&slice), &[Signal::TERM, Signal::HUP]);
        Ok(())
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        lock(&self.0).going_down
    }
}

struct Object(Shared, String);

impl Object {
    fn get<T>(&self, what: impl Fn(&Session) -> T) -> Result<T, Error> {
        let model = lock(&self.0);
        let found = model.sessions.iter().find(|one| one.id == self.1);
        found.map(what).ok_or_else(|| Error::UnknownObject("gone".into()))
    }
}

#[interface(name = "org.freedesktop.login1.Session")]
impl Object {
    #[zbus(property)]
    fn class(&self) -> Result<String, Error> {
        self.get(|one| one.class.into())
    }

    #[zbus(property)]
    fn state(&self) -> Result<String, Error> {
        self.get(|one| one.state.into())
    }

    #[zbus(property, name = "Type")]
    fn kind(&self) -> Result<String, Error> {
        self.get(|one| if one.tty.is_empty() { "unspecified".into() } else { "tty".into() })
    }

    #[zbus(property, name = "TTY")]
    fn tty(&self) -> Result<String, Error> {
        self.get(|one| one.tty.clone())
    }

    #[zbus(property)]
    fn remote_host(&self) -> Result<String, Error> {
        self.get(|one| one.host.clone())
    }

    #[zbus(property)]
    fn leader(&self) -> Result<u32, Error> {
        self.get(|one| one.leader)
    }

    #[zbus(property)]
    fn timestamp_monotonic(&self) -> Result<u64, Error> {
        self.get(|one| one.since)
    }

    #[zbus(property)]
    fn locked_hint(&self) -> Result<bool, Error> {
        self.get(|one| one.locked)
    }

    #[zbus(property)]
    fn user(&self) -> Result<(u32, OwnedObjectPath), Error> {
        self.get(|one| (one.uid, path_of(&one.id)))
    }
}

struct User(Shared, u32);

#[interface(name = "org.freedesktop.login1.User")]
impl User {
    #[zbus(property)]
    fn linger(&self) -> bool {
        lock(&self.0).lingering.contains(&self.1)
    }
}

/// The manager, its bus, and the guest's root directory.
pub(crate) struct Logins {
    folder: tempfile::TempDir,
    daemon: Child,
    connection: Option<Connection>,
    model: Shared,
    watch: Option<JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl Logins {
    /// A guest with systemd, or none where this machine has no `dbus-daemon`.
    pub(crate) fn systemd() -> Option<Self> {
        let logins = Self::new()?;
        std::fs::create_dir_all(logins.root().join("run/systemd/system")).unwrap();
        Some(logins)
    }

    /// A guest with elogind.
    pub(crate) fn elogind() -> Option<Self> {
        Self::new()
    }

    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("run/systemd/seats")).unwrap();
        std::fs::create_dir_all(root.join("run/dbus")).unwrap();
        symlink("/proc", root.join("proc")).unwrap();
        symlink("/dev", root.join("dev")).unwrap();
        let socket = root.join("run/dbus/system_bus_socket");
        let configuration = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context='default'><allow send_destination='*' eavesdrop='true'/>\
             <allow eavesdrop='true'/><allow own='*'/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(root.join("bus.conf"), configuration).unwrap();
        let mut daemon = Command::new("dbus-daemon");
        daemon.arg(format!("--config-file={}", root.join("bus.conf").display()));
        daemon.args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1"]);
        // It complains where it may not have as many descriptors as it would like.
        let mut daemon = match daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() {
            Ok(daemon) => daemon,
            Err(error) => {
                // To the descriptor itself, since what a test prints is shown only when it fails.
                let text = format!("skipped: dbus-daemon cannot be run: {error}\n");
                std::io::stderr().write_all(text.as_bytes()).unwrap();
                return None;
            }
        };
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(!address.is_empty(), "the bus has not started");
        let model = Shared::default();
        let over = Arc::new(AtomicBool::new(false));
        let mut logins = Self { folder, daemon, connection: None, model, watch: None, over };
        logins.start();
        Some(logins)
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("run/dbus/system_bus_socket")
    }

    /// What the agent makes of it.
    pub(crate) fn backend(&self) -> Logind {
        let proc = Proc::new(Path::new("/proc"), World::scope());
        Logind::with_cgroups(self.root(), proc, groups_of).unwrap()
    }

    pub(crate) fn add(&self, session: Session) {
        let id = session.id.clone();
        let uid = session.uid;
        lock(&self.model).sessions.push(session);
        if let Some(connection) = &self.connection {
            block_on(serve(connection, &self.model, &id, uid));
            emit(connection, "SessionNew", &id);
        }
    }

    pub(crate) fn change(&self, id: &str, change: impl FnOnce(&mut Session)) {
        let mut model = lock(&self.model);
        change(model.sessions.iter_mut().find(|one| one.id == id).unwrap());
    }

    /// Drops the session, and says so.
    pub(crate) fn remove(&self, id: &str) {
        lock(&self.model).sessions.retain(|one| one.id != id);
        emit(self.connection.as_ref().unwrap(), "SessionRemoved", id);
    }

    pub(crate) fn linger(&self, uid: u32) {
        lock(&self.model).lingering.push(uid);
    }

    pub(crate) fn deny(&self) {
        lock(&self.model).denies = true;
    }

    pub(crate) fn go_down(&self) {
        lock(&self.model).going_down = true;
    }

    /// Whether it has a session of this name.
    pub(crate) fn knows(&self, id: &str) -> bool {
        lock(&self.model).sessions.iter().any(|one| one.id == id)
    }

    /// What it was told to do.
    pub(crate) fn calls(&self) -> Vec<String> {
        lock(&self.model).calls.clone()
    }

    /// Waits until it was told this.
    pub(crate) fn wait_for_call(&self, call: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while !self.calls().iter().any(|one| one == call) {
            assert!(Instant::now() < until, "{:?}", self.calls());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the manager; it knows what it knew.
    pub(crate) fn start(&mut self) {
        let model = Arc::clone(&self.model);
        let address = format!("unix:path={}", self.socket().display());
        let connection = block_on(async {
            let manager = Manager(Arc::clone(&model));
            let connection =
                Builder::address(&*address).serve_at(PATH, manager).build().await.unwrap();
            let known: Vec<_> =
                lock(&model).sessions.iter().map(|s| (s.id.clone(), s.uid)).collect();
            for (id, uid) in known {
                serve(&connection, &model, &id, uid).await;
            }
            connection.request_name("org.freedesktop.login1").await.unwrap();
            connection
        });
        self.connection = Some(connection.clone());
        self.over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&self.over);
        self.watch = Some(thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                watch(&model, &connection);
                thread::sleep(Duration::from_millis(10));
            }
        }));
    }

    /// Stops the manager; the bus goes on.
    pub(crate) fn stop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(watch) = self.watch.take() {
            watch.join().unwrap();
        }
        if let Some(connection) = self.connection.take() {
            let _ = block_on(connection.close());
        }
    }

    /// Kills the bus.
    pub(crate) fn kill_bus(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Stops the bus in its tracks, or lets it go on.
    pub(crate) fn freeze_bus(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Logins {
    fn drop(&mut self) {
        self.stop();
        // It may have been killed before.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

async fn serve(connection: &Connection, model: &Shared, id: &str, uid: u32) {
    let server = connection.object_server();
    server.at(path_of(id), Object(Arc::clone(model), id.into())).await.unwrap();
    server.at(format!("{PATH}/user/_{uid}"), User(Arc::clone(model), uid)).await.unwrap();
}

fn emit(connection: &Connection, name: &str, id: &str) {
    // The bus may have been killed.
    let _ = block_on(connection.emit_signal(None::<&str>, PATH, MANAGER, name, &(id, path_of(id))));
}

/// Sees sessions close when their leaders have gone, and drops those that are empty.
fn watch(model: &Shared, connection: &Connection) {
    let mut removed = Vec::new();
    let mut all = lock(model);
    all.sessions.retain_mut(|one| {
        // What is opening has no scope yet.
        if one.stuck || one.state == "opening" || !one.class.starts_with("user") {
            return true;
        }
        let groups = [scope(&one.id, one.uid), format!("1:name=elogind:/{}", one.id)];
        let left = living(|group| groups.iter().any(|own| own == group));
        if left.iter().all(|process| process.pid != one.leader) {
            one.state = "closing";
        }
        let keep = one.state != "closing" || !left.is_empty();
        if !keep {
            removed.push(one.id.clone());
        }
        keep
    });
    drop(all);
    for id in removed {
        emit(connection, "SessionRemoved", &id);
    }
}
