"""Pull images from registries and push them: a client for the OCI distribution specification, on urllib3.

    reference          references to images, from text to values and back; pure
    challenge          challenges of WWW-Authenticate headers; pure
    ranges             ranges of bytes in headers; pure
    settings           limits of the client, and settings of TLS
    failures           errors of the client, and responses of a registry as errors
    proxies            the proxy of a request, from the environment; pure
    registries_conf    registries.conf: locations of an image, and those without TLS
    credential         a name and a password
    credential_helper  programs that keep credentials
    auth_file          a file with credentials
    credentials        the credentials of one user, found, stored and removed
    tls                TLS contexts with the certificates of a directory
    watchdog           ends requests without progress, and those of a cancelled transfer
    transport          one HTTP request: connections, redirects, limits
    authorization      Basic and Bearer authorization of requests
    endpoint           authorized requests to one repository on one host, with retries
    download           a blob into a file, resumed and verified
    upload             a blob from a file, or from another repository
    client             manifests and blobs of one repository, on its registry or a mirror
    login              credentials verified with a registry and stored
    transfers          several transfers at once

The interface for other packages:

    reference = parse_reference("docker://HOST/NAME:TAG")
    with client_for(reference, os.environ, authfile=..., tls=TlsSettings(...)) as client:
        found = client.manifest(reference.target)             # FetchedManifest(media_type, digest, content)
        run_transfers([partial(client.download, digest, size, fd, report), ...], client.cancel)
    with client_for(reference, os.environ, push=True) as client:
        client.push_blob(digest, size, fd, mount_from=["other/repository"], report=report)
        client.put_manifest(reference.target, media_type, content)

`download` continues a file that has the beginning of the blob. `report` is called in the thread of the transfer.

A module imports only modules listed above it. `transport` imports urllib3, so only functions import it.
"""
