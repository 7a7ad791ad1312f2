"""The messages between the processes of a sandbox."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from sandbox.runtime.messages import (
    Channel,
    ChannelError,
    FuseMounted,
    InitStarted,
    Mapped,
    SetupFailed,
    Started,
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


def test_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    message = SetupFailed("mount proc", "mount", 1, "not permitted", "/proc", "a hint")
    one.send(message)
    assert other.receive() == message


def test_messages_keep_their_order_and_their_bounds(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(InitStarted(7))
    one.send(Started())
    assert other.expect(InitStarted).pid == 7
    assert other.receive() == Started()


def test_message_of_any_size_arrives(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    # Escaped in JSON, the path is six times as long.
    message = SetupFailed("open", "open", 36, "name too long", "/\N{SNOWMAN}" * 50_000)
    reader, writer = os.pipe()
    sender = threading.Thread(target=lambda: one.send(message, writer))
    sender.start()
    assert other.receive() == message
    sender.join()
    os.close(other.take_fd())
    one.send(Started())
    assert other.receive() == Started()
    os.close(reader)
    os.close(writer)


def test_other_side_that_ends_within_a_message_is_gone() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(other)
    one.send(b'+["Started"')
    one.close()
    assert channel.receive() is None
    channel.close()


def test_descriptor_comes_with_its_message_and_is_not_inherited(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    reader, writer = os.pipe()
    one.send(FuseMounted(), writer)
    os.close(writer)
    other.expect(FuseMounted)
    received = other.take_fd()
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(received)
    os.close(reader)


def test_descriptor_that_nobody_took_is_closed_with_the_channel() -> None:
    one, other = Channel.pair()
    reader, writer = os.pipe()
    one.send(FuseMounted(), writer)
    other.receive()
    os.close(writer)
    other.close()
    assert os.read(reader, 1) == b""
    os.close(reader)
    one.close()


def test_unexpected_message_says_what_was_expected_and_what_came(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Started())
    with pytest.raises(ChannelError, match="expected Mapped, received Started"):
        other.expect(Mapped)


def test_end_of_the_other_side_is_no_message(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.close()
    assert other.receive() is None
    with pytest.raises(ChannelError, match="expected Mapped, received the end"):
        other.expect(Mapped)


def test_descriptor_for_which_there_is_no_room_is_an_error_of_that_name(
    ends: tuple[Channel, Channel],
) -> None:
    one, other = ends
    one.send(FuseMounted(), one.fileno())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            other.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
