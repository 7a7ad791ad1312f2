"""Keep images and archives: read them, unpack their layers for all sandboxes, and send and make images.

The image directory contains what can be fetched and unpacked again:

    IMAGES/archives/KEY/    an unpacked `tar:` archive: lock, ids, tree, index, references.json, archive.json (origin.py),
                            native (direct_bind.py); of a mounted one, members (mounted_archives.py) instead of files in tree
    IMAGES/layers/KEY/      an unpacked layer of an image (image_layers.py); of a mounted one, members and blob
                            (mounted_layers.py) instead of files in tree
    IMAGES/blobs/           manifests, configurations and layers, as their sources have them (blobs.py)
    IMAGES/lazy/            tables and chunks of layers that are fetched while they are read (chunked/)
    IMAGES/partial/         blobs that are being received, and other temporary files
    IMAGES/images.json, manifests/     names and records of images (stored_images.py)
    IMAGES/use.lock         locked while blobs are added or removed (collection.py)

Archives:

    names           printable names of archive members
    attributes      extended attributes that an archive may set
    headers         tar headers and their records, from bytes to values
    whiteouts       names of members that delete objects of lower layers
    bounded_queue   a queue between threads with a limit in bytes
    compression     decompression in bounded memory
    tar             an archive as a stream of members
    layer_stream    a layer read once, with both digests, in threads beside its consumer
    report          what was unpacked, and what was left out
    directories     the directories of a tree that is being unpacked
    destination     directories below the destination, and nowhere else
    direct_bind     whether a directory of one layer can be bind-mounted without the union
    archive_names   names and attributes in the index of a mounted archive
    lower_layers    objects of the layers below, which an archive may name
    metadata        owner, attributes, mode and times of what an archive creates
    hard_links      hard links, also to files of the layers below
    unpack          the members of an archive, written below the destination
    bounded         unpacking with a memory limit
    reading         an archive read once, with its digest and progress
    root_archive    checks of an archive that becomes the root of a sandbox
    places          the parts of the image directory
    import_lock     the lock of a process that unpacks an archive
    unpacked_trees  unpacked trees under keys: complete, locked while in use, removed under their ids
    origin          the record of the archive that a layer was unpacked from
    layer_store     each archive unpacked once for each id map
    archive_tree    the tree of an archive in memory, with the rules of unpacking
    archived_acl    access control lists as a file system would have them
    index_writer    the tree of an archive, written as an index
    archive_index   the index of an archive that is mounted instead of unpacked
    indexing        an archive indexed with its digests and a memory limit
    mounted_archives  each archive indexed once for each id map

Images:

    chunked         layers whose files can be fetched one by one: zstd:chunked
    oci             documents, layers, layouts and archives of the OCI image-spec and of Docker
    registry        a client for the OCI distribution specification
    chunked         layers that are fetched in chunks while they are used
    transports      the sources of images: layouts, archives and registries
    blobs           blobs by their digests
    stored_images   names and records of the images of the store
    image_layers    each layer of an image unpacked once for each id map
    mounted_layers  each layer of an image indexed once for each id map
    importing       an image copied from its source into the store
    collection      removal of what no image and no sandbox uses; verification
    verification    every blob and layer compared with its digest
    listing         what the store knows about its images
    archive_layer   a layer of an image made of an archive as it is
    stored_content  stored images for writers, and new images for the store
    pulling         images from and to registries
    adding          an image added under a name, and unpacked
    file_versions   whether a layout or an archive has changed
    lock_file       the digests of the sources of an environment file
    resolve         the images that an environment file names
    build           plans of builds: Containerfiles and [[build]] steps as values

A module imports only modules listed above it, and from outside as the table of docs/architecture.md has it. All modules but
places, unpacked_trees, layer_store and direct_bind are imported only when an archive or an image needs them.
"""
