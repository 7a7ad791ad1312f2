"""Apply the defaults of an image to a specification. Pure.

The rules for the command are those of docker-run(1) and of Kubernetes: process.command replaces entrypoint and command of the
image, process.args replaces its command alone.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from sandbox.errors import ImageError
from sandbox.plan.image_values import StoredImage
from sandbox.spec.model import Spec
from sandbox.spec.names import parse_signal
from sandbox.spec.notation import shown
from sandbox.spec.settings import Invalid
from sandbox.spec.values.accounts import User, parse_user
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import Any


def with_image_defaults(spec: Spec, images: Mapping[int, StoredImage]) -> Spec:
    """Return *spec* with the defaults of the topmost of *images*, which are given by the number of their layer in the file.

    A setting of the file takes precedence. `Spec.image_values` of the result names the settings that are the image's.

    Raises:
        ImageError: a default of the image is not valid; the hint names the setting that replaces it.
    """
    if not images:
        return spec
    image = images[max(images)]
    given, process = image.defaults, spec.process
    changes: dict[str, Any] = {}
    if process.command is None and (given.entrypoint or given.command):
        if not spec.is_set("process.args"):
            changes["command"] = given.entrypoint + given.command
        elif given.entrypoint:
            changes["command"] = given.entrypoint
        else:
            changes["command"], changes["args"] = process.args, ()
    # With "keep-id" the program runs as the user who starts the sandbox (sandbox/plan/ids.py), as with podman.
    if given.user and not spec.is_set("process.user") and spec.ids.map != "keep-id":
        changes["user"] = _user(image)
    if given.cwd and not spec.is_set("process.cwd"):
        changes["cwd"] = "/" + posixpath.normpath(posixpath.join("/", given.cwd)).lstrip("/")
    if given.stop_signal and not spec.is_set("process.stop_signal"):
        changes["stop_signal"] = _stop_signal(image)
    return replace(
        spec,
        process=replace(process, **changes),
        image_values=dict.fromkeys(
            ("process.env", *(f"process.{key}" for key in changes if key != "args")), image.name
        ),
        image_env=_variables(image),
    )


def _user(image: StoredImage) -> User:
    try:
        return parse_user(image.defaults.user)
    except Invalid as error:
        raise ImageError(f"image {image.name}: its user {error.message}", hint="set process.user") from None


def _stop_signal(image: StoredImage) -> str:
    text = image.defaults.stop_signal
    try:
        name = parse_signal(_signal_name(int(text)) if text.isdecimal() and len(text) < 3 else text)
    except ValueError:
        name = "SIGCHLD"
    if name == "SIGCHLD":  # the end of any child would end the sandbox; a file is refused, too
        raise ImageError(
            f"image {image.name}: its stop signal {shown(text)} is none that can end a program",
            hint="set process.stop_signal",
        )
    return name


def _signal_name(number: int) -> str:
    import signal  # few images have a number

    if signal.SIGRTMIN < number <= signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return signal.Signals(number).name


def _variables(image: StoredImage) -> dict[str, str]:
    """Return the variables of *image*; a later one of the same name counts."""
    variables = (text.partition("=") for text in image.defaults.env)
    return {name: value for name, equals, value in variables if name and equals}
