"""Make the reference of the language from its declarations.

schema      the JSON Schema, for editors
entries     one entry per key
prose       texts about no single setting: references in strings, composition
text        a key, a table, or all of them, for a terminal
markdown    configs/REFERENCE.md
"""
