"""What there is to say about the language, all of it made of its declarations.

schema      JSON Schema, for editors
prose       what belongs to no single setting: references in strings, composition
text        a key, a table, or all of them, for a terminal
markdown    configs/REFERENCE.md
"""
