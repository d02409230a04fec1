//! One thing for the guest to do, as it lies in its memory.

use super::Op;

/// Something for the guest to do: registers before, and after it has done it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are named as in the manual")]
pub struct Call {
    /// Where the code is.
    pub code: u64,
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// 0, or the number of the [exception](Self::exception) plus 1.
    pub fault: u64,
}

impl Call {
    /// A call of `op`.
    #[must_use]
    pub fn new(op: Op) -> Self {
        Self { code: op.address(), ..Self::default() }
    }

    /// A write of 32 bits to memory or a register.
    #[must_use]
    pub fn write32(address: u64, value: u32) -> Self {
        Self { rax: value.into(), rdi: address, ..Self::new(Op::Write32) }
    }

    /// The exception that the code ran into.
    #[must_use]
    pub fn exception(&self) -> Option<u64> {
        self.fault.checked_sub(1)
    }

    pub(super) fn to_bytes(self) -> [u8; 64] {
        let Self { code, rax, rbx, rcx, rdx, rsi, rdi, fault } = self;
        let mut bytes = [0; 64];
        for (to, from) in bytes.chunks_exact_mut(8).zip([code, rax, rbx, rcx, rdx, rsi, rdi, fault])
        {
            to.copy_from_slice(&from.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| {
            word.try_into().map_or(0, u64::from_le_bytes) // all have 8 bytes
        });
        let mut word = || words.next().unwrap_or(0);
        let [code, rax, rbx, rcx, rdx, rsi, rdi, fault] = std::array::from_fn(|_| word());
        Self { code, rax, rbx, rcx, rdx, rsi, rdi, fault }
    }
}
