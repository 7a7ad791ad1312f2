"""The trials: each calls the system as `sandbox up` does, judges nothing, and leaves nothing behind."""
