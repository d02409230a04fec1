//! Cases 16 to 24: vsock. The guest speaks packets through its rings, to whatever end; the host's peers
//! are programs on the machine's Unix sockets.
//!
//! ```text
//! packet   the format               lies     16 to 18   what a packet says of itself
//! guest    the guest's side         life     19         packets out of turn
//! scene    who must not be harmed   credit   20         how much may be sent
//!                                   crowds   21, 22     too many, and too little room
//! soak     figures                  peers    23, 24     programs of the host
//! ```

mod credit;
mod crowds;
mod guest;
mod lies;
mod life;
mod packet;
mod peers;
mod scene;
mod soak;
