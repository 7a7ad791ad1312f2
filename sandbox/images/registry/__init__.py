"""Parts of a client for the OCI distribution specification, which pulls images from registries and pushes them.

    reference          references to images, from text to values and back; pure
    challenge          challenges of WWW-Authenticate headers; pure
    ranges             ranges of bytes in headers; pure
    registries_conf    registries.conf: locations of an image, and those without TLS
    credential         a name and a password
    credential_helper  programs that keep credentials
    auth_file          a file with credentials
    credentials        the credentials of one user, found, stored and removed

A module imports only modules listed above it.
"""
