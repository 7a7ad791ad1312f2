"""Texts of the reference that belong to no single setting, in Markdown.

Tests run the examples, and compare the output in a block with the output of its command.
"""

from __future__ import annotations

LANGUAGE = """\
An environment file is TOML (toml.io, version 1.0) in UTF-8, of at most 1 MiB. Only `root.layers` is
required. Unknown keys are errors. A key that this version does not enforce is checked like any other
key. Setting it is an error; it is a warning if `optional` of its table lists the key."""

VALUES = """\
| kind | how it is written |
|---|---|
| size | bytes as a number, or a string with a unit: `"512M"`, `"1.5G"`; units are powers of 1024 |
| duration | seconds as a number, or a string with units: `"30s"`, `"1h30m"`, `"250ms"` |
| host path | absolute, relative to the directory of the file that contains it, or below `~` |
| sandbox path | absolute, as the program sees it; without `..` |
| octal digits | permission bits as a string, so that 755 cannot be read as a decimal number: `"0755"` |

In every string, including the strings in lists, these references are replaced:

| reference | stands for |
|---|---|
| `${env:NAME}` | the environment variable NAME of `sandbox`; an error if it is not set |
| `${env:NAME:-default}` | the same, or `default` if it is not set or empty |
| `${config_dir}` | the directory of the file that contains it |
| `$${` | a literal `${` |

A `$` before any other character is literal, so that the shell expands `$HOME` and `$(date)` in a
command. The inserted text is not expanded again. Keys have no references."""

ALTERNATIVES = {
    "[[root.layers]]": "A layer that is written as a table, in the list `root.layers`: one of the first four keys, and options.",
    "[namespaces.time]": "`namespaces.time` as a table: clocks that differ from those of this machine.",
    "[security.seccomp]": "`security.seccomp` as a table: a profile, and changes to it.",
}
"""Descriptions of tables that may be written in place of a string, by their headers."""

COMPOSITION = """\
A file can extend other files. Values are applied in this order; later ones override earlier ones:

1. the files in `extends`, in their order, relative to the file, each merged with the files that it
   extends itself;
2. the file itself;
3. the profiles that `--profile NAME` selects, in their order: the tables below `[profile.NAME]`;
4. the values of `--set KEY=VALUE`, in their order.

Tables are merged key by key. Any other value, including a list, replaces the earlier value. To change a
list instead, write a table:

* `key = { append = [...] }` adds elements at the end of the list.
* `key = { remove = [...] }` removes elements; it is an error if the list has no such element. Write the
  whole element or the part that identifies it: the target of a volume, the path of a device, of an entry
  of `limits.io` or of a layer, the host port of a port.
* With both, the removal comes first. If no earlier file sets the list, it is empty.

Relative paths and `${config_dir}` refer to the file that contains them (in `--set`, to the current
directory). Messages point to that file.

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

`--set` parses its value as TOML (`true`, `8`, `["a", "b"]`). A value that is not valid TOML is a string, as is every value
of a key that takes only strings: `limits.memory=1G`, `process.umask=77`. A key can name an element of a list: `volumes[0].read_only=true`."""

TOPICS = {"values": VALUES, "composition": COMPOSITION}
"""The arguments of `sandbox reference` besides keys, with their texts."""
