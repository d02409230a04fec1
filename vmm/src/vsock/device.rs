//! The vsock device: three queues, and what moves between them and the connections.
