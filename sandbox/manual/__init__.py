"""Make the manual pages, in roff, from the parser of the command line and the reference of the language.

    paragraphs  split the descriptions of verbs into paragraphs; the help output uses it, too
    roff        write text, tags and sections for man(7)
    markdown    convert the prose of the reference to roff
    command     sandbox(1), from the parser
    language    sandbox.toml(5), from the reference
    unionfs     unionfs(1), from the output of `unionfs --describe`

A module imports only modules listed above it. The package contains no text about a verb, an option or a key: these texts
come from their declarations.
"""
