"""Code that tests share: trees on disk as values (`tree`), and three pytest plugins that tests/conftest.py loads.

`requirements` skips tests that a machine cannot run. `leaks` fails tests that leave something behind. `output` fails
tests with unexpected warnings or tracebacks.
"""
