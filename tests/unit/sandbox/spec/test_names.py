"""Test `sandbox.spec.names`: signals and capabilities."""

from __future__ import annotations

import signal

import pytest

from sandbox.spec.names import CAPABILITIES, parse_capability, parse_signal, signal_number


@pytest.mark.parametrize("text", ["NET_RAW", "CAP_NET_RAW", "net_raw", "cap_net_raw"])
def test_a_capability_is_known_with_and_without_prefix_in_any_case(text: str) -> None:
    assert parse_capability(text) == "CAP_NET_RAW"


@pytest.mark.parametrize("text", ["all", "ALL"])
def test_all_stands_for_every_capability(text: str) -> None:
    assert parse_capability(text) == "all"


@pytest.mark.parametrize("text", ["", "CAP_", "RAW", "CAP_ALL", "NET RAW"])
def test_an_unknown_capability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown capability"):
        parse_capability(text)


def test_the_capabilities_are_those_of_the_kernel_header_in_its_order() -> None:
    assert len(CAPABILITIES) == 41  # CAP_CHECKPOINT_RESTORE is 40, the last one since Linux 5.9
    assert [
        CAPABILITIES.index(name) for name in ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SETFCAP", "CAP_BPF")
    ] == [0, 21, 31, 39]


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [
        ("SIGTERM", "SIGTERM", 15),
        ("term", "SIGTERM", 15),
        ("INT", "SIGINT", 2),
        ("SIGRTMIN", "SIGRTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", "SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("rtmax-1", "SIGRTMAX-1", signal.SIGRTMAX - 1),
    ],
)
def test_a_signal_is_known_by_its_name(text: str, name: str, number: int) -> None:
    assert parse_signal(text) == name
    assert signal_number(name) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "15", "SIGTRM", "SIGRTMIN-1", "SIGRTMAX+1", "SIGRTMIN+99", "SIG_IGN"]
)
def test_an_unknown_signal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown signal"):
        parse_signal(text)
    with pytest.raises(ValueError, match="unknown signal"):
        signal_number(text)
