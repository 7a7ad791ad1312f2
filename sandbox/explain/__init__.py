"""Make the report of `sandbox explain`: what the program will be able to reach, and why. Reviewers of a file read it.

    surroundings    facts about this machine that only a report needs
    report          the report as values, and as JSON
    case            the input of a report, and the origins of its values
    filters         the facts about seccomp and Landlock
    storage, program, isolation, limits     the sections
    risks           the summary
    make            the whole report; pure
    text            the report for a terminal

A module imports only modules listed above it. The input is a specification that was loaded with `unenforced="keep"` and a
draft of its plan, so a report can also be made for a file that `up` refuses.

As JSON a report is an object:

    version         1; it changes when the meaning of anything described here changes
    file, files     the environment file, and all files that it is composed of
    name            the name of the sandbox
    account         the user who would start it
    refused         whether `up` would refuse the file
    refusals        an array of the diagnostics with which `up` would refuse, in the form that all verbs use
    risks           an array of {level: "danger"|"caution"|"note", text, keys, origins}, the worst first
    program, root, mounts, ids, namespaces, network, environment, limits, security, settings
                    arrays of facts: {label, text, value, origin, keys, notes}
    differences     an array of {key, asked, effective, reason, warned, refused, origin}: asked is TOML; effective is
                    null if the setting goes unenforced
    plan            the steps as lines, in order

An origin is {kind: "file"|"command line"|"default"|"machine"|"version", file, line, column, reason}. `label` and `value` of
a fact are for programs, `text` and `notes` for people. The values are:

    of a mount      {type, source, target, options, mounted, ...}
    of ids          the map as rows [inside, outside, count]
    of a namespace  "private", "host", or the namespace that is joined, as in the file
    of a variable   {value, present}: value is null unless the environment file gives it; present is null if it depends
                    on the sandbox's /etc/passwd
    of a limit      {limit, enforced_by, where}
    of "capabilities"   {bounding, effective, ambient}
"""

from sandbox.explain.case import Case
from sandbox.explain.make import make_report
from sandbox.explain.report import Report
from sandbox.explain.surroundings import Surroundings, look
from sandbox.explain.text import render

__all__ = ["Case", "Report", "Surroundings", "look", "make_report", "render"]
