"""The command ``sandbox``: one module per verb, and what they share.

    verbs       the table of verbs: names and summaries, nothing imported
    output      colour, tables, JSON: how results reach a terminal or a program
    options     arguments that several verbs have, and what they mean
    parser      the command line, built verb by verb
    up, ...     the verbs: `add_arguments(parser)` and `run(arguments) -> exit status`
    plain       the command line of `up` without argparse, where it is as simple as most are
    main        runs a verb, renders errors, chooses exit statuses

A line imports only lines above it, and `main` a verb only when it is the one that was asked for: what a verb does not
need is not imported.
"""

import time

BEGUN = time.monotonic_ns() - time.process_time_ns()
"""When this process began, on CLOCK_MONOTONIC: how long the interpreter took is known by the processor time that it had."""
