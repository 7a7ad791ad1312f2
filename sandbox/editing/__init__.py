"""Read and change environment files: the work of `sandbox init`, `get`, `set`, `unset`, `add`, `edit` and `fmt`.

    replace        read a file, and replace its content atomically
    layout         the statements of a text by table, its comments and line ends
    values         values as TOML, trees of values
    arrays         the elements and comments of an array, and changes to them
    placement      the place and form of a new value
    verified_text  a text and its tree, compared after every change
    insertion      new keys, tables and elements
    replacement    a new value in the place of another
    removal        keys, tables and elements with their comments
    document       an environment file that commands change
    lists          the list that a word such as "volume" names, and its elements from command line words
    reading        the contents of one file, without the files that it extends and without defaults
    check          the mistakes and warnings that a change adds
    change         read, change, check and replace a file
    style          the usual layout, which `fmt` gives to a file
    session        the dialogue of `sandbox edit`
    template_files commented files to start from, which are in templates/

A module imports only modules listed above it, and from outside only `sandbox.spec` and `sandbox.errors`.

The place of a change is computed from statements, whose positions `sandbox.spec.locate` returns. tomlkit is used only for
changes inside an array. On a whole document, tomlkit would put a new key or a new [[table]] behind the comment that
introduces the next table, and would remove that comment together with the table before it.
"""
