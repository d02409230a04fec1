//! Model-specific registers that must be set before a vCPU runs.
