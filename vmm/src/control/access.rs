//! Who may ask what: the peer's credentials against the machine's owner.
