"""What scripts/bench consists of: the same work, timed on several file systems in turn.

`roots` and `corpus` make the trees; `metadata`, `contents` and `tools` are the work, `catalogue` its
list; `systems` mounts; `layers`, `start` and `growth` make trials of their own; `measuring` takes turns;
`report` and `plot` say what came out. Only `plot` needs anything beside the standard library.
"""
