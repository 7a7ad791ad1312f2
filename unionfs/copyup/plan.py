"""The steps of a copy-up, in order. Pure.

The order is forced:

* contents (or the length) and owner before attributes and mode: changing them clears ``security.capability`` and the set-id bits;
* the origin attribute before the other attributes: an ACL may remove the right to write it;
* attributes before mode: an ACL rewrites the mode;
* times last: all other steps change them;
* the index before the name: once the copy hides a lower name, the other names must find the copy;
* the name at the very end: the object must be complete when it appears.
"""

from __future__ import annotations

import stat
from enum import Enum
from functools import cache


class Contents(Enum):
    """The contents that a copy needs."""

    #: All contents: the file is about to be written.
    COPY = "copy"
    #: The contents can stay in the lower layer for now: only attributes or names are about to change.
    LATER = "later"
    #: No contents: the file is about to be truncated to 0 bytes.
    NONE = "none"


class Step(Enum):
    """One step of a copy-up. The copy has a temporary name in the work directory until PUBLISH or PIN."""

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
        kind: its type (``stat.S_IFMT``).
        contents: the contents that the copy needs. LATER marks the copy as a metacopy.
        links: its link count in the lower layer.
        named: whether the union still has a name for it; otherwise only a descriptor refers to the copy.
        durable: whether the contents must be on disk before the copy replaces the original (not with ``volatile``).
        elsewhere: whether no name is known but the lower layer has others, which have to lead to the copy.
        lasting: whether the inode number will identify the same object at the next mount.
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
