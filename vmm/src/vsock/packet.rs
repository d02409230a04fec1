//! The packet: a header of 44 bytes, and a payload that may be scattered over any number of
//! descriptors (section 5.10.6).

use crate::virtio::chain::Reader;
use crate::virtio::queue::Malformed;
use std::io::{self, Read};
use vm_memory::VolatileSlice;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The host's context id.
pub const HOST_CID: u64 = 2;
/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();
/// The longest payload, in bytes: what Linux sends and accepts.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// The only type of socket that is offered: streams.
pub const TYPE_STREAM: u16 = 1;

/// Operations.
pub mod op {
    /// No operation; whoever sends it loses the connection.
    pub const INVALID: u16 = 0;
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts a connection.
    pub const RESPONSE: u16 = 2;
    /// There is no such connection, or no longer.
    pub const RST: u16 = 3;
    /// The sender will not send, or not receive, any more.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const RW: u16 = 5;
    /// Tells the sender's credit, as every packet does.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for an update.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// `SHUTDOWN`: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `SHUTDOWN`: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// `SHUTDOWN`: both.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// A packet's header, `struct virtio_vsock_hdr`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// The sender's context id.
    pub src_cid: U64,
    /// The receiver's context id.
    pub dst_cid: U64,
    /// The sender's port.
    pub src_port: U32,
    /// The receiver's port.
    pub dst_port: U32,
    /// Bytes of payload.
    pub length: U32,
    /// The type of socket.
    pub kind: U16,
    /// The operation.
    pub op: U16,
    /// The operation's flags.
    pub flags: U32,
    /// Credit: bytes that the sender's buffer can hold.
    pub buf_alloc: U32,
    /// Credit: bytes that the sender has taken out of that buffer so far, modulo 2^32.
    pub fwd_cnt: U32,
}

/// Reads a header from the start of a chain.
///
/// # Errors
/// The chain is shorter.
pub fn read_header(reader: &mut Reader<'_>) -> io::Result<Header> {
    let mut header = Header::default();
    reader.read_exact(header.as_mut_bytes())?;
    Ok(header)
}

/// Where the payload lies that `header` announces.
///
/// # Errors
/// It is longer than any payload, or than the rest of the chain.
pub fn payload<'a>(
    header: &Header,
    reader: &mut Reader<'a>,
) -> Result<Vec<VolatileSlice<'a>>, Malformed> {
    let length = header.length.get() as usize;
    if length > MAX_PAYLOAD || length > reader.available_bytes() {
        return Err(Malformed);
    }
    Ok(reader.next_slices(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use crate::virtio::chain::Whole;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn a_header_lies_in_memory_as_the_specification_has_it() {
        let header = Header {
            src_cid: 0x0102.into(),
            dst_cid: 2.into(),
            src_port: 0x0304.into(),
            dst_port: 0x0506.into(),
            length: 7.into(),
            kind: 1.into(),
            op: 5.into(),
            flags: 8.into(),
            buf_alloc: 9.into(),
            fwd_cnt: 10.into(),
        };
        let expected = [
            [2, 1, 0, 0, 0, 0, 0, 0].as_slice(),
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[4, 3, 0, 0, 6, 5, 0, 0],
            &[7, 0, 0, 0, 1, 0, 5, 0],
            &[8, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 0],
        ];
        assert_eq!(header.as_bytes(), expected.concat());
        assert_eq!(HEADER, 44);
    }

    fn bytes_of(slices: &[VolatileSlice<'_>]) -> Vec<u8> {
        let mut bytes = std::collections::VecDeque::new();
        crate::vsock::stream::copy_rest(slices, 0, &mut bytes);
        bytes.into()
    }

    #[test]
    fn case_07_a_payload_is_as_long_as_the_header_said_when_it_was_read() {
        const AT: GuestAddress = GuestAddress(0x1_0000);
        let ram = memory::map(1 << 20).unwrap();
        let honest = Header { length: 5.into(), op: op::RW.into(), ..Header::default() };
        for lies in [0, 4, 6, MAX_PAYLOAD as u32 + 1, u32::MAX] {
            ram.write_slice(&[honest.as_bytes(), b"hello, and more"].concat(), AT).unwrap();
            let queue = MockSplitQueue::new(&ram, 16);
            let descriptor = Descriptor::new(AT.0, HEADER as u32 + 15, 0, 0);
            let chain = queue.build_desc_chain(&[RawDescriptor::from(descriptor)]).unwrap();
            let chain = Whole::of(chain, 16).unwrap();
            let mut reader = chain.reader(&ram).unwrap();
            let header = read_header(&mut reader).unwrap();
            // The driver thinks better of it.
            let other = Header { length: lies.into(), op: op::RST.into(), ..honest };
            ram.write_slice(other.as_bytes(), AT).unwrap();
            let payload = bytes_of(&payload(&header, &mut reader).unwrap());
            assert_eq!((header, payload.as_slice()), (honest, &b"hello"[..]), "{lies}");
        }
    }

    proptest! {
        /// Bytes of any length, cut anywhere: either they are a whole packet and are read as it, or
        /// they are refused.
        #[test]
        fn a_packet_is_read_whole_from_any_scatter_or_not_at_all(
            bytes in vec(any::<u8>(), 0..3000),
            length in prop_oneof![0_u32..3000, any::<u32>()],
            cuts in vec(1_usize..600, 1..60),
        ) {
            let mut bytes = bytes;
            if let Some(field) = bytes.get_mut(24..28) {
                field.copy_from_slice(&length.to_le_bytes());
            }
            let ram = memory::map(1 << 20).unwrap();
            let mut descriptors = Vec::new();
            let (mut rest, mut at) = (bytes.as_slice(), 0x1_0000);
            for cut in cuts.iter().chain([&usize::MAX]) {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                ram.write_slice(piece, GuestAddress(at)).unwrap();
                let descriptor = Descriptor::new(at, piece.len() as u32, 0, 0);
                descriptors.push(RawDescriptor::from(descriptor));
                at += piece.len() as u64 + 3;
                rest = after;
            }
            let queue = MockSplitQueue::new(&ram, 64);
            let chain = queue.build_desc_chain(&descriptors).unwrap();
            let chain = Whole::of(chain, 64).unwrap();
            let mut reader = chain.reader(&ram).unwrap();
            match read_header(&mut reader) {
                Err(_) => prop_assert!(bytes.len() < HEADER),
                Ok(header) => {
                    prop_assert_eq!(header.as_bytes(), &bytes[..HEADER]);
                    let length = length as usize;
                    match payload(&header, &mut reader) {
                        Ok(slices) => {
                            prop_assert_eq!(bytes_of(&slices), &bytes[HEADER..HEADER + length]);
                        }
                        Err(_) => prop_assert!(length > bytes.len() - HEADER),
                    }
                }
            }
        }
    }
}
