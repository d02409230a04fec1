//! bzImage: the boot protocol's header, and where the packed kernel lies.
