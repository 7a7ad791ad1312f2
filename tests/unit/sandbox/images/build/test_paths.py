"""Paths of COPY and their wildcards, and names of images."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.images.build.copy_paths import PathError, absolute, copy_source, copy_target, mode, owner
from sandbox.images.build.patterns import Pattern, PatternError, glob
from sandbox.images.build.references import UnknownImageError, image_source

DIGEST = "@sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".", ""),
        ("/", ""),
        ("./", ""),
        ("a", "a"),
        ("/a/", "a"),
        ("a//b/./c", "a/b/c"),
        ("a/../b", "b"),
        ("//a", "a"),
        ("...", "..."),
        ("..a", "..a"),
        ("a/*", "a/*"),
    ],
)
def test_a_source_is_relative_to_the_top(text: str, expected: str) -> None:
    assert copy_source(text) == expected


@pytest.mark.parametrize("text", ["..", "../a", "a/../..", "/..", "/../a", "a/../../b", "./.././a", "//../a"])
def test_a_source_outside_of_the_context_is_refused(text: str) -> None:
    with pytest.raises(PathError, match="leads out of the build context"):
        copy_source(text)


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.sampled_from("./a*"), max_size=12))
def test_no_source_leads_out_of_the_context(text: str) -> None:
    try:
        found = copy_source(text)
    except PathError:
        return
    assert not found.startswith("/")
    assert ".." not in found.split("/")


@pytest.mark.parametrize(
    ("text", "cwd", "expected"),
    [
        ("/a", "/w", "/a"),
        ("a", "/w", "/w/a"),
        ("a/", "/w", "/w/a/"),
        (".", "/w", "/w/"),
        ("./", "", "/"),
        ("..", "/w/x", "/w/"),
        ("../../..", "/w", "/"),
        ("/a/../b", "/w", "/b"),
        ("//a//b", "/", "/a/b"),
        ("a", "", "/a"),
        ("a", "relative", "/relative/a"),
        ("/", "/w", "/"),
    ],
)
def test_a_target_is_absolute(text: str, cwd: str, expected: str) -> None:
    assert copy_target(text, cwd) == expected


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.sampled_from("./a"), max_size=12), st.text(st.sampled_from("./a"), max_size=8))
def test_no_path_leads_out_of_the_root(text: str, cwd: str) -> None:
    found = absolute(text, cwd)
    assert found.startswith("/")
    assert not found.startswith("//")
    assert ".." not in found.split("/")


@pytest.mark.parametrize("text", ["0", "root", "1:2", "www-data:adm", "a.b_c-d$", "4294967294:0"])
def test_an_owner_is_accepted(text: str) -> None:
    assert owner(text) == text


@pytest.mark.parametrize("text", ["", ":", "a:", ":a", "a:b:c", "a b", "-a", "a/b", "a\n", "é"])
def test_an_owner_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PathError, match="is not a user"):
        owner(text)


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("755", 0o755), ("0644", 0o644), ("07777", 0o7777)])
def test_a_mode_is_octal(text: str, expected: int) -> None:
    assert mode(text) == expected


@pytest.mark.parametrize("text", ["", "8", "10000", "u+x", "-1", "0o7", "7 ", "000755"])
def test_a_mode_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PathError, match="is not a mode"):
        mode(text)


def names_in(tree: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the names of each directory of *tree* by its path."""
    found = {"": sorted(tree)}
    for name, inside in tree.items():
        if isinstance(inside, dict):
            found |= {f"{name}/{path}" if path else name: names for path, names in names_in(inside).items()}
    return found


TREE = names_in(
    {"a.c": 1, "b.c": 1, ".x": 1, "d": {"a.c": 1, "e": {"f": 1}}, "g": {"e": {"f": 1, "h": 1}}, "*": 1}
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.c", ["a.c", "b.c"]),
        ("*", ["*", ".x", "a.c", "b.c", "d", "g"]),
        ("\\*", ["*"]),
        ("*/e/f", ["d/e/f", "g/e/f"]),
        ("d/*", ["d/a.c", "d/e"]),
        ("[dg]/?/[^f]", ["g/e/h"]),
        ("**", ["*", ".x", "a.c", "b.c", "d", "g"]),
        ("*.nothing", []),
        ("", [""]),
        ("d//a*", ["d/a.c"]),
        ("missing", ["missing"]),
        ("a.c/*", []),
    ],
)
def test_wildcards_find_the_paths(pattern: str, expected: list[str]) -> None:
    assert glob(pattern, lambda path: TREE.get(path, [])) == expected


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.sampled_from("ab*?"), max_size=8), st.text(st.sampled_from("abc"), max_size=8))
def test_a_pattern_matches_as_fnmatch_does(pattern: str, name: str) -> None:
    assert Pattern(pattern).matches(name) is fnmatch.fnmatchcase(name, pattern)


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=12))
def test_any_pattern_matches_or_is_refused(pattern: str) -> None:
    try:
        found = Pattern(pattern, double_star=True)
    except PatternError:
        return
    found.matches_path_or_parent("a/b/c")


def test_a_pattern_that_backtracks_takes_linear_time() -> None:
    pattern = Pattern("*a" * 1000 + "b")
    start = time.process_time()
    assert not pattern.matches("a" * 4000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io/library/debian:13", "docker://docker.io/library/debian:13"),
        ("localhost/x", "docker://localhost/x"),
        ("localhost:5000/x/y", "docker://localhost:5000/x/y"),
        ("[::1]:5000/x", "docker://[::1]:5000/x"),
        (f"quay.io/a/b:tag{DIGEST}", f"docker://quay.io/a/b:tag{DIGEST}"),
        ("docker://quay.io/a", "docker://quay.io/a"),
        ("image:debian:13", "image:debian:13"),
        ("image:quay.io/a/b:1", "image:quay.io/a/b:1"),
        ("oci:./layout:tag", "oci:./layout:tag"),
        ("docker-archive:/x.tar", "docker-archive:/x.tar"),
        ("tar:root.tar", "tar:root.tar"),
        ("stored", "image:stored"),
        ("stored/two:1", "image:stored/two:1"),
    ],
)
def test_a_name_means_a_source(name: str, expected: str) -> None:
    assert image_source(name, ("stored", "stored/two:1").__contains__) == expected


@pytest.mark.parametrize(
    "name",
    [
        "debian",
        "a/b",
        "a/b/c:1",
        "UPPER",
        "docker.io/A",
        "quay.io/",
        "quay.io/a:",
        "quay.io/a@sha256:12",
        "docker://a/b",
        "docker://",
        "image:",
        "image:-x",
        "a b",
        "-x",
        "../x",
        "dir:/x",
        "tar:",
        "quay.io/a/../b",
        "x" * 600,
        "quay.io/a\n",
    ],
)
def test_any_other_name_is_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(UnknownImageError) as caught:
        image_source(name, lambda _name: False)
    assert caught.value.hint


def test_a_short_name_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UnknownImageError) as caught:
        image_source("debian:13", lambda _name: False)
    assert "docker://docker.io/library/debian:13" in caught.value.hint
    assert "image:debian:13" in caught.value.hint


@pytest.mark.parametrize("pattern", ["*" * 4096, "*?" * 2048, "?*" * 2048, "[^b/]*" * 600])
def test_many_wildcards_take_linear_time(pattern: str) -> None:
    start = time.process_time()
    assert not Pattern(pattern).matches("a" * 4000 + "/")
    assert time.process_time() - start < 4
