"""What runtimes of the OCI runtime specification need to run a sandbox or an image.

    runtime_config  config.json of a bundle, from the configuration of an image
    bundle          a bundle in a directory: config.json and the root file system
    export          a bundle of a sandbox or of an image of the store

A module imports only modules listed above it, and from outside as the table of docs/architecture.md has it.
"""
