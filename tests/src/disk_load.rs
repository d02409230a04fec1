//! What the benchmark of disks asks of the program in its guest, or of a process of the host: reads and
//! writes. An order is a line on its standard input, its answer a line on its standard output.

use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a disk: so many blocks that any odd stride comes to all of them.
pub const DISK: u64 = 32 << 20;
/// What is read and written at places here and there.
pub const BLOCK: usize = 4 << 10;
/// What is read and written one after the other.
pub const PIECE: usize = 128 << 10;

/// From one block to the next: an odd number, and no block is near the one before.
const STRIDE: u64 = 2_654_435_761;
/// Buffers lie so that the kernel needs no others.
const PAGE: usize = 4 << 10;
/// Pieces, and blocks, that are under way at once: each has a thread.
const PIECES_AT_ONCE: usize = 4;
const BLOCKS_AT_ONCE: usize = 32;
/// How answers begin: what else is on a console does not.
const ANSWER: &str = "= ";

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// None: what remains is what an order costs.
    Nothing,
    /// Blocks are read, one when the one before is there.
    Read,
    /// They are written likewise.
    Write,
    /// The same, and each is safe before the next.
    WriteSafely,
    /// Many blocks are read at once.
    ReadMany,
    /// Pieces are read, as they come, a few at once.
    ReadThrough,
    /// They are written likewise.
    WriteThrough,
}

impl Work {
    /// All of it.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Read,
        Self::Write,
        Self::WriteSafely,
        Self::ReadMany,
        Self::ReadThrough,
        Self::WriteThrough,
    ];

    /// Its word in orders and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteSafely => "write_safely",
            Self::ReadMany => "read_many",
            Self::ReadThrough => "read_through",
            Self::WriteThrough => "write_through",
        }
    }

    /// Bytes that are read or written by one call.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Read | Self::Write | Self::WriteSafely | Self::ReadMany => BLOCK,
            Self::ReadThrough | Self::WriteThrough => PIECE,
        }
    }

    /// Calls that are under way at once.
    fn at_once(self) -> usize {
        match self {
            Self::ReadMany => BLOCKS_AT_ONCE,
            Self::ReadThrough | Self::WriteThrough => PIECES_AT_ONCE,
            _ => 1,
        }
    }

    /// Does it on `disk` for the time that is the `turn`th, by way of `bytes`.
    fn once(self, disk: &File, turn: u64, bytes: &mut [u8]) -> io::Result<()> {
        let at = self.place(turn);
        match self {
            Self::Nothing => Ok(()),
            Self::Read | Self::ReadMany | Self::ReadThrough => disk.read_exact_at(bytes, at),
            Self::Write | Self::WriteThrough => disk.write_all_at(bytes, at),
            Self::WriteSafely => {
                disk.write_all_at(bytes, at)?;
                disk.sync_data()
            }
        }
    }

    /// Where the `turn`th piece or block is.
    fn place(self, turn: u64) -> u64 {
        let size = self.size().max(1) as u64;
        let number = if self.size() == BLOCK { turn.wrapping_mul(STRIDE) } else { turn };
        number % (DISK / size) * size
    }
}

/// Some work, so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub work: Work,
    /// How often.
    pub times: u64,
}

impl Display for Order {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.work.name(), self.times)
    }
}

impl FromStr for Order {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let order = match words[..] {
            [name, times] => {
                let work = Work::ALL.into_iter().find(|work| work.name() == name);
                work.zip(times.parse().ok())
            }
            _ => None,
        };
        let (work, times) = order.ok_or_else(|| io::Error::other(line.to_owned()))?;
        Ok(Self { work, times })
    }
}

impl Order {
    /// Does it, on `disk`, and gives the time that it took: the median of one time where one comes after
    /// the other, else that of all.
    fn obey(self, disk: &File) -> io::Result<Duration> {
        let (work, next) = (self.work, AtomicU64::new(0));
        let turn = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|turn| *turn < self.times);
        if work.at_once() == 1 {
            let mut buffer = vec![1; work.size() + PAGE];
            let bytes = on_a_page(&mut buffer, work.size());
            let mut taken = Vec::new();
            while let Some(turn) = turn() {
                let before = Instant::now();
                work.once(disk, turn, bytes)?;
                taken.push(before.elapsed());
            }
            taken.sort();
            return Ok(taken.get(taken.len() / 2).copied().unwrap_or_default());
        }
        let ready = Barrier::new(work.at_once());
        thread::scope(|scope| {
            // Where there is one processor, one thread may be done before another goes on: whoever began
            // first and ended last says how long it was.
            let run = || {
                let mut buffer = vec![1; work.size() + PAGE];
                let bytes = on_a_page(&mut buffer, work.size());
                ready.wait();
                let begun = Instant::now();
                while let Some(turn) = turn() {
                    work.once(disk, turn, bytes)?;
                }
                io::Result::Ok((begun, Instant::now()))
            };
            let threads: Vec<_> = (0..work.at_once()).map(|_| scope.spawn(run)).collect();
            let times = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))));
            let times = times.collect::<io::Result<Vec<_>>>()?;
            let first = times.iter().map(|(begun, _)| begun).min();
            let last = times.iter().map(|(_, ended)| ended).max();
            Ok(first.zip(last).map(|(first, last)| *last - *first).unwrap_or_default())
        })
    }

    /// Has it done by who reads `orders` and answers on `answers`, and gives the seconds that it says.
    ///
    /// # Errors
    /// It could not be done, or nobody is there any more.
    pub fn give(self, orders: &mut impl Write, answers: &mut impl BufRead) -> io::Result<f64> {
        writeln!(orders, "{self}")?;
        orders.flush()?;
        loop {
            let mut line = String::new();
            if answers.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = line.trim_end().strip_prefix(ANSWER) {
                let nanoseconds: f64 = answer.parse().map_err(|_| io::Error::other(line))?;
                return Ok(nanoseconds / 1e9);
            }
        }
    }
}

/// Obeys the orders on standard input, on `disk`, until it ends.
///
/// # Errors
/// It breaks, or says something else than orders.
pub fn serve(disk: &File) -> io::Result<()> {
    for line in io::stdin().lines() {
        let taken = line?.parse::<Order>()?.obey(disk);
        let answer = taken.map_or_else(|error| error.to_string(), |t| t.as_nanos().to_string());
        let mut out = io::stdout();
        writeln!(out, "{ANSWER}{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// `length` bytes of `buffer`, which has a page more, from the beginning of a page on.
fn on_a_page(buffer: &mut [u8], length: usize) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(PAGE);
    &mut buffer[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_over_a_line_and_are_obeyed() {
        let disk = tempfile::tempfile().expect("a file");
        disk.set_len(DISK).expect("it is long");
        for work in Work::ALL {
            let order = Order { work, times: 40 };
            assert_eq!(order.to_string().parse::<Order>().expect("it is one"), order);
            order.obey(&disk).expect("it can be done");
        }
        disk.set_len(0).expect("it is short");
        assert!(Order { work: Work::Read, times: 1 }.obey(&disk).is_err());
        assert!("walk 3".parse::<Order>().is_err() && "".parse::<Order>().is_err());
    }

    #[test]
    fn all_places_are_come_to_and_none_beyond_the_disk() {
        for work in [Work::Read, Work::ReadThrough] {
            let size = work.size() as u64;
            let places = (0..DISK / size).map(|turn| work.place(turn));
            let mut places: Vec<u64> = places.collect();
            places.sort_unstable();
            assert!(
                places.into_iter().eq((0..DISK / size).map(|number| number * size)),
                "{work:?}"
            );
        }
    }

    #[test]
    fn an_answer_is_told_from_what_else_is_on_a_console() {
        let order = Order { work: Work::Read, times: 2 };
        let mut said: &[u8] = b"read 2\r\n[ 1.0] random: crng init\r\n= 2000\r\n";
        let mut orders = Vec::new();
        assert_eq!(order.give(&mut orders, &mut said).expect("there is one"), 2e-6);
        assert_eq!(orders, b"read 2\n");
        assert!(order.give(&mut orders, &mut said).is_err(), "it has ended");
        assert!(order.give(&mut orders, &mut &b"= no space left\r\n"[..]).is_err());
    }
}
