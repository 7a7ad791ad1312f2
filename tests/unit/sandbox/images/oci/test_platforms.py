"""Platforms are named as in Go, and ordered as containerd orders them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.oci.platforms import Platform, of_machine

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)


@given(st.builds(Platform, os=NAMES, architecture=NAMES, variant=NAMES | st.just("")))
def test_a_normalized_platform_is_read_as_it_is_written(platform: Platform) -> None:
    normal = platform.normalized()
    assert normal.normalized() == normal
    assert Platform.parse(str(normal)) == normal
    assert next(platform.substitutes()) == normal


@given(st.builds(Platform, os=NAMES, architecture=NAMES, variant=NAMES))
def test_substitutes_are_normalized_and_different(platform: Platform) -> None:
    found = [str(each) for each in platform.substitutes()]
    assert len(found) == len(set(found))
    assert found == [str(Platform.parse(each)) for each in found]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("i686", "linux/386"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("ppc64le", "linux/ppc64le"),
        ("s390x", "linux/s390x"),
        ("riscv64", "linux/riscv64"),
        ("loongarch64", "linux/loong64"),
    ],
)
def test_machines_have_the_names_of_go(machine: str, expected: str) -> None:
    assert str(of_machine(machine)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64 linux/386"),
        ("linux/amd64/v3", "linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386"),
        ("linux/386", "linux/386"),
        ("linux/arm64", "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/aarch64/8", "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        (
            "linux/arm64/v9",
            (
                "linux/arm64/v9 linux/arm64/v8.5 linux/arm64/v8.4 linux/arm64/v8.3 linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64"
                " linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"
            ),
        ),
        ("linux/arm", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm/7", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("armhf", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/armel", "linux/arm/v6 linux/arm/v5"),
        ("riscv64", "linux/riscv64"),
    ],
)
def test_a_machine_runs_earlier_variants_too(text: str, expected: str) -> None:
    assert " ".join(map(str, Platform.parse(text).substitutes())) == expected


@pytest.mark.parametrize(
    "text", ["", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "linux/\u00e4", "x" * 65]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="is not a platform"):
        Platform.parse(text)
