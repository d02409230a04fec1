//! How long a logoff takes with one session, with ten and with a hundred: from the call to its end, by
//! the clock of the host that runs this. Prints a document a line.

use serde_json::json;
use std::env;
use std::time::Instant;
use tests::Debian;
use tests::stage::{Stage, su, succeeded};

/// Sessions that are started before the next ones are: a guest takes its time for each.
const BATCH: usize = 10;

fn main() {
    let counts: Vec<usize> = env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let mut stage = Stage::boot(Debian::Twelve);
    for count in counts {
        stage.clear();
        log_in(&mut stage, count);
        let before = Instant::now();
        let answer = stage.logoff(&[]);
        let seconds = before.elapsed().as_secs_f64();
        let report = succeeded(&answer);
        let ended = report["sessions"].as_array().map_or(0, Vec::len);
        assert_eq!(ended, count, "{report}");
        println!("{}", json!({"sessions": count, "seconds": seconds}));
    }
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
    }
}
