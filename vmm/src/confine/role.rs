//! The threads of a machine's process, by what they do: each kind may make other system calls.

use bitflags::bitflags;

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The process before its machine runs: whatever any of its threads needs.
    Start,
    /// The thread that has started the machine, and waits for its end.
    Main,
    /// Hears signals that end the process.
    Signals,
    /// Puts machines together, boot after boot, and starts the threads of their devices.
    Vm,
    /// Runs a processor of the guest.
    Vcpu,
    /// Has the guest's queues but for those of disks and networks, host sockets, and the console.
    Io,
    /// Has an image.
    Disk,
    /// Has a tap.
    Net,
    /// Works with the guest's agent.
    Integration,
    /// Reads what the agent says.
    Agent,
    /// Has the control socket and its clients.
    Control,
    /// Works on one request of a client.
    Call,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::Main,
        Self::Signals,
        Self::Vm,
        Self::Vcpu,
        Self::Io,
        Self::Disk,
        Self::Net,
        Self::Integration,
        Self::Agent,
        Self::Control,
        Self::Call,
    ];

    /// Its name, which is that of its threads before their numbers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Main => "main",
            Self::Signals => "signals",
            Self::Vm => "vm",
            Self::Vcpu => "vcpu",
            Self::Io => "io",
            Self::Disk => "disk",
            Self::Net => "net",
            Self::Integration => "integration",
            Self::Agent => "agent",
            Self::Control => "control",
            Self::Call => "call",
        }
    }

    /// What a filter for it has to let through: a thread inherits the filter of who starts it, and
    /// can only narrow it.
    #[must_use]
    pub fn covers(self) -> Roles {
        match self {
            Self::Start => Roles::all(),
            Self::Vm => Roles::VM | Roles::VCPU | Roles::IO | Roles::DISK | Roles::NET,
            Self::Integration => Roles::INTEGRATION | Roles::AGENT,
            Self::Control => Roles::CONTROL | Roles::CALL,
            role => role.own(),
        }
    }

    /// It alone.
    #[must_use]
    pub fn own(self) -> Roles {
        // The bits are in the order of the roles.
        Roles::from_bits_truncate(1 << self as u16)
    }
}

bitflags! {
    /// Several roles.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Roles: u16 {
        /// [`Role::Start`].
        const START = 1 << 0;
        /// [`Role::Main`].
        const MAIN = 1 << 1;
        /// [`Role::Signals`].
        const SIGNALS = 1 << 2;
        /// [`Role::Vm`].
        const VM = 1 << 3;
        /// [`Role::Vcpu`].
        const VCPU = 1 << 4;
        /// [`Role::Io`].
        const IO = 1 << 5;
        /// [`Role::Disk`].
        const DISK = 1 << 6;
        /// [`Role::Net`].
        const NET = 1 << 7;
        /// [`Role::Integration`].
        const INTEGRATION = 1 << 8;
        /// [`Role::Agent`].
        const AGENT = 1 << 9;
        /// [`Role::Control`].
        const CONTROL = 1 << 10;
        /// [`Role::Call`].
        const CALL = 1 << 11;
    }
}

impl Roles {
    /// Those that start threads.
    pub const STARTERS: Self = Self::VM.union(Self::INTEGRATION).union(Self::CONTROL);
    /// Those that serve descriptors from an epoll.
    pub const SERVERS: Self = Self::IO.union(Self::DISK).union(Self::NET).union(Self::CONTROL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_a_bit_of_its_own_of_the_same_name() {
        let mut all = Roles::empty();
        for role in Role::ALL {
            let names: Vec<&str> = role.own().iter_names().map(|(name, _)| name).collect();
            assert_eq!(names, [role.name().to_uppercase()]);
            all |= role.own();
        }
        assert_eq!(all, Roles::all());
    }
}
