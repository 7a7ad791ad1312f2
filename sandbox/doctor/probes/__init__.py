"""The probes: each makes the system calls of `sandbox up`, decides nothing, and leaves nothing behind."""
