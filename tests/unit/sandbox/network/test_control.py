"""The messages between the supervisor and the network process."""

from __future__ import annotations

import socket

import pytest

from sandbox.network import control
from sandbox.network.names import Member

MESSAGES: list[control.Event | control.Command] = [
    control.Ready([8080, 53], [4711]),
    control.Refused(
        "example.org:80", "no rule has this name", 'network.egress.allow = ["example.org:80"]', 3
    ),
    control.Counts(1, 2, 3, 4),
    control.Failed("listen", 98, "Address already in use"),
    control.SetMembers.of("backend", [Member("web", "10.0.0.2", ("www",)), Member("db", "10.0.0.3")]),
    control.SetResolvers(["9.9.9.9"]),
    control.RequestCounts(),
]


def test_every_message_arrives_as_it_was_sent_and_then_the_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for message in MESSAGES:
            assert control.send(ours, message)
        ours.close()
        assert [control.receive(theirs) for _ in MESSAGES] == MESSAGES
        assert control.receive(theirs) is None


def test_members_are_unchanged() -> None:
    members = [Member("web", "10.0.0.2", ("www",)), Member("db", "10.0.0.3")]
    assert control.SetMembers.of("backend", members).values() == members


def test_a_message_that_nobody_reads_is_dropped_without_waiting() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        while control.send(ours, control.RequestCounts(), wait=False):
            pass
        assert isinstance(control.receive(theirs), control.RequestCounts)


def test_two_thousand_members_fit_into_one_message() -> None:
    members = [
        Member(f"member-{number}", f"10.0.{number // 250}.{number % 250}", (f"m{number}",))
        for number in range(2000)
    ]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert control.send(ours, control.SetMembers.of("backend", members))
        found = control.receive(theirs)
        assert isinstance(found, control.SetMembers)
        assert found.values() == members


def test_the_end_of_the_other_side_is_an_error_for_the_sender() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.close()
        with pytest.raises(BrokenPipeError):
            control.send(ours, control.RequestCounts())


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"7", b'["Unknown", {}]', b'["Counts", {"x": 1}]', b'["Counts", 7]', b"[" * 9999, b"\xff"],
)
def test_a_malformed_message_is_a_value_error(data: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(data)
        with pytest.raises(ValueError, match=r"."):
            control.receive(theirs)
