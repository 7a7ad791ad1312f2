"""Write instructions as a Containerfile in one of many notations, parse it, and get the same values back."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.images.build.config import ImageConfig
from sandbox.images.build.containerfile import parse
from sandbox.images.build.plan import CopyFiles, MakeDirectory, RunCommand
from tests.unit.sandbox.images.build.planning import plan

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
ARGV = st.lists(TEXT, min_size=1, max_size=4).map(tuple).filter(lambda argv: argv[0] != "")
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in {"PATH", "X"}
)
PAIRS = st.dictionaries(NAME, TEXT, min_size=1, max_size=4)
LINES = st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20), max_size=5)
PATH = st.lists(
    st.from_regex(r"[a-z0-9_.][a-z0-9_.-]{0,7}", fullmatch=True).filter(lambda part: set(part) != {"."}),
    min_size=1,
    max_size=3,
)


@st.composite
def gap(draw: st.DrawFn) -> str:
    """Draw blanks between words, with continuations, comments and blank lines among them."""
    return draw(st.sampled_from([" ", "  ", "\t", " \\\n", " \\\n  ", " \\  \n# a comment\n\n\t", "\\\n "]))


@st.composite
def quoted(draw: st.DrawFn, text: str) -> str:
    """Draw a notation of *text*, without variables."""
    forms = ['"' + "".join("\\" + char if char in '"\\$' else char for char in text) + '"']
    if "'" not in text:
        forms.append(f"'{text}'")
    # An escaped blank at the end would be one too few in the file's end, and a lone backslash there a continuation.
    if text and text.isascii() and text.isalnum():
        forms.append(text)
    return draw(st.sampled_from(forms))


@st.composite
def written(draw: st.DrawFn, name: str, words: Sequence[str]) -> str:
    name = draw(st.sampled_from([name, name.lower(), name.title()]))
    return name + "".join(draw(gap()) + word for word in words) + "\n"


def json_array(words: Sequence[str]) -> str:
    return json.dumps(words, ensure_ascii=len(words) % 2 == 0)


def config_after(text: str) -> ImageConfig:
    return plan(f"FROM docker.io/library/base\n{text}").result.config


@settings(deadline=None)  # the machine may be busy
@given(st.data(), PAIRS, st.sampled_from(["ENV", "LABEL"]))
def test_variables_and_labels_are_read_back(data: st.DataObject, pairs: dict[str, str], name: str) -> None:
    words = [f"{key}={data.draw(quoted(value))}" for key, value in pairs.items()]
    config = config_after(data.draw(written(name, words)))
    found = config.variables() if name == "ENV" else dict(config.labels)
    assert {key: found[key] for key in pairs} == pairs


@settings(deadline=None)  # the machine may be busy
@given(st.data(), PAIRS)
def test_arguments_reach_commands(data: st.DataObject, pairs: dict[str, str]) -> None:
    words = [f"{key}={data.draw(quoted(value))}" for key, value in pairs.items()]
    text = data.draw(written("ARG", words)) + "RUN x"
    (step,) = plan(f"FROM docker.io/library/base\n{text}").result.steps
    assert isinstance(step.action, RunCommand)
    assert step.action.env[2:] == tuple(f"{key}={value}" for key, value in pairs.items())


@settings(deadline=None)  # the machine may be busy
@given(st.data(), ARGV, st.sampled_from(["CMD", "ENTRYPOINT", "SHELL"]))
def test_arrays_are_read_back(data: st.DataObject, argv: tuple[str, ...], name: str) -> None:
    config = config_after(data.draw(written(name, [json_array(argv)])))
    assert {"CMD": config.command, "ENTRYPOINT": config.entrypoint, "SHELL": config.shell}[name] == argv


@settings(deadline=None)  # the machine may be busy
@given(st.data(), ARGV)
def test_a_command_in_the_exec_form_is_read_back(data: st.DataObject, argv: tuple[str, ...]) -> None:
    (step,) = plan(f"FROM scratch\n{data.draw(written('RUN', [json_array(argv)]))}").result.steps
    assert isinstance(step.action, RunCommand)
    assert step.action.command == argv


@settings(deadline=None)  # the machine may be busy
@given(st.data(), LINES, st.sampled_from(["EOF", "END-OF", "x_1", "é"]), st.booleans())
def test_here_documents_are_read_back(data: st.DataObject, lines: list[str], name: str, tabs: bool) -> None:
    lines = [line for line in lines if line != name]
    content = "".join(f"{line}\n" for line in lines)
    body = "".join(f"\t{line}\n" for line in lines) + f"\t{name}\n" if tabs else f"{content}{name}\n"
    opening = f"<<{'-' if tabs else ''}{data.draw(st.sampled_from([repr(name), json.dumps(name, ensure_ascii=False)]))}"
    copy = data.draw(written("COPY", [opening, "/target"]))
    run = data.draw(written("RUN", [opening]))
    steps = plan(f"FROM scratch\n{copy}{body}{run}{body}USER last").result.steps
    copied, ran, last = steps
    assert isinstance(copied.action, CopyFiles)
    assert [(item.name, item.content) for item in copied.action.documents] == [(name, content)]
    assert isinstance(ran.action, RunCommand)
    if content.startswith("#!"):
        assert ran.action.script == content
    else:
        assert ran.action.command == ("/bin/sh", "-c", content)
    assert last.config.user == "last"


@settings(deadline=None)  # the machine may be busy
@given(st.data(), st.lists(PATH, min_size=1, max_size=3), PATH)
def test_a_copy_is_read_back(data: st.DataObject, sources: list[list[str]], target: list[str]) -> None:
    words = [*("/".join(source) for source in sources), "/" + "/".join(target) + "/"]
    words = [json_array(words)] if data.draw(st.booleans()) else words
    (step,) = plan(f"FROM scratch\n{data.draw(written('COPY', words))}").result.steps
    assert step.action == CopyFiles(
        sources=tuple("/".join(source) for source in sources), target="/" + "/".join(target) + "/"
    )


@settings(deadline=None)  # the machine may be busy
@given(st.data(), st.lists(PATH, min_size=1, max_size=4))
def test_working_directories_follow_each_other(data: st.DataObject, paths: list[list[str]]) -> None:
    text = "".join(data.draw(written("WORKDIR", ["/".join(path)])) for path in paths)
    result = plan(f"FROM scratch\n{text}").result
    expected = "/" + "/".join("/".join(path) for path in paths)
    assert result.config.cwd == expected
    assert result.steps[-1].action == MakeDirectory(expected)


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.sampled_from("RUN COPY <<E\nE\n\"'\\$[{]}=-#\tx`éFROM scratch\n"), max_size=80))
def test_any_text_gives_a_plan_or_diagnostics_with_places_in_it(text: str) -> None:
    whole = f"FROM scratch\n{text}"
    try:
        plan(whole)
    except SpecError as error:
        lines = whole.split("\n")
        for item in error.diagnostics:
            described = item.as_dict()
            if described["line"] is not None:
                assert described["source_line"] == lines[int(str(described["line"])) - 1]
                assert 1 <= int(str(described["column"])) <= len(str(described["source_line"])) + 1
            assert described["hint"]


@pytest.mark.parametrize("depth", [10, 200_000])
def test_an_array_that_is_nested_is_no_command_in_the_exec_form(depth: int) -> None:
    text = "[" * depth + "]" * depth
    if depth > 10:
        assert config_after(f"CMD {text}").command == ("/bin/sh", "-c", text)
    else:
        with pytest.raises(SpecError, match="not a string"):
            config_after(f"CMD {text}")


def test_all_mistakes_are_reported_at_once_but_not_more_than_a_hundred() -> None:
    with pytest.raises(SpecError) as caught:
        parse(b"FROM scratch\n" + b"RUNN x\n" * 500, "f")
    assert len(caught.value.diagnostics) == 100
