//! The machine's side of its control socket.
//!
//! One thread, named `control`, has all clients: it takes connections, reads requests, answers what
//! can be answered at once, and follows tasks and events for whoever asked to hear of them. What may
//! have to wait, for the guest above all, is done on another thread for as long as it takes, and its
//! answer comes back to the one thread. So a client costs a descriptor and little memory; a
//! thousand of them may be silent for as long as they like. When there is no room for one more,
//! whoever has asked nothing for the longest time is sent away. A client that is slow, silent, gone
//! or never content holds up nobody but itself, and never cancels a task. Whom the owner has let in
//! gets half of what there is, so that the owner is heard whatever they do.

use crate::confine::Role;
use crate::control::access::{Access, Peer, unknown};
use crate::control::calls::Calls;
use crate::control::conversation::{Conversation, Next};
use crate::control::crowd::{Count, Crowd};
use crate::control::serve::Served;
use crate::control::unsent::Unsent;
use crate::control::wire::{self, Request, Response};
use crate::error::CallError;
use crate::io::{IoThread, Registry, Source};
use crate::vm::Vm;
use crossbeam_channel::{Receiver, Sender, unbounded};
use protocol::HResult;
use rustix::net::{SendFlags, send};
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

/// Clients at once, as far as this process may have descriptors: half of them are left to the
/// machine, which needs some for every boot.
pub const MAX_CLIENTS: usize = if cfg!(test) { 64 } else { 2_000 };
/// Steps of a client, and connections that are taken, before others have their turn.
const STEPS: usize = 32;
/// How long answers may take when the machine has ended.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long no clients are taken after one could not be, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(50);

/// Tokens: the listener, the bell, and then the clients.
const LISTENER: u32 = 0;
const BELL: u32 = 1;
const FIRST_CLIENT: u32 = 2;

/// The server. Dropping it gives clients a moment for their answers, and ends it.
pub struct Server {
    crowd: Arc<Crowd>,
    bell: Arc<EventFd>,
    _thread: IoThread,
}

impl Server {
    /// Serves `vm` to whoever `access` admits of those who connect to `listener`.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn start(listener: UnixListener, vm: Arc<Vm>, access: Access) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let crowd = Arc::new(Crowd::default());
        let bell = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        vm.tasks().ring(&bell);
        let thread = IoThread::spawn_holding(Role::Control, "control", ())?;
        let clients = Clients::new(listener, vm, access, bell.clone(), crowd.clone());
        thread.handle().add(Box::new(clients))?;
        Ok(Self { crowd, bell, _thread: thread })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The thread looks once more at what there is to tell.
        let _ = self.bell.write(1);
        self.crowd.wait_for_answers(FAREWELL);
    }
}

/// [`MAX_CLIENTS`], as far as there are descriptors.
fn most_clients() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 2).map_or(MAX_CLIENTS, |half| half.min(MAX_CLIENTS))
}

/// An answer that was worked for: whose it is, and whether that is the owner.
struct Answer {
    token: u32,
    owner: bool,
    answer: Result<Response, CallError>,
}

/// Everything on the thread.
struct Clients {
    listener: UnixListener,
    /// New ones are taken again from here on.
    paused: Option<Instant>,
    served: Served,
    access: Access,
    /// Rung when a task has changed, something has happened, or an answer is there.
    bell: Arc<EventFd>,
    answers: (Sender<Answer>, Receiver<Answer>),
    calls: Calls,
    next: u32,
    /// So many clients there may be.
    most: usize,
    clients: BTreeMap<u32, Conversation>,
    unsent: Unsent,
    crowd: Arc<Crowd>,
}

impl Clients {
    fn new(
        listener: UnixListener,
        vm: Arc<Vm>,
        access: Access,
        bell: Arc<EventFd>,
        crowd: Arc<Crowd>,
    ) -> Self {
        Self {
            listener,
            paused: None,
            served: Served { vm, since: Instant::now() },
            access,
            bell,
            answers: unbounded(),
            calls: Calls::default(),
            next: FIRST_CLIENT,
            most: most_clients(),
            clients: BTreeMap::new(),
            unsent: Unsent::default(),
            crowd,
        }
    }

    /// Takes those who have connected; who is left is reported again.
    fn welcome(&mut self, registry: &mut Registry<'_>) {
        for _ in 0..STEPS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, as a rule. The connection is still there, and would be
                    // reported again and again.
                    if !self.send_idlest_away(true, registry) {
                        tracing::warn!(%error, "connection to the control socket not taken");
                        registry.forget(&self.listener);
                        self.paused = Some(Instant::now() + PAUSE);
                    }
                    return;
                }
            };
            let peer = match Peer::of(&stream) {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::warn!(%error, "client of unknown identity sent away");
                    continue;
                }
            };
            if self.access.of(&peer).is_none() {
                // It learns nothing, not even that the machine is there.
                turn_away(&stream, &unknown(self.served.vm.name()));
                continue;
            }
            let owner = self.access.is_owner(&peer);
            if self.has_seat(owner) || self.send_idlest_away(owner, registry) {
                self.seat(stream, peer, registry);
            } else {
                turn_away(&stream, &crowded(self.most));
            }
        }
    }

    /// Whether one more client finds a seat. Half of them are for the owner alone.
    fn has_seat(&self, owner: bool) -> bool {
        let others = || self.clients.values().filter(|client| !self.is_owner(client)).count();
        self.clients.len() < self.most && (owner || others() < self.most / 2)
    }

    fn is_owner(&self, client: &Conversation) -> bool {
        self.access.is_owner(client.peer())
    }

    fn seat(&mut self, stream: UnixStream, peer: Peer, registry: &mut Registry<'_>) {
        let token = self.next;
        // Four thousand million clients later the first one's number is surely free again.
        self.next = self.next.checked_add(1).unwrap_or(FIRST_CLIENT);
        let begun = stream
            .set_nonblocking(true)
            .and_then(|()| registry.watch(&stream, token, EventSet::IN));
        match begun {
            Ok(()) => {
                let share = self.unsent.share(self.access.is_owner(&peer));
                drop(self.clients.insert(token, Conversation::new(stream, peer, share)));
            }
            Err(error) => tracing::warn!(%error, "client not served"),
        }
    }

    /// Makes room, for the owner or somebody else, by ending the conversation with who has been idle
    /// the longest; false if nobody is. The owner makes no room for others.
    fn send_idlest_away(&mut self, owner: bool, registry: &mut Registry<'_>) -> bool {
        let idle = self.clients.iter().filter(|(_, client)| owner || !self.is_owner(client));
        let idle = idle.filter_map(|(token, client)| Some((client.idle_since()?, *token)));
        let Some((_, token)) = idle.min() else { return false };
        if let Some(client) = self.clients.remove(&token) {
            registry.forget(client.stream());
            turn_away(client.stream(), &crowded(self.clients.len()));
        }
        true
    }

    /// Goes on with the client `token` as far as that is possible now, and for not too long.
    fn converse(&mut self, token: u32, registry: &mut Registry<'_>) {
        let Some(mut client) = self.clients.remove(&token) else { return };
        for _ in 0..STEPS {
            match client.go_on() {
                Next::Request(request) => self.take(token, &mut client, request),
                Next::More => {}
                Next::Wait => return self.keep(token, client, registry),
                Next::Leave => {
                    registry.forget(client.stream());
                    return self.attach(client);
                }
                Next::End => return registry.forget(client.stream()),
            }
        }
        client.interrupt();
        self.keep(token, client, registry);
    }

    /// Waits for what the client `token` does next.
    fn keep(&mut self, token: u32, mut client: Conversation, registry: &mut Registry<'_>) {
        match client.watch(registry, token) {
            Ok(()) => drop(self.clients.insert(token, client)),
            Err(_) => registry.forget(client.stream()),
        }
    }

    /// Gives a client's connection to the console.
    fn attach(&self, client: Conversation) {
        let (stream, typed) = client.leave();
        // The machine may have ended since it was asked: then so does the connection.
        if let Ok(console) = self.served.vm.console()
            && let Err(error) = console.attach(stream, typed)
        {
            tracing::warn!(%error, "client not attached to the console");
        }
    }

    /// Does what the client asks for, or has it done.
    fn take(&mut self, token: u32, client: &mut Conversation, request: Result<Request, CallError>) {
        let name = self.served.vm.name();
        let admitted = request
            .and_then(|request| self.access.check(client.peer(), &request, name).map(|()| request));
        let request = match admitted {
            Ok(request) => request,
            Err(error) => return client.answer(Err(error)),
        };
        match request {
            Request::Wait { id } => match self.served.task(id) {
                Ok(task) => client.follow(task),
                Err(error) => client.answer(Err(error)),
            },
            Request::Console => match self.served.vm.console() {
                Ok(_) => client.prepare_to_leave(),
                Err(error) => client.answer(Err(error)),
            },
            Request::Events => client.listen(self.served.vm.events().subscribe(self.bell.clone())),
            request => match self.served.at_once(&request) {
                Some(answer) => answer_to(client, &self.served, answer),
                None => self.call(token, client, request),
            },
        }
    }

    /// Has a request answered on a thread that has nothing else to do meanwhile.
    fn call(&mut self, token: u32, client: &mut Conversation, request: Request) {
        let owner = self.is_owner(client);
        if !self.calls.has_room(owner) {
            return client.answer(Err(crowded(self.calls.all)));
        }
        let (served, bell) = (self.served.clone(), self.bell.clone());
        let answers = self.answers.0.clone();
        let begun = self.calls.begin(owner, move || {
            // The machine goes on whatever becomes of one request.
            let work = std::panic::AssertUnwindSafe(|| served.work(request));
            let answer = std::panic::catch_unwind(work).unwrap_or_else(|_| {
                let text = "the monitor failed while it worked on this; its log says more";
                Err(CallError::new(HResult::DISP_E_EXCEPTION, text))
            });
            // Let go of the machine before its owner is told that nobody needs it any more.
            drop(served);
            // Nobody to tell is as good.
            let _ = answers.send(Answer { token, owner, answer });
            let _ = bell.write(1);
        });
        match begun {
            Ok(()) => client.called(),
            Err(error) => {
                let text = format!("no thread is left for this request ({error}); try again");
                client.answer(Err(CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text)));
            }
        }
    }

    /// Hands out answers, and tells those who follow something what is new.
    fn tell(&mut self, registry: &mut Registry<'_>) {
        while let Ok(Answer { token, owner, answer }) = self.answers.1.try_recv() {
            self.calls.end(owner);
            if let Some(client) = self.clients.get_mut(&token) {
                answer_to(client, &self.served, answer);
                self.converse(token, registry);
            }
        }
        let following = self.clients.iter().filter(|(_, client)| client.follows());
        let tokens: Vec<u32> = following.map(|(token, _)| *token).collect();
        tokens.into_iter().for_each(|token| self.converse(token, registry));
    }

    fn count(&self) {
        let owed = self.clients.values().filter(|client| client.is_owed_an_answer()).count();
        self.crowd.set(Count { clients: self.clients.len(), owed });
    }
}

impl Source for Clients {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(&self.listener, LISTENER, EventSet::IN)?;
        registry.watch(self.bell.as_ref(), BELL, EventSet::IN)
    }

    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        match token {
            LISTENER => self.welcome(registry),
            BELL => {
                // Non-blocking, and only this thread reads it.
                let _ = self.bell.read();
                self.tell(registry);
            }
            token => {
                let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
                if let Some(client) = self.clients.get_mut(&token).filter(|_| gone) {
                    client.peer_has_gone();
                }
                self.converse(token, registry);
            }
        }
        self.count();
    }

    fn deadline(&self) -> Option<Instant> {
        let clients = self.clients.values().filter_map(Conversation::deadline);
        clients.chain(self.paused).min()
    }

    fn expired(&mut self, registry: &mut Registry<'_>) {
        let now = Instant::now();
        if self.paused.take_if(|until| *until <= now).is_some()
            && registry.watch(&self.listener, LISTENER, EventSet::IN).is_err()
        {
            self.paused = Some(now + PAUSE);
        }
        let late = self.clients.iter().filter(|(_, c)| c.deadline().is_some_and(|at| at <= now));
        let tokens: Vec<u32> = late.map(|(token, _)| *token).collect();
        for token in tokens {
            if let Some(client) = self.clients.get_mut(&token) {
                client.expired(now);
            }
            self.converse(token, registry);
        }
        self.count();
    }
}

/// Answers a client, who may want to follow the task that the answer is about.
fn answer_to(client: &mut Conversation, served: &Served, answer: Result<Response, CallError>) {
    let task = match &answer {
        Ok(Response::Task(document)) if client.wants_to_follow() && !document.task.is_complete => {
            served.task(document.task.id).ok()
        }
        _ => None,
    };
    client.answer(answer);
    if let Some(task) = task {
        client.follow(task);
    }
}

/// Why somebody is not served, or not any more.
fn crowded(others: usize) -> CallError {
    let text = format!("{others} others are being served by the machine's process; try again");
    CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text)
}

/// Says why a client is not served, without waiting for it.
fn turn_away(stream: &UnixStream, error: &CallError) {
    let mut bytes = Vec::new();
    // Whoever has gone or does not read need not know.
    if wire::answer(&mut bytes, &wire::refusal(error)).is_ok() {
        let _ = send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
