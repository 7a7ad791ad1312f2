"""Manual pages: roff, made from the parser of the command line and from the reference of the language.

    paragraphs  text as verbs have it, for help as well
    roff        how text, tags and sections are written for man(7)
    markdown    the prose of the reference as roff
    command     sandbox(1), from the parser
    language    sandbox.toml(5), from the reference
    unionfs     unionfs(1), from what that says of itself

A line imports only lines above it. No sentence about a verb, an option or a key stands here: they are said once, where
these are declared.
"""
