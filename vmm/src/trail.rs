//! x
use std::sync::Mutex;
static TRAIL: Mutex<Vec<(&'static str, u64)>> = Mutex::new(Vec::new());
/// x
pub fn now() -> u64 { let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 }; unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) }; t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64 }
/// x
pub fn mark(what: &'static str) { let mut t = TRAIL.lock().unwrap(); if t.len() < 4000 { t.push((what, now())); } }
/// x
pub fn dump() { let t = std::mem::take(&mut *TRAIL.lock().unwrap()); let mut s = String::new(); for (w, n) in &t { s += &format!("{} {w}\n", n / 1000); } tracing::warn!("trail\n{s}"); }
