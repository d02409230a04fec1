//! The one wiring file: memory, vCPUs, buses and devices put together.
