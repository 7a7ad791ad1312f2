"""Compute the cache key of a build step: what the files after it depend on, and nothing else.

A key covers the key of the step before it, the action, and the contents of its inputs. Times, places and the text of the
step are not part of it. A step without an action changes no file, so it has the key of the step before it.
"""

from __future__ import annotations

from sandbox.images.build.plan import MakeDirectory, RunCommand, Step
from unionfs._stdlib.hashlib import sha256

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.images.build.plan import Action

_VERSION = "1"
"""Part of each key. Change it when the same step gives other files than before."""


def base_key(layers: Sequence[str], platform: str) -> str:
    """Return the key of a base that has the layers with the digests *layers*, bottom first, in 64 hexadecimal digits."""
    return _digest(["base", _VERSION, platform, *layers])


def step_key(parent: str, step: Step, inputs: str = "") -> str:
    """Return the key of *step* after the step with the key *parent*.

    *inputs* is a digest of the files that the step copies, of their names and attributes without times; for files of an
    earlier stage, its key may be used instead. A step that runs a command or makes a directory has none.
    """
    if step.action is None:
        return parent
    return _digest(["step", _VERSION, parent, *_described(step.action), inputs])


def _described(action: Action) -> list[object]:
    if isinstance(action, RunCommand):
        # The order of variables is not a difference for a command.
        env = sorted(action.env)
        return ["run", action.command, env, action.user, action.cwd, action.network, action.script]
    if isinstance(action, MakeDirectory):
        return ["directory", action.path, action.owner]
    documents = [[document.name, document.content] for document in action.documents]
    # The files themselves are in the digest of the inputs; whether they come from the context or from an image is not.
    return ["copy", action.sources, documents, action.target, action.owner, action.mode, action.unpack]


def _digest(parts: list[object]) -> str:
    import json

    # JSON separates the parts, so that no two lists give the same text.
    return sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
