//! The guest OS as a caller sees it: sessions and logoff.
