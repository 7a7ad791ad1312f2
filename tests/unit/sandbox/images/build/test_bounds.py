"""Files that are made to cost time or memory are planned or refused in little of both."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from sandbox.errors import ImageError, SpecError
from sandbox.images.build.config import MAX_ENTRIES, MAX_PORTS, read_config
from sandbox.images.build.source_text import MAX_SIZE
from tests.unit.sandbox.images.build.planning import plan

SECONDS = 20
BYTES = 200 << 20


def filled(head: str, unit: str, tail: str = "") -> str:
    """Return *head*, as many *unit* as a file may have, and *tail*."""
    return head + unit * ((MAX_SIZE - len(head) - len(tail)) // len(unit)) + tail


FILES = {
    "words": (filled("FROM scratch\nARG", " a"), None),
    "flags": (filled("FROM scratch\nRUN", " --a=b"), "has no flag"),
    "variables": (
        f"FROM scratch\nENV {' '.join(f'a{n}=b' for n in range(50_000))}",
        "more than 1000 environment",
    ),
    "labels": (f"FROM scratch\nLABEL {' '.join(f'a{n}=b' for n in range(50_000))}", "more than 1000 labels"),
    "arguments": (
        f"FROM scratch\nARG {' '.join(f'a{n}=b' for n in range(50_000))}",
        "more than 1000 arguments",
    ),
    "volumes": (f"FROM scratch\nVOLUME {' '.join(f'/{n}' for n in range(50_000))}", "more than 1000 volumes"),
    "ports": (filled("FROM scratch\nEXPOSE", " 1-16384"), "more than 16384 ports"),
    "triggers": (filled("FROM scratch\n", "ONBUILD ", "RUN x"), "cannot record ONBUILD"),
    "here-documents": (f"FROM scratch\nRUN x{' <<A' * 60_000}\n{'A' + chr(10)}" + "A\n" * 59_999, None),
    "open here-documents": (filled("FROM scratch\nRUN x", " <<A"), "is not closed"),
    "continuations": (filled("FROM scratch\nRUN a", "b\\\n"), None),
    "comments": (filled("FROM scratch\nRUN a\\\n", "#\n"), None),
    "nested variables": (filled("FROM scratch\nLABEL a=", "${a:-"), "nested more than 50 levels"),
    "quotes": (filled("FROM scratch\nLABEL a=", '""'), None),
    "elements": (filled("FROM scratch\nCMD [", '"",', '""]'), None),
    "values": (f"FROM scratch\nENV A={'x' * 100_000}\n" + "LABEL a=$A\n" * 900, "expand to more than"),
    "wildcards": (f"FROM scratch\nCOPY {'*a' * 2000} b\n", None),
    "environments": (
        f"FROM scratch\nENV {' '.join(f'a{n}=b' for n in range(990))}\n" + "ENV x=1\nRUN y\n" * 499,
        None,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_costs_little(name: str) -> None:
    text, message = FILES[name]
    start = time.process_time()
    if message is None:
        plan(text)
    else:
        with pytest.raises(SpecError, match=message):
            plan(text)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("name", ["environments", "values"])
def test_a_hostile_file_needs_little_memory(name: str) -> None:
    text, _ = FILES[name]
    tracemalloc.start()
    try:
        plan(text)
    except SpecError:
        assert name == "values"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BYTES


@pytest.mark.parametrize("key", ["Env", "Cmd", "OnBuild", "Labels", "Volumes", "ExposedPorts"])
def test_a_configuration_with_too_many_entries_is_refused(key: str) -> None:
    most = MAX_PORTS if key == "ExposedPorts" else MAX_ENTRIES

    def config(length: int) -> dict[str, object]:
        names = [f"{number}" for number in range(length)]
        if key in {"Env", "Cmd", "OnBuild"}:
            return {key: names}
        return {key: dict.fromkeys(names, "" if key == "Labels" else {})}

    read_config(config(most), "image")
    with pytest.raises(ImageError, match=f"image: its configuration has more than {most} entries in {key}"):
        read_config(config(most + 1), "image")
