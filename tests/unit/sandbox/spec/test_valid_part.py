"""Test `sandbox.spec.valid_part`: the refusals of the valid part of a file are reported together with its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.host.paths import inspect_all
from sandbox.plan import draft, host_details, host_files, host_paths
from sandbox.spec import Diagnostic, parse
from sandbox.spec.valid_part import ValidPart
from tests.unit.sandbox.facts import NETWORK, PRIVATE, host
from tests.unit.sandbox.spec.test_bad_files import CASES, HERE, error_of


def valid_part_of(text: str) -> ValidPart:
    with pytest.raises(SpecError) as caught:
        parse(text.encode(), path="/specs/test.toml", environ={"HOME": "/home/alice"}, unenforced="keep")
    assert caught.value.valid_part is not None
    found = caught.value.valid_part()
    assert found is not None
    return found


def refused(rest: ValidPart) -> list[Diagnostic]:
    spec = rest.spec
    paths = inspect_all(host_paths(spec), read=host_files(spec), **host_details(spec))
    found = draft(
        spec, host(), paths, environ={}, state_directory="/state", private=PRIVATE, network=NETWORK
    ).refusals
    return [one for refusal in found if (one := rest.in_file(refusal)) is not None]


@pytest.mark.parametrize("name", CASES)
def test_the_valid_part_of_a_bad_file_can_be_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    error = error_of(name)
    if error.valid_part is None or (rest := error.valid_part()) is None:
        return
    wrong = {one.key for one in error.diagnostics if isinstance(one, Diagnostic)}
    # A refusal must be about a value that is valid by itself.
    assert not wrong & {one.key for one in refused(rest)}


def test_elements_after_a_wrong_one_keep_their_indexes_and_positions() -> None:
    volume = '[[volumes]]\ntype = "{}"\nsource = "/absent/{}"\ntarget = "/{}"\n'
    kinds = ["bnd", "bind", "tmfps", "bind", "bind"]
    text = '[root]\nlayers = ["dir:/"]\n' + "".join(
        volume.format(kind, *[i] * 2) for i, kind in enumerate(kinds)
    )
    assert [(one.key, one.line) for one in refused(valid_part_of(text))] == [
        ("volumes[1].source", 9),
        ("volumes[3].source", 17),
        ("volumes[4].source", 21),
    ]


@pytest.mark.parametrize(
    "root",
    [
        "",
        "[root]\n",
        "[root]\nlayers = 1\n",
        '[root]\nlayers = ["dri:/"]\n',
        'root = "x"\n',
        '[root]\nlayers = []\nserver = "none"\n',
    ],
)
def test_a_root_that_is_wrong_hides_no_other_refusal(root: str) -> None:
    tail = '[[volumes]]\ntype = "bind"\nsource = "/absent"\ntarget = "/x"\n'
    assert [one.key for one in refused(valid_part_of(root + tail))] == ["volumes[0].source"]


def test_refusals_about_all_layers_are_omitted_if_a_layer_is_wrong() -> None:
    text = '[root]\nlayers = ["dir:/", "dri:/x"]\nserver = "none"\nwritable = "none"\n'
    assert refused(valid_part_of(text)) == []


def test_a_key_that_depends_on_a_wrong_key_is_not_refused() -> None:
    text = 'root.layers = ["dir:/"]\n[limits]\nmemory = "many"\nswap = "1G"\nwal_time = 1\n[process]\nenv_file = "/absent"\n'
    assert [one.key for one in refused(valid_part_of(text))] == ["process.env_file"]


def test_a_file_that_is_not_toml_has_no_valid_part(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        parse(b"[root", path="/specs/test.toml", environ={})
    assert caught.value.valid_part is None
