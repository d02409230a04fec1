//! ELF vmlinux: its segments into guest RAM.
