//! `vsock-dial PORT`: dials a vsock port of the host from a guest, from a source port that anybody
//! may have, and says what came of it. Part of the test guests.

use std::io::Read;
use vsock::VsockStream;

/// The context id of the host.
const HOST: u32 = 2;

fn main() {
    let Some(port) = std::env::args().nth(1).and_then(|port| port.parse().ok()) else {
        eprintln!("usage: vsock-dial PORT");
        std::process::exit(2);
    };
    match VsockStream::connect_with_cid_port(HOST, port) {
        Ok(mut stream) => match stream.read(&mut [0]) {
            Ok(count) => println!("connected, then read {count} bytes"),
            Err(error) => println!("connected, then {error}"),
        },
        Err(error) => println!("refused: {error}"),
    }
}
