"""The defaults of an image in a plan: which of them take effect, and what the file replaces."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.errors import ImageError, SpecError
from sandbox.plan.image_values import ImageDefaults, ImageLayer, StoredImage
from sandbox.plan.images import with_image_defaults
from sandbox.spec.load import parse
from sandbox.spec.model import Spec
from sandbox.spec.names import signal_number
from tests.unit.sandbox.facts import plan as plan_of

LAYER = ImageLayer(diff_id="sha256:" + "a" * 64, digest="sha256:" + "b" * 64, size=1, media_type="x")
DEFAULTS = ImageDefaults(
    entrypoint=("/entry", "-e"),
    command=("first", "second"),
    env=("PATH=/image", "A=of the image", "A=last"),
    user="5:6",
    cwd="/srv",
    stop_signal="SIGQUIT",
)


def image(name: str = "it:1", digest: str = "c", **defaults: Any) -> StoredImage:
    given = ImageDefaults(**defaults) if defaults else DEFAULTS
    return StoredImage(name=name, digest=f"sha256:{digest * 64}", layers=(LAYER,), defaults=given)


def planned(process: str = "", *images: StoredImage, rest: str = "", **others: Any) -> Any:
    """Return the plan of a file with *images* (DEFAULTS if none are given) and the settings *process*."""
    images = images or (image(),)
    layers = ", ".join(f'"image:{one.name}"' for one in images)
    text = f"[root]\nlayers = [{layers}]\n[process]\n{process}\n{rest}"
    return plan_of(text, images=dict(enumerate(images)), **others)


def spec_of(process: str, one: StoredImage, rest: str = "") -> Spec:
    text = f'[root]\nlayers = ["image:{one.name}"]\n[process]\n{process}\n{rest}'
    return with_image_defaults(parse(text.encode(), path="t.toml", environ={}), {0: one})


@pytest.mark.parametrize(
    ("process", "argv"),
    [
        ("", ("/entry", "-e", "first", "second")),
        ('args = ["mine"]', ("/entry", "-e", "mine")),
        ("args = []", ("/entry", "-e")),
        ('command = ["/mine"]', ("/mine",)),
        ('command = ["/mine"]\nargs = ["x"]', ("/mine", "x")),
    ],
)
def test_the_file_replaces_the_command_of_the_image_and_the_entrypoint_by_a_command(
    process: str, argv: tuple[str, ...]
) -> None:
    assert planned(process).process.argv == argv


def test_a_command_on_the_command_line_replaces_entrypoint_and_command() -> None:
    assert planned(command=("/bin/ls", "-l")).process.argv == ("/bin/ls", "-l")


@pytest.mark.parametrize(
    ("defaults", "process", "argv"),
    [
        ({"command": ("only", "this")}, "", ("only", "this")),
        ({"command": ("only", "this")}, 'args = ["mine", "x"]', ("mine", "x")),
        ({"entrypoint": ("/entry",)}, "", ("/entry",)),
        ({"user": "5"}, "", ("/bin/sh",)),
        ({"user": "5"}, 'args = ["-c", "true"]', ("/bin/sh", "-c", "true")),
    ],
)
def test_an_image_with_only_a_part_of_the_command_gives_that_part(
    defaults: dict[str, Any], process: str, argv: tuple[str, ...]
) -> None:
    assert planned(process, image(**defaults)).process.argv == argv


def test_user_directory_and_stop_signal_are_those_of_the_image() -> None:
    process = planned().process
    assert (process.user.user, process.user.group) == (5, 6)
    assert (process.cwd, process.stop_signal) == ("/srv", "SIGQUIT")


def test_user_directory_and_stop_signal_of_the_file_take_precedence() -> None:
    process = planned('user = 7\ncwd = "/tmp"\nstop_signal = "SIGINT"').process
    assert (process.user.user, process.user.group) == (7, None)
    assert (process.cwd, process.stop_signal) == ("/tmp", "SIGINT")


def test_a_setting_that_equals_the_general_default_still_takes_precedence() -> None:
    process = planned('user = 0\ncwd = "/"\nstop_signal = "SIGTERM"').process
    assert (process.user.user, process.cwd, process.stop_signal) == (0, "/", "SIGTERM")


def test_variables_of_the_file_replace_single_variables_of_the_image() -> None:
    assert planned().process.env == {"PATH": "/image", "A": "last", "container": "sandbox"}
    process = planned(
        'inherit_env = ["PATH"]\nenv = { A = "mine", B = "b" }', environ={"PATH": "/host"}
    ).process
    assert process.env == {"PATH": "/host", "A": "mine", "B": "b", "container": "sandbox"}


def test_what_is_no_variable_is_left_out() -> None:
    one = image(env=("NAME", "=value", "", "A=", "B=a=b"))
    assert planned("", one).process.env.keys() == {"PATH", "container", "A", "B"}
    assert planned("", one).process.env["B"] == "a=b"


def test_the_topmost_image_gives_all_defaults() -> None:
    top = image("top:1", "d", command=("top",))
    plan = planned("", image(), top)
    assert plan.process.argv == ("top",)
    assert "A" not in plan.process.env
    assert (plan.process.cwd, plan.process.user.user) == ("/", 0)
    assert [layer.path for layer in plan.layers] == [image().identity, top.identity]


def test_a_directory_above_an_image_leaves_the_defaults_of_the_image() -> None:
    text = '[root]\nlayers = ["image:it:1", "dir:/above"]\n'
    assert plan_of(text, images={0: image()}).process.argv == ("/entry", "-e", "first", "second")


def test_without_an_image_nothing_changes() -> None:
    spec = parse(b'[root]\nlayers = ["dir:/"]\n', path="t.toml", environ={})
    assert with_image_defaults(spec, {}) is spec


@pytest.mark.parametrize(
    ("given", "cwd"),
    [("/a/../b/", "/b"), ("rel", "/rel"), ("//x", "/x"), ("/..", "/"), (".", "/"), ("/a b", "/a b")],
)
def test_the_directory_of_an_image_is_made_absolute(given: str, cwd: str) -> None:
    assert planned("", image(cwd=given)).process.cwd == cwd


def test_the_directory_of_an_image_is_created_and_that_of_a_file_is_not() -> None:
    assert "/srv" in [point.path for point in planned().skeleton]
    assert "/mine" not in [point.path for point in planned('cwd = "/mine"').skeleton]
    assert "/" not in [point.path for point in planned("", image(cwd="/")).skeleton]


@pytest.mark.parametrize(
    ("given", "user", "group"),
    [("5", 5, None), ("www", "www", None), ("5:6", 5, 6), ("www:data", "www", "data"), ("0:0", 0, 0)],
)
def test_each_form_of_a_user_is_understood(given: str, user: object, group: object) -> None:
    found = spec_of("", image(user=given)).process.user
    assert (found.user, found.group) == (user, group)


@pytest.mark.parametrize("given", [":", "a b", "5:", str(1 << 40), "-1"])
def test_a_user_that_cannot_be_is_an_error_unless_the_file_sets_one(given: str) -> None:
    with pytest.raises(ImageError, match="image it:1: its user ") as caught:
        spec_of("", image(user=given))
    assert caught.value.hint == "set process.user"
    assert spec_of("user = 7", image(user=given)).process.user.user == 7


def test_with_keep_id_the_program_runs_as_the_user_who_starts_it() -> None:
    spec = spec_of("", image(), rest='[ids]\nmap = "keep-id"\n')
    assert "process.user" not in spec.image_values
    assert planned(rest='[ids]\nmap = "keep-id"\n').process.user.user == 1000


def test_a_user_that_the_sandbox_does_not_have_is_refused_with_the_remedy() -> None:
    with pytest.raises(SpecError, match=r"process\.user") as caught:
        planned("", image(user="70000"))
    assert caught.value.diagnostics[0].as_dict()["hint"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("SIGQUIT", "SIGQUIT"), ("term", "SIGTERM"), ("9", "SIGKILL"), ("15", "SIGTERM"),
        ("SIGRTMIN+3", "SIGRTMIN+3"), ("37", "SIGRTMIN+3"), ("34", "SIGRTMIN"), ("64", "SIGRTMAX"),
    ],
)  # fmt: skip
def test_each_form_of_a_stop_signal_is_understood(given: str, name: str) -> None:
    found = spec_of("", image(stop_signal=given)).process.stop_signal
    assert signal_number(found) == signal_number(name)


@pytest.mark.parametrize("given", ["SIGNONE", "0", "99", "-1", "17", "SIGCHLD", "1" * 99])
def test_an_impossible_stop_signal_is_an_error_unless_the_file_sets_one(given: str) -> None:
    with pytest.raises(ImageError, match="image it:1: its stop signal ") as caught:
        spec_of("", image(stop_signal=given))
    assert caught.value.hint == "set process.stop_signal"
    assert spec_of('stop_signal = "SIGINT"', image(stop_signal=given)).process.stop_signal == "SIGINT"


def test_the_settings_of_the_image_are_named_for_explain() -> None:
    spec = spec_of('cwd = "/tmp"', image())
    assert dict(spec.image_values) == dict.fromkeys(
        ("process.env", "process.command", "process.user", "process.stop_signal"), "it:1"
    )
    assert spec.image_env["A"] == "last"


def test_an_image_that_is_not_there_is_refused_at_its_layer() -> None:
    with pytest.raises(SpecError, match="image:it:1 is not in the image store") as caught:
        plan_of('[root]\nlayers = ["dir:/", "image:it:1"]\n')
    assert caught.value.diagnostics[0].as_dict()["key"] == "root.layers[1]"


def test_an_image_without_layers_is_refused() -> None:
    empty = StoredImage(name="it:1", digest="sha256:" + "c" * 64, layers=())
    with pytest.raises(SpecError, match="has no layers"):
        planned("", empty)


def test_each_layer_of_an_image_becomes_a_layer_of_the_plan_bottom_first() -> None:
    layers = tuple(
        ImageLayer(diff_id=f"sha256:{letter * 64}", digest=LAYER.digest, size=1, media_type="x")
        for letter in "123"
    )
    one = StoredImage(name="it:1", digest="sha256:" + "c" * 64, layers=layers)
    plan = planned("", one)
    assert [layer.image for layer in plan.layers] == list(layers)
    assert {(layer.kind, layer.path, layer.immutable) for layer in plan.layers} == {
        ("image", one.identity, True)
    }
    assert [kind for kind, _, _ in plan.record.layers or ()][:1] == ["image"]
