"""Build images: execute the plan of a build (sandbox/images/build/plan.py), step by step, over the layers so far.

    union           paths in the union of unpacked layers
    owners          owners by name, from /etc/passwd and /etc/group of the layers
    placement       where copied files go in the layers so far
    context         the build context, read by descriptors
    inputs          what a copy takes from the context, and its digest
    layer_output    members to a layer in the store
    copied_members  files of the context, directories and documents as members
    stage_members   files of a stage or of an image as members
    added_archives  the members of archives that ADD unpacks
    copy_step       executes COPY, ADD and WORKDIR
    machine         the facts and directories that each step needs
    run_step        executes RUN in a sandbox
    failed_step     the record of a failed step, from which `build --shell` starts a shell
    cache           layers of earlier builds by the keys of their steps
    stage           the state of a stage: its layers, history and configuration
    bases           the layers that a stage starts from
    executor        the loop over stages and steps
    load            the file of a build to its plan

A module imports only modules listed above it. A step that changes files adds a layer to the image store. The image is added when
all steps have succeeded; layers of a build that failed have no name, so `sandbox image prune` removes them.
"""
