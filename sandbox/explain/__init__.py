"""`sandbox explain`: what a program will be able to reach and why, for whoever has to approve an environment file.

    surroundings    facts about this machine that only a report needs
    report          the report as values, and as JSON
    case            what a report is made from, and where a value comes from
    storage, program, isolation, limits     the sections
    risks           the summary
    make            the whole report; pure
    text            the report for a terminal

A line imports only lines above it. A report is about a specification that was loaded with `unenforced="keep"`, and a
draft of its plan, so it can be made where `up` would refuse.

As JSON a report is an object:

    version         1; it changes when something that is described here changes its meaning
    file, files     the environment file, and all files that it is put together from
    name            of the sandbox
    account         who would start it
    refused         whether `up` would refuse; then `refusals`, an array of diagnostics as those of every verb
    risks           an array of {level: "danger"|"caution"|"note", text, keys, origins}, the worst first
    program, root, mounts, ids, namespaces, network, environment, limits, security, settings
                    arrays of facts: {label, text, value, origin, keys, notes}
    differences     an array of {key, asked, effective, reason, warned, refused, origin}: asked is TOML; effective is
                    null where the setting goes unenforced
    plan            the steps as lines, in order

An origin is {kind: "file"|"command line"|"default"|"machine"|"version", file, line, column, reason}. `label` and `value` of facts
are for programs, `text` and `notes` for people. The values: of a mount {type, source, target, options, mounted, ...}, of
ids the map as rows [inside, outside, count], of a namespace "private" or "host", of a variable {value, present}, value
null where the environment file does not give it, present null where only the sandbox's /etc/passwd knows, of a limit {limit, enforced_by, where}, of "capabilities" {bounding, effective, ambient}.
"""

from sandbox.explain.case import Case
from sandbox.explain.make import make_report
from sandbox.explain.report import Report
from sandbox.explain.surroundings import Surroundings, look
from sandbox.explain.text import render

__all__ = ["Case", "Report", "Surroundings", "look", "make_report", "render"]
