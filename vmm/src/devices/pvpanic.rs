//! pvpanic: how a guest kernel says that it has panicked.
