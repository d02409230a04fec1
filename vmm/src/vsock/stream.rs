//! Bytes between guest RAM and the host's end of a connection, in one system call and, but for packets
//! that the guest has scattered, without a copy of ours.

use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use vm_memory::VolatileSlice;

/// Pieces that the system takes in one call.
const PIECES: usize = 1024;

/// Writes `bytes` to `stream`, as far as it takes something now.
///
/// Without the signal that a stream raises whose reader is gone: the monitor may live in a program
/// that does not ignore it. The call that would take several pieces without it can pass descriptors
/// on as well, and is not among those that a confined thread may make: pieces are put together.
pub(super) fn send(stream: &UnixStream, bytes: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let sent = match bytes {
        [] => return Ok(0),
        [one] => {
            let (fd, one) = (stream.as_raw_fd(), vector(one));
            // SAFETY: the vector is a slice of memory that stays mapped meanwhile, and is only read.
            let sent = unsafe { libc::send(fd, one.iov_base, one.iov_len, libc::MSG_NOSIGNAL) };
            usize::try_from(sent).map_err(|_| io::Error::last_os_error())
        }
        _ => {
            let mut together = VecDeque::new();
            copy_rest(bytes, 0, &mut together);
            rustix::net::send(stream, together.make_contiguous(), SendFlags::NOSIGNAL)
                .map_err(io::Error::from)
        }
    };
    match sent {
        Err(error) if is_for_later(&error) => Ok(0),
        sent => sent,
    }
}

/// Reads from `stream` into `room`, and gives the number of bytes: 0 at its end.
pub(super) fn receive(stream: &UnixStream, room: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let fd = stream.as_raw_fd();
    let received = match room {
        [one] => {
            let one = vector(one);
            // SAFETY: the vector is a slice of memory that stays mapped meanwhile; who has it expects
            // that anything is written there.
            unsafe { libc::recv(fd, one.iov_base, one.iov_len, 0) }
        }
        _ => {
            let vectors: Vec<libc::iovec> = room.iter().take(PIECES).map(vector).collect();
            // No more than `PIECES`.
            let count = vectors.len() as libc::c_int;
            // SAFETY: as above, of each vector.
            unsafe { libc::readv(fd, vectors.as_ptr(), count) }
        }
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Whether `error` says that it may go better later, and nothing else.
pub(super) fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A slice as the system takes it. It is not kept longer than the slice.
fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

/// The first `most` bytes of `slices`.
pub(super) fn first<'a>(slices: &[VolatileSlice<'a>], most: usize) -> Vec<VolatileSlice<'a>> {
    let mut left = most;
    let mut taken = Vec::with_capacity(slices.len());
    for slice in slices {
        let length = slice.len().min(left);
        if length == 0 {
            break;
        }
        left -= length;
        // It has as many.
        taken.extend(slice.subslice(0, length));
    }
    taken
}

/// Puts a copy of what follows the first `count` bytes of `slices` behind `to`.
pub(super) fn copy_rest(slices: &[VolatileSlice<'_>], count: usize, to: &mut VecDeque<u8>) {
    let mut skip = count;
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let Ok(rest) = slice.offset(skip) else { continue };
        skip = 0;
        let mut bytes = vec![0; rest.len()];
        rest.copy_to(&mut bytes);
        to.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn slices(bytes: &mut [u8], length: usize) -> Vec<VolatileSlice<'_>> {
        bytes.chunks_mut(length).map(VolatileSlice::from).collect()
    }

    #[test]
    fn bytes_cross_whole_however_many_pieces_they_are_in() {
        let (mut program, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut bytes: Vec<u8> = (0..=255).collect();
        let expected = bytes.clone();
        for length in [256, 100, 1] {
            assert_eq!(send(&ours, &slices(&mut bytes, length)).unwrap(), 256);
            let mut heard = [0; 256];
            program.read_exact(&mut heard).unwrap();
            assert_eq!(heard, *expected);
            program.write_all(&expected).unwrap();
            bytes.fill(0);
            let room = slices(&mut bytes, length);
            assert_eq!(receive(&ours, &first(&room, 250)).unwrap(), 250);
            assert_eq!(receive(&ours, &room).unwrap(), 6);
            let mut end = expected[250..].to_vec();
            end.extend(&expected[6..250]);
            assert_eq!(bytes[..250], end[..]);
            bytes.copy_from_slice(&expected);
        }
    }

    #[test]
    fn what_a_full_stream_does_not_take_is_left_and_one_without_reader_fails_without_a_signal() {
        let (program, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut bytes = vec![7; 4096];
        for length in [4096, 1000] {
            while send(&ours, &slices(&mut bytes, length)).unwrap() > 0 {}
        }
        let mut rest = VecDeque::new();
        copy_rest(&slices(&mut bytes, 1000), 1500, &mut rest);
        assert_eq!(rest.len(), 4096 - 1500);
        drop(program);
        for length in [4096, 1000] {
            assert!(send(&ours, &slices(&mut bytes, length)).is_err());
        }
    }
}
