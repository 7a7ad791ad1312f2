"""Trying what this machine can do for sandboxes, and saying how to mend what it cannot.

    check       what is said about one thing: level, summary, cost, remedy
    facts       what was tried and how it went, as values
    child       running a probe in a forked child that cannot outlive its time
    probes/     functions that call the system as a start does; they decide nothing and leave nothing
    checks/     from facts to checks; pure
    examine     probes, then checks, for the whole machine and for one environment file

A failure means that `sandbox up` would not work. Everything else that is lacking is a warning where a setting of an
environment file would be refused or go unenforced, and a note where nothing that this version does depends on it.
"""
