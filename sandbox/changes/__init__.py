"""See what a sandbox changed, copy it to the host or into an archive, or discard it."""
