//! Unpacking a kernel: gzip, xz, lz4 and zstd, within bounds.
