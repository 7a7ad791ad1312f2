"""Define the table of verbs in the order of `sandbox --help`. Each verb is the module of the same name in this package.

`sandbox --help` needs only this module and `parser`.
"""

from __future__ import annotations

from sandbox.errors import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_TIMED_OUT

GROUPS: dict[str, dict[str, str]] = {
    "run": {
        "up": "start the sandbox of an environment file and wait for it",
        "logs": "print what a sandbox in the background has printed",
        "ps": "list sandboxes",
        "stop": "end sandboxes, and wait until they are gone",
        "kill": "send a signal to the programs of sandboxes",
        "wait": "wait for the end of sandboxes",
        "inspect": "print the state, the processes and the places of a sandbox",
        "top": "list the processes of a sandbox",
        "port": "print the ports of the host that lead to a running sandbox",
        "network": "list and inspect the networks that running sandboxes share",
    },
    "review": {
        "diff": "show what a sandbox has added, changed, deleted and moved",
        "apply": "write changes to the directory that is the sandbox's layer",
        "export": "copy files out of a sandbox, or write an image",
        "discard": "remove the changes of a sandbox",
        "snapshot": "record the state of a sandbox under a name",
        "rollback": "return a sandbox to a snapshot",
        "fork": "make another sandbox from the state of one",
    },
    "keep": {
        "ls": "list kept layers, named volumes and unpacked archives",
        "df": "print the disk space of layers, volumes and archives",
        "rm": "remove a persistent layer, named volume or unpacked archive",
        "prune": "remove leftovers of ended sandboxes, and unreferenced archives",
        "adopt": "give a persistent layer to another environment file",
    },
    "images": {
        "pull": "fetch an image, or the images of environment files",
        "push": "send an image to a registry",
        "image": "list, inspect, name, remove, verify and import images",
        "build": "build an image from a Containerfile or an environment file",
        "commit": "make an image of a sandbox",
        "lock": "record the digests of the sources of a file",
        "login": "store a user and password for a registry of images",
        "logout": "remove the user and password for a registry",
    },
    "understand": {
        "check": "find all mistakes in environment files",
        "explain": "show what the program can reach, and why",
        "config": "print a file with everything merged",
        "doctor": "test what this machine can do, and print remedies",
    },
    "edit": {
        "init": "write a commented environment file to start from",
        "get": "print values of an environment file",
        "set": "change values, keeping comments and layout",
        "unset": "remove values",
        "add": "append a volume, layer, port or other element of a list",
        "edit": "open a file in $EDITOR and install it only if it is valid",
        "fmt": "put a file into the usual layout",
    },
    "learn": {
        "reference": "print what settings mean",
        "schema": "print the JSON Schema of environment files, for editors",
        "completion": "print the completion script of a shell",
        "man": "print a manual page",
    },
}

VERBS: dict[str, str] = {name: summary for group in GROUPS.values() for name, summary in group.items()}

PROGRAM_EXIT_STATUS = (
    f"exit status: the program's own, 128+N if signal N ended it, {EXIT_TIMED_OUT} after limits.wall_time, "
    f"{EXIT_FAILURE} for a failure of sandbox, {EXIT_NOT_EXECUTABLE} for a command that cannot be executed, {EXIT_NOT_FOUND} for one that is not found"
)
