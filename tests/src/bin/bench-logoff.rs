//! How long a logoff of so many sessions takes: from the call to its end, by the clock of the host that
//! runs this. Prints a document.

use serde_json::json;
use std::env;
use std::time::Instant;
use tests::Debian;
use tests::stage::{Stage, su, succeeded};

/// Sessions that are started before the next ones are: a guest takes its time for each.
const BATCH: usize = 10;

fn main() {
    let sessions = env::args().nth(1).and_then(|word| word.parse().ok());
    let sessions: usize = sessions.expect("the number of sessions");
    let mut stage = Stage::boot(Debian::Twelve);
    log_in(&mut stage, sessions);
    let before = Instant::now();
    let answer = stage.logoff(&[]);
    let seconds = before.elapsed().as_secs_f64();
    let report = succeeded(&answer);
    let ended = report["sessions"].as_array().map_or(0, Vec::len);
    assert_eq!(ended, sessions, "{report}");
    println!("{}", json!({"sessions": sessions, "seconds": seconds}));
}

/// Logs alice on so many times.
fn log_in(stage: &mut Stage, count: usize) {
    let mut there = 0;
    while there < count {
        let more = BATCH.min(count - there);
        stage.run(&format!("for n in $(seq {more}); do {}; done", su("alice", "sleep 5000")));
        there += more;
        stage.wait(&format!("{there} sessions"), |stage| {
            stage.run("pgrep -cxu alice sleep").trim() == there.to_string()
        });
        eprintln!("{there} of {count} sessions are there");
    }
}
