"""What tests share: trees on disk as values (`tree`), and three pytest plugins that tests/conftest.py loads.

`requirements` skips what a machine cannot run, `leaks` fails a test that leaves something behind, `output`
one that complains unasked.
"""
