"""The modules of scripts/bench, which times the same workloads on several file systems in turn.

* `roots` and `corpus` make the trees.
* `metadata`, `contents` and `tools` are the workloads; `catalogue` lists them.
* `systems` mounts the file systems.
* `layers`, `start`, `imports`, `growth` and `handlers` are measurements of their own.
* `measuring` runs the trials in turn; `counting` counts requests.
* `report` and `plot` present the results. Only `plot` needs a package (matplotlib) beside the standard library.
"""
