//! A virtual machine as its owner holds it: start, state, guest, end.
