//! The first program of a guest whose vsock is measured: loads the modules, serves the ports of
//! [`tests::load`], and says when it is there.

use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use tests::init;
use tests::load::{self, GREET, SERVE};
use vsock::{VMADDR_CID_ANY, VsockListener};

fn main() {
    init::stay(serve);
}

fn serve() -> io::Result<()> {
    init::load_modules()?;
    let most = Some(4096);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let listen = |port| VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port);
    let (greet, serve) = (listen(GREET)?, listen(SERVE)?);
    init::say_userspace()?;
    load::serve_all(move || serve.accept(), || greet.accept())
}
