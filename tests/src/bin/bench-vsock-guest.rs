//! The first program of a guest whose vsock is measured: loads the modules, serves the ports of
//! [`tests::load`], and says when it is there.

use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::{self, File};
use std::io::{self, Write};
use std::thread;
use tests::load::{self, GREET, SERVE};
use vsock::{VMADDR_CID_ANY, VsockListener};

/// A connection's thread needs little, and there are a thousand.
const STACK: usize = 32 << 10;

fn main() {
    if let Err(error) = serve() {
        println!("{error}");
    }
    // The kernel cannot do without its first program.
    loop {
        thread::park();
    }
}

fn serve() -> io::Result<()> {
    for name in fs::read_to_string("/modules/order")?.lines() {
        // A monitor lacks what another one's driver is for.
        let module = File::open(format!("/modules/{name}.ko"))?;
        if let Err(error) = rustix::system::finit_module(module, c"", 0) {
            println!("{name}: {error}");
        }
    }
    let most = Some(4096);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let listen = |port| VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port);
    let (greet, serve) = (listen(GREET)?, listen(SERVE)?);
    thread::spawn(move || {
        for mut stream in serve.incoming().flatten() {
            let thread = thread::Builder::new().stack_size(STACK);
            // It ends when the other end does, which is an error as good as any.
            let spawned = thread.spawn(move || drop(load::serve(&mut stream)));
            if let Err(error) = spawned {
                println!("a thread: {error}");
            }
        }
    });
    let mut console = io::stdout();
    console.write_all(tests::monitor::USERSPACE)?;
    console.flush()?;
    for mut stream in greet.incoming().flatten() {
        // Who has gone already is not greeted.
        let _ = stream.write_all(&[0]);
    }
    Ok(())
}
