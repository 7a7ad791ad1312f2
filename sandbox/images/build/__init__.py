"""Plan the build of an image: a Containerfile, or the steps of an environment file, become stages of steps as frozen values.

    here_documents, source_text  the text of a file: lines, continuations, directives, here-documents
    words, variables             parts of a line; $NAME and ${NAME:-WORD}
    durations, ports, platforms  small notations
    patterns, copy_paths         wildcards; paths of COPY, which do not lead out of the context
    dockerignore                 which files of a context are left out
    references                   from the name of an image to its source
    instructions                 the instructions as values, with their places
    instruction_parsers          the parser of each instruction
    containerfile                bytes to instructions, or all mistakes with their places
    config                       the configuration of an image, and how steps change it
    plan, options                the plan: stages and steps; what a build has to know
    evaluate                     the instructions of one stage to steps
    stages                       the stages that the result needs, with their bases
    toml_build                   `[[build]]` of an environment file to the same plan
    cache_key                    what the files after a step depend on

A module imports only modules listed above it. Everything here is pure: files and images are read by the caller, or by the
functions that it passes. Steps are executed elsewhere.
"""
