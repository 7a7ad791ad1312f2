"""Read images from layouts, archives and registries: each source gives the documents of an image, and copies its blobs.

    image_source     the protocol of all sources, and the choice of an image from an index
    files            the files of a layout or an archive: a directory, or a tar
    file_source      what sources that are files have in common: copies of blobs
    layout           an image of an OCI layout (image-spec, image-layout.md)
    docker_archive   an image of an archive of `docker save`
    opening          from the text of an environment file to its source

A module imports only modules listed above it, and those of sandbox/images/oci/. Sources are untrusted: their documents are
bounded, and every blob is compared with its digest.
"""
