"""What a copy-up consists of, in order. Pure.

The order is forced: contents, or their length, and the owner before attributes and mode, because a change of any of
them clears ``security.capability`` and the set-id bits; our own attribute before the others, because an ACL may take the right
to write it; mode after attributes, because an ACL rewrites it; times last,
because everything before changes them; the name last of all, because the object must be whole when it appears.
The index comes before the name: once a lower name is covered, the other names must find the copy.
"""

from __future__ import annotations

import stat
from enum import Enum
from functools import cache


class Contents(Enum):
    """What is wanted of a file's contents."""

    #: All of them: somebody is going to write.
    COPY = "copy"
    #: They can stay in the layer below for now: only attributes or names are going to change.
    LATER = "later"
    #: None: the file is about to be truncated to nothing.
    NONE = "none"


class Step(Enum):
    """One step of a copy-up, done on a temporary name in the work directory until the object is published."""

    MAKE = "make"
    DATA = "data"
    OWNER = "owner"
    XATTRS = "xattrs"
    METACOPY = "metacopy"
    ORIGIN = "origin"
    MODE = "mode"
    TIMES = "times"
    SYNC = "sync"
    INDEX = "index"
    PUBLISH = "publish"
    PIN = "pin"


@cache
def plan_copy_up(
    kind: int,
    *,
    contents: Contents,
    links: int,
    named: bool,
    durable: bool,
    lasting: bool,
    elsewhere: bool = False,
) -> tuple[Step, ...]:
    """Plan the copy-up of one object.

    Args:
        kind: its type, as ``stat.S_IFMT`` gives it.
        contents: what is wanted of its contents. LATER marks the copy as one of metadata alone.
        links: its link count in the lower layer.
        named: whether the union still has a name for it; else the copy is kept by descriptor only.
        durable: whether the contents must be on disk before the copy takes the original's place (the kernel's
            ``volatile`` says no).
        elsewhere: whether, without a known name, others of the lower layer still lead to it: they have to lead to
            the copy.
        lasting: whether the object's number will mean the same object at the next mount.
    """
    regular = stat.S_ISREG(kind)
    copied = regular and contents is Contents.COPY
    steps = [Step.MAKE]
    if copied:
        steps.append(Step.DATA)
    if regular and contents is Contents.LATER:
        steps.append(Step.METACOPY)
    steps.append(Step.OWNER)
    if regular and (named or elsewhere) and lasting:
        steps.append(Step.ORIGIN)
    steps.append(Step.XATTRS)
    if not stat.S_ISLNK(kind):
        steps.append(Step.MODE)
    steps.append(Step.TIMES)
    if copied and durable:
        steps.append(Step.SYNC)
    if elsewhere or (named and (links > 1 or not regular)):
        steps.append(Step.INDEX)
    steps.append(Step.PUBLISH if named else Step.PIN)
    return tuple(steps)
