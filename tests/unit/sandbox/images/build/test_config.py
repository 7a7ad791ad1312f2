"""The configuration of an image: JSON in, steps, JSON out. It comes from others and may have any form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.build.config import SCRATCH, Health, ImageConfig, read_config, write_config
from sandbox.images.build.durations import parse_duration
from sandbox.images.build.instructions import HealthTimes
from sandbox.images.build.ports import parse_ports
from tests.unit.sandbox.images.build.planning import plan

WHOLE = {
    "User": "1:2",
    "ExposedPorts": {"80/tcp": {}},
    "Env": ["A=1", "B=a=b"],
    "Entrypoint": ["e"],
    "Cmd": ["c"],
    "Volumes": {"/v": {}},
    "WorkingDir": "/w",
    "Labels": {"z": "1", "a": "2"},
    "StopSignal": "SIGINT",
    "Shell": ["/bin/bash", "-c"],
    "OnBuild": ["RUN x"],
    "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5_000_000, "Retries": 3},
}


def test_a_configuration_is_read_and_written_back() -> None:
    config = read_config(WHOLE, "image")
    assert config.health == Health(("CMD", "x"), HealthTimes(interval=5_000_000, retries=3))
    assert write_config(config, {}) == WHOLE


def test_unknown_keys_of_the_base_are_kept() -> None:
    base = {"Memory": 5, "ArgsEscaped": True, "User": "x"}
    assert write_config(ImageConfig(user="y"), base) == {"Memory": 5, "User": "y"}


def test_null_is_as_good_as_nothing() -> None:
    assert read_config(dict.fromkeys(WHOLE), "image") == ImageConfig()
    assert read_config({"Cmd": [], "Entrypoint": []}, "image") == ImageConfig()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("User", 1),
        ("User", "a\0b"),
        ("Env", "A=1"),
        ("Env", [1]),
        ("Env", {"A": "1"}),
        ("Cmd", "sh"),
        ("Entrypoint", [["a"]]),
        ("ExposedPorts", ["80"]),
        ("Labels", [1]),
        ("Labels", {"a": 1}),
        ("Volumes", "x"),
        ("Healthcheck", "x"),
        ("Healthcheck", {"Test": ["CMD"], "Interval": "5s"}),
        ("Healthcheck", {"Test": ["CMD"], "Retries": -1}),
        ("Healthcheck", {"Test": ["CMD"], "Retries": 1 << 70}),
        ("OnBuild", {}),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ImageError, match=f"quay.io/x: malformed configuration: {key}|Test"):
        read_config({key: value}, "quay.io/x")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), JSON, max_size=4))
def test_any_object_is_read_or_refused(config: dict[str, object]) -> None:
    try:
        found = read_config(config, "image")
    except ImageError:
        return
    assert read_config(write_config(found, config), "image") == found


def test_a_variable_keeps_its_position_and_gets_the_new_value() -> None:
    config = read_config({"Env": ["A=1", "B=2", "A=3"]}, "image")
    assert config.env == ("A=3", "B=2")
    assert config.with_env([("C", "4"), ("A", "5")]).env == ("A=5", "B=2", "C=4")


@pytest.mark.parametrize(
    ("text", "entrypoint", "command"),
    [
        ("", ("base-entry",), ("base",)),
        ('CMD ["c"]', ("base-entry",), ("c",)),
        ('ENTRYPOINT ["e"]', ("e",), None),
        ('CMD ["c"]\nENTRYPOINT ["e"]', ("e",), ("c",)),
        ('ENTRYPOINT ["e"]\nCMD ["c"]', ("e",), ("c",)),
        ("ENTRYPOINT e x", ("/bin/sh", "-c", "e x"), None),
        ('SHELL ["bash", "-c"]\nCMD c', ("base-entry",), ("bash", "-c", "c")),
        ("CMD []", ("base-entry",), None),
        ("ENTRYPOINT []", None, None),
        ('CMD ["c"]\nFROM a\nENTRYPOINT ["e"]', ("e",), None),
    ],
)
def test_an_entrypoint_drops_the_command_of_the_base(
    text: str, entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None
) -> None:
    head = 'FROM scratch AS base\nENTRYPOINT ["base-entry"]\nCMD ["base"]\nFROM base AS a\n'
    config = plan(head + text).result.config
    assert (config.entrypoint, config.command) == (entrypoint, command)


def test_an_image_without_base_has_a_path() -> None:
    assert plan("FROM scratch").result.config == SCRATCH
    assert SCRATCH.env[0].startswith("PATH=/usr/local/sbin:")
    assert ImageConfig(env=("A=1",)).as_base().env == ("A=1", *SCRATCH.env)
    assert ImageConfig(env=("PATH=",)).as_base().env == ("PATH=",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ("80/tcp",)),
        ("53/UDP", ("53/udp",)),
        ("8000-8002/sctp", ("8000/sctp", "8001/sctp", "8002/sctp")),
        ("65535", ("65535/tcp",)),
        *(
            (text, None)
            for text in ("", "0", "65536", "2-1", "80/", "/tcp", "a", "80:80", "-1", "1-", "٣", "80/tcp ")
        ),
    ],
)
def test_ports_are_parsed_or_refused(text: str, expected: tuple[str, ...] | None) -> None:
    assert parse_ports(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1s", 10**9),
        ("1m30s", 90 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("1.000000001s", 10**9 + 1),
        ("300ms", 3 * 10**8),
        ("1us1µs1ns", 2001),
        ("9223372036854775807ns", 2**63 - 1),
        *(
            (text, None)
            for text in (
                "",
                "1",
                "s",
                "1 s",
                "-1s",
                "1d",
                "1.s",
                ".5s",
                "9223372036854775808ns",
                "1" * 80 + "s",
                "٣s",
            )
        ),
    ],
)
def test_durations_are_parsed_or_refused(text: str, expected: int | None) -> None:
    assert parse_duration(text) == expected
