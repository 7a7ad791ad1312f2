"""What changes the key of a step, and what does not."""

from __future__ import annotations

import re

import pytest

from sandbox.images.build.cache_key import base_key, step_key
from sandbox.images.build.plan import BuildPlan
from tests.unit.sandbox.images.build.planning import plan

START = base_key(("sha256:" + "0" * 64,), "linux/amd64")
STEPS = """\
FROM scratch
ARG A=1
ENV B=2
WORKDIR /w
USER u
RUN make
COPY --chown=1:2 --chmod=0644 a b /d/
COPY <<X /x
text
X
"""


def keys(found: BuildPlan, inputs: str = "digest") -> list[str]:
    result, key = [], START
    for step in found.result.steps:
        key = step_key(key, step, inputs)
        result.append(key)
    return result


def test_a_key_is_the_same_for_the_same_step() -> None:
    assert keys(plan(STEPS)) == keys(plan(STEPS))
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys(plan(STEPS)))


def test_keys_of_steps_that_change_files_differ() -> None:
    found = keys(plan(STEPS))
    assert len(set(found)) == len(found) - 1  # USER changes no file
    assert found[2] == found[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A=1", "A=2"),
        ("B=2", "B=3"),
        ("/w", "/x"),
        ("USER u", "USER v"),
        ("make", "make -j2"),
        ("make", "--network=host make"),
        ("1:2", "1:3"),
        ("0644", "0600"),
        ("a b", "a c"),
        ("/d/", "/e/"),
        ("text", "texts"),
        ("COPY <<X /x", "COPY <<X /y"),
        ("FROM scratch", 'FROM scratch\nSHELL ["bash"]'),
        ("make", "<<Y\n#!make\nY"),
    ],
)
def test_a_change_of_what_a_step_does_changes_the_last_key(old: str, new: str) -> None:
    changed = STEPS.replace(old, new)
    assert changed != STEPS
    assert keys(plan(changed))[-1] != keys(plan(STEPS))[-1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RUN make", "# a comment\nRUN \\\n make"),
        ("RUN make", "LABEL a=b\nCMD x\nEXPOSE 1\nRUN make"),
        ("RUN make", "run make"),
        ("ARG A=1\nENV B=2", "ENV B=2\nARG A=1"),
    ],
)
def test_a_change_of_anything_else_keeps_the_last_key(old: str, new: str) -> None:
    changed = STEPS.replace(old, new)
    assert changed != STEPS
    assert keys(plan(changed))[-1] == keys(plan(STEPS))[-1]


def test_a_proxy_is_not_part_of_a_key() -> None:
    assert keys(plan(STEPS, {"http_proxy": "p"})) == keys(plan(STEPS))


def test_inputs_and_base_are_part_of_a_key() -> None:
    assert keys(plan(STEPS), "other")[-1] != keys(plan(STEPS))[-1]
    bases = [
        base_key(layers, platform)
        for layers in ((), ("a",), ("b",), ("a", "b"), ("ab",))
        for platform in ("x", "y")
    ]
    assert len(set(bases)) == len(bases)


def test_parts_of_a_key_cannot_be_mistaken_for_each_other() -> None:
    texts = ('RUN ["a", "b"]', 'RUN ["a b"]', 'RUN ["a", "b", ""]', "RUN a b", 'RUN ["a\\", \\"b"]')
    found = {keys(plan(f"FROM scratch\n{text}"))[-1] for text in texts}
    assert len(found) == len(texts)
