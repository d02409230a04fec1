//! Registers, descriptors and page tables of a vCPU that enters a 64-bit kernel.
