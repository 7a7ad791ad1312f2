"""Examine what this machine can do for sandboxes, and report how to repair what it cannot do.

    check       a finding: level, summary, cost, remedy
    facts       the results of the probes, as values
    child       runs a probe in a forked child with a time limit
    probes/     functions that make the system calls of a start; they decide nothing and leave nothing behind
    checks/     turn facts into findings; pure
    examine     runs probes, then checks, for the machine and for one environment file

A failure means that `sandbox up` would not work. A warning means that a setting of an environment file would be refused or
not enforced. A note is about something that no function of this version needs.
"""
