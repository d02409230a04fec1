//! What the tests share: driving a machine's console and the `vmm` command from outside.
