//! Unpacked kernels, kept by digest so that each is unpacked once.
