//! CPUID: what the guest's processors say of themselves.
