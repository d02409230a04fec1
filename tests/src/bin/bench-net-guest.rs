//! The first program of a guest whose network is measured: loads the modules, takes its address,
//! serves, and says when it is there.

use tests::{init, net};

fn main() {
    init::stay(|| {
        init::load_modules()?;
        net::set_up("eth0", net::GUEST)?;
        net::serve(init::say_userspace)
    });
}
