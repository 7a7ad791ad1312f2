"""The probes: each calls the system as `sandbox up` does, decides nothing, and leaves nothing behind."""
