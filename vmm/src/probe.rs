//! Can this host's KVM run machines, and stock kernels?
