"""Completion of command lines in bash, zsh and fish: argcomplete asks the command's own parser, and we know the language.

    scripts     what a shell reads once
    candidates  what may stand at a place: files, keys, values, profiles
    asking      the answer to a shell that asks, and the places of the command line

A line imports only lines above it. `candidates` and `asking` are imported only when a shell asks.
"""
