//! The packet as the specification has it (section 5.10.6), written down once more: what the monitor
//! thinks of it has no part in this.

/// The host, and the guest.
pub(crate) const HOST: u64 = 2;
pub(crate) const GUEST: u64 = 3;
/// Bytes of a header.
pub(crate) const HEADER: usize = 44;
/// The longest payload.
pub(crate) const PAYLOAD_MAX: usize = 64 << 10;
/// What a connection's buffer holds, on either side.
pub(crate) const BUFFER: u32 = 64 << 10;
/// The type of streams.
pub(crate) const STREAM: u16 = 1;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const RESPONSE: u16 = 2;
pub(crate) const RST: u16 = 3;
pub(crate) const SHUTDOWN: u16 = 4;
pub(crate) const RW: u16 = 5;
pub(crate) const CREDIT_UPDATE: u16 = 6;
pub(crate) const CREDIT_REQUEST: u16 = 7;

/// With `SHUTDOWN`: the sender receives, sends, does neither any more.
pub(crate) const RECEIVES: u32 = 1;
pub(crate) const SENDS: u32 = 2;
pub(crate) const NEITHER: u32 = 3;

/// The two ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ports {
    pub(crate) guest: u32,
    pub(crate) host: u32,
}

/// A packet.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) from_port: u32,
    pub(crate) to_port: u32,
    /// Bytes of payload, or a lie.
    pub(crate) length: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    /// Credit: what the sender's buffer holds, and what it has taken out of it.
    pub(crate) holds: u32,
    pub(crate) taken: u32,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    /// A packet of the guest's.
    pub(crate) fn new(ports: Ports, op: u16) -> Self {
        Self {
            from: GUEST,
            to: HOST,
            from_port: ports.guest,
            to_port: ports.host,
            length: 0,
            kind: STREAM,
            op,
            flags: 0,
            holds: BUFFER,
            taken: 0,
            payload: Vec::new(),
        }
    }

    /// Data of the guest's.
    pub(crate) fn data(ports: Ports, payload: &[u8]) -> Self {
        Self::new(ports, RW).with(payload)
    }

    /// The end of a direction, or of both.
    pub(crate) fn shutdown(ports: Ports, flags: u32) -> Self {
        Self { flags, ..Self::new(ports, SHUTDOWN) }
    }

    /// The same with a payload.
    pub(crate) fn with(self, payload: &[u8]) -> Self {
        Self { length: payload.len() as u32, payload: payload.to_vec(), ..self }
    }

    /// The same that says that its payload has so many bytes.
    pub(crate) fn of_length(self, length: u32) -> Self {
        Self { length, ..self }
    }

    /// The same with other credit.
    pub(crate) fn credit(self, holds: u32, taken: u32) -> Self {
        Self { holds, taken, ..self }
    }

    /// The connection of a packet of the host's.
    pub(crate) fn ports(&self) -> Ports {
        Ports { guest: self.to_port, host: self.from_port }
    }

    /// As it lies in memory.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { from, to, from_port, to_port, length, kind, op, flags, holds, taken, payload } =
            self;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend([from, to].into_iter().flat_map(|long| long.to_le_bytes()));
        bytes.extend([from_port, to_port, length].into_iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend([kind, op].into_iter().flat_map(|half| half.to_le_bytes()));
        bytes.extend([flags, holds, taken].into_iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(payload);
        bytes
    }

    /// What lies in memory. It must be what a host may say to the guest.
    pub(crate) fn of_host(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let packet = Self {
            from: long(0),
            to: long(8),
            from_port: word(16),
            to_port: word(20),
            length: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            holds: word(36),
            taken: word(40),
            payload: bytes[HEADER..].to_vec(),
        };
        assert_eq!((packet.from, packet.to), (HOST, GUEST), "{packet:?}");
        assert_eq!(packet.length as usize, packet.payload.len(), "{packet:?}");
        assert!((REQUEST..=CREDIT_REQUEST).contains(&packet.op), "{packet:?}");
        assert!(packet.op == RW || packet.payload.is_empty(), "{packet:?}");
        packet
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from_port, to_port, length, kind, op, flags, holds, taken, .. } = self;
        write!(
            f,
            "{from_port} to {to_port}: op {op} of type {kind}, {length} bytes, flags {flags}, \
             credit {holds} {taken}"
        )
    }
}
