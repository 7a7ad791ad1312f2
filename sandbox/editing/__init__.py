"""Changing environment files: what `sandbox init`, `get`, `set`, `unset`, `add`, `edit` and `fmt` do.

    replace      a file is read, and replaced by another content in one step or not at all
    layout       the statements of a text, by table; comments; line ends
    values       values as TOML, trees of values
    arrays       the elements and comments of an array, and changes to them
    placement    where a new value goes, and in which form
    document     a text and its tree, changed together and compared after every step
    lists        which list a word such as "volume" means, and its elements from command line words
    reading      what a file says, without what it extends and without defaults
    check        what is newly wrong after a change
    change       a file read, changed, checked and replaced
    style        the usual layout, which `fmt` gives to a file
    session      the dialogue of `sandbox edit`
    starters     commented files to start from, which are in templates/

A line imports only lines above it, and from outside only `sandbox.spec` and `sandbox.errors`.

Where a change goes is decided on statements, whose places `sandbox.spec.locate` knows, and what it does inside an array
by tomlkit. tomlkit alone would put a new key, or a new [[table]], behind the comment that introduces the next table,
and would remove that comment together with the table before it.
"""
