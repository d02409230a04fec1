//! What the benchmarks of vsock and networks ask of the program in their guest: connections with a load,
//! one way or the other.

use std::io::{self, Read, Write};
use std::thread;

/// The port where each connection is an [`Order`] after the other.
pub const SERVE: u32 = 1000;
/// The port where each connection is given one byte and closed.
pub const GREET: u32 = 1001;
/// Bytes that are written, and read, at once.
pub const CHUNK: usize = 64 << 10;

/// What the host's end of a connection wants of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All bytes back that come from now on.
    Echo,
    /// To read so many bytes, and to answer with one.
    Take(u64),
    /// So many bytes.
    Give(u64),
}

/// A connection's thread needs little, and there are a thousand.
const STACK: usize = 32 << 10;

/// Its first byte, and the number behind it.
const BYTES: usize = 9;

impl Order {
    /// Writes it to `stream`.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn send(self, stream: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let (letter, count) = match self {
            Self::Echo => (b'e', 0),
            Self::Take(count) => (b't', count),
            Self::Give(count) => (b'g', count),
        };
        let mut bytes = [letter; BYTES];
        bytes[1..].copy_from_slice(&count.to_le_bytes());
        stream.write_all(&bytes)
    }

    /// Reads one from `stream`.
    ///
    /// # Errors
    /// The stream has ended, or there is something else.
    pub fn receive(stream: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        stream.read_exact(&mut bytes)?;
        let [letter, count @ ..] = bytes;
        let count = u64::from_le_bytes(count);
        match letter {
            b'e' => Ok(Self::Echo),
            b't' => Ok(Self::Take(count)),
            b'g' => Ok(Self::Give(count)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Serves each connection that `serve` accepts on [`SERVE`], and each that `greet` does on [`GREET`], for
/// ever.
pub fn serve_all<S: Read + Write + Send + 'static, A>(
    mut serve: impl FnMut() -> io::Result<(S, A)> + Send + 'static,
    mut greet: impl FnMut() -> io::Result<(S, A)>,
) -> ! {
    thread::spawn(move || {
        loop {
            let Ok((mut stream, _)) = serve() else { continue };
            let thread = thread::Builder::new().stack_size(STACK);
            // It ends when the other end does, which is an error as good as any.
            let spawned = thread.spawn(move || drop(self::serve(&mut stream)));
            if let Err(error) = spawned {
                println!("a thread: {error}");
            }
        }
    });
    loop {
        // Who has gone already is not greeted.
        let _ = greet().and_then(|(mut stream, _)| stream.write_all(&[0]));
    }
}

/// Obeys the orders that come from `stream`, until it ends.
///
/// # Errors
/// It breaks, or says something else than orders.
pub fn serve(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match Order::receive(stream)? {
            Order::Echo => loop {
                let count = stream.read(&mut bytes)?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&bytes[..count])?;
            },
            Order::Take(count) => {
                take(stream, count, &mut bytes)?;
                stream.write_all(&[0])?;
            }
            Order::Give(count) => give(stream, count, &bytes)?,
        }
    }
}

/// Reads `count` bytes, by way of `bytes`.
///
/// # Errors
/// The stream ends before.
pub fn take(stream: &mut (impl Read + ?Sized), count: u64, bytes: &mut [u8]) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match stream.read(&mut bytes[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => left -= taken as u64,
        }
    }
    Ok(())
}

/// Writes `count` bytes, as many of `bytes` at once as there are.
///
/// # Errors
/// Nobody reads any more.
pub fn give(stream: &mut (impl Write + ?Sized), count: u64, bytes: &[u8]) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&bytes[..most])?;
        left -= most as u64;
    }
    Ok(())
}

/// Waits until the other end of `stream`, just connected to [`SERVE`], is served.
///
/// # Errors
/// It is not.
pub fn wait_for_service(stream: &mut (impl Read + Write + ?Sized)) -> io::Result<()> {
    Order::Take(0).send(stream)?;
    stream.read_exact(&mut [0])
}

/// Sends a byte there and back on `stream`, whose other end obeys [`Order::Echo`].
///
/// # Errors
/// The stream has ended.
pub fn round_trip(stream: &mut (impl Read + Write + ?Sized)) -> io::Result<()> {
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

/// Sends bytes one way on `stream`, as `order` says, until the other end has all.
///
/// # Errors
/// The stream has ended.
pub fn send(stream: &mut (impl Read + Write + ?Sized), order: Order) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    order.send(stream)?;
    match order {
        Order::Take(count) => {
            give(stream, count, &bytes)?;
            stream.read_exact(&mut [0])
        }
        Order::Give(count) => take(stream, count, &mut bytes),
        Order::Echo => Ok(()),
    }
}
