//! The bytes of a fuzzer, taken apart into numbers, choices and pieces.

/// What is left of them. Behind their end all numbers are 0 and all pieces empty, so that any bytes
/// are a whole program and a small change of them is a small change of it.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Up to `most` bytes.
    pub(super) fn piece(&mut self, most: usize) -> &'a [u8] {
        let (piece, rest) = self.rest.split_at(self.rest.len().min(most));
        self.rest = rest;
        piece
    }

    /// A piece whose length, up to 255, comes first.
    pub(super) fn short_piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.piece(length)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let piece = self.piece(N);
        std::array::from_fn(|index| piece.get(index).copied().unwrap_or(0))
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One of `choices`, of which there are some, by a byte.
    pub(super) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}
