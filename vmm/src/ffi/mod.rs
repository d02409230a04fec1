//! The object model in C: what `vmm.h` declares.
//!
//! Each function stands for one member of [`virtual_pc`](crate::virtual_pc), and its document in the
//! header says what of that is particular to C. What holds for all of them:
//!
//! - A function answers with a code; what else it has to say it puts where an *out pointer* points
//!   to. If that is null the answer is `E_POINTER`, and nothing is done. If the call fails, null or 0
//!   is put there.
//! - An object is a counted reference to one of the types here that C sees only by name.
//! - Text is UTF-8 and ends with a null byte. What is given out belongs to the caller.
//! - A structure begins with its size, by which both sides know how much of it the other one knows.
//!
//! # Safety
//! In C nothing of this can be checked, so every function here relies on its caller: a pointer to an
//! object is null or was given out here and has not been released; any other pointer is null or
//! points to what its type says, for as long as the call takes; text ends with a null byte; and a
//! structure's size is not larger than the memory it is in.
//!
//! No panic gets out: it becomes `DISP_E_EXCEPTION`.
#![allow(clippy::missing_safety_doc, reason = "above, once for all")]

mod call;
pub mod code;
pub mod events;
pub mod guest;
pub mod machine;
pub mod pc;
pub mod pc_events;
pub mod property;
mod structure;
pub mod task;
