"""Texts of the reference that belong to no single setting, in Markdown.

Tests run the examples, and compare the output in a block with the output of its command.
"""

from __future__ import annotations

LANGUAGE = """\
An environment file is TOML (toml.io, version 1.0) in UTF-8, of at most 1 MiB. Only `root.layers` is required. Unknown keys are errors. What this version does not
enforce yet is checked like the rest, and is an error, too, unless its table lists it as `optional`: then it is a warning."""

VALUES = """\
| kind | how it is written |
|---|---|
| size | bytes as a number, or a string with a unit: `"512M"`, `"1.5G"`; units are powers of 1024 |
| duration | seconds as a number, or a string with units: `"30s"`, `"1h30m"`, `"250ms"` |
| host path | absolute, relative to the directory of the file that says it, or below `~` |
| sandbox path | absolute, as the program sees it; without `..` |
| octal digits | permission bits as a string, so that 755 cannot be read as a decimal number: `"0755"` |

In every string, also in those of lists, these references are replaced:

| reference | stands for |
|---|---|
| `${env:NAME}` | the environment variable NAME of whoever runs `sandbox`; an error if it is not set |
| `${env:NAME:-default}` | the same, or `default` if it is not set or empty |
| `${config_dir}` | the directory of the file that says it |
| `$${` | a literal `${` |

A `$` before anything else is itself, so that `$HOME` and `$(date)` in a command are the shell's own. What comes in by a
reference is not looked through again. Keys hold no references."""

ALTERNATIVES = {
    "[[root.layers]]": "A layer that is written as a table, in the list `root.layers`: one of the first four keys, and options.",
    "[namespaces.time]": "`namespaces.time` as a table: clocks that differ from those of this machine.",
    "[security.seccomp]": "`security.seccomp` as a table: a profile, and changes to it.",
}
"""Descriptions of tables that may be written in place of a string, by their headers."""

COMPOSITION = """\
A file can complete and change others. From the first to the last, each changing what came before:

1. the files that `extends` names, in their order, relative to the file, each put together with those that it extends itself;
2. the file itself;
3. the profiles asked for with `--profile NAME`, in their order: the tables below `[profile.NAME]`;
4. the values given with `--set KEY=VALUE`, in their order.

Tables are merged key by key. Anything else replaces what was there, lists too. To change a list instead, give a table:

* `key = { append = [...] }` puts elements behind those of the list,
* `key = { remove = [...] }` takes elements out; it is an error if there is no such element. An element is named by its whole value or by
  what tells it from the others: a volume by its target, a device and an entry of `limits.io` by its path, a layer by its path, a port by
  that of the host.
* With both, removing comes first. Where no list came before, it was an empty one.

Every value keeps the place it was written at: paths and `${config_dir}` are relative to that file (those of `--set` to the current
directory), and messages point into it.

```toml
# base.toml
[root]
layers = ["dir:/"]

[[volumes]]
type = "tmpfs"
target = "/tmp"

[limits]
open_files = 1024
core = 0

[profile.small.limits]
open_files = 64
```

```toml
# web.toml
extends = "base.toml"

[process]
command = ["python3", "-m", "http.server"]
cwd = "/srv"

[volumes]
remove = ["/tmp"]
append = [{ type = "bind", source = "site", target = "/srv", read_only = true }]
```

```console
$ sandbox config web.toml --profile small --set limits.cpu_time=1m --origins
[root]
layers = ["dir:/"]  # base.toml:3

[process]
command = ["python3", "-m", "http.server"]  # web.toml:5
cwd = "/srv"  # web.toml:6

[[volumes]]
type = "bind"  # web.toml:10
source = "/home/alice/site"  # web.toml:10
target = "/srv"  # web.toml:10
read_only = true  # web.toml:10

[limits]
open_files = 64  # base.toml:14
core = 0  # base.toml:11
cpu_time = "1m"  # --set
```

`--set` reads its value as TOML (`true`, `8`, `["a", "b"]`); what is no TOML, or no value of the key as TOML, is a string:
`limits.memory=1G`, `process.umask=77`. A key can be an element of a list: `volumes[0].read_only=true`."""

TOPICS = {"values": VALUES, "composition": COMPOSITION}
"""The arguments of `sandbox reference` besides keys, with their texts."""
