"""Read and write images: documents of the OCI image-spec 1.1 and of Docker's schema 2, as values.

    digest           digests of contents, and their verification while data streams through
    json_documents   JSON read in bounded time and memory, and written in canonical form
    platforms        the systems and machines that an image may be for
    media_types      the types of manifests, configurations and layers
    model            descriptors, manifests and indexes
    image_config     the configuration of an image
    sorted_members   members of a layer in the order and form that equal layers have
    layer_blob       a layer compressed, with its digests
    layer_writer     a layer from the changes of a sandbox
    image_content    an image that is to be written, with its blobs verified
    layout           files, index and tags of a layout of images
    layout_writer    a layout in a directory
    archive_writers  an image as one archive, of a layout or for `docker load`

A module imports only modules listed above it, and those of sandbox/images/ that read archives. All of these are imported only when
an image is used.
"""
