"""Implement the command ``sandbox``: one module for each verb, and the modules that they share.

    verbs       the table of verbs: names and summaries, nothing imported
    output      colour, tables and JSON for a terminal or a program
    options     arguments that several verbs share, and their interpretation
    parser      the command line, built verb by verb
    planning, check_here, check_untrusted, progress, state_path     parts of single verbs
    up, ...     the verbs: `add_arguments(parser)` and `run(arguments) -> exit status`
    main        runs a verb, renders errors, chooses exit statuses

Except inside functions, a module imports only modules that are listed above it. `main` imports only the requested verb, so
that a start does not pay for the imports of other verbs.
"""

import time

BEGUN = time.monotonic_ns() - time.process_time_ns()
"""The start of this process on CLOCK_MONOTONIC, in nanoseconds; the processor time approximates the interpreter's start-up."""
