"""Digests are read by the grammar of the specification, and data is compared with them while it streams."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.oci.digest import Digest, Verifier


@given(st.sampled_from(["sha256", "sha512"]), st.binary(max_size=64))
def test_a_digest_is_read_as_it_is_written(algorithm: str, content: bytes) -> None:
    text = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    assert str(Digest.parse(text)) == text
    assert algorithm == "sha512" or Digest.of(content) == Digest.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "sha256:" + "a" * 128,
        "sha1:" + "a" * 40,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:../../../../etc/" + "a" * 44,
        "sha256:" + "\u0661" * 64,  # an Arabic digit
        " sha256:" + "a" * 64,
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a sha256 or sha512 digest"):
        Digest.parse(text)


@given(st.lists(st.binary(max_size=20), max_size=6), st.sampled_from(["sha256", "sha512"]))
def test_the_expected_data_passes_in_any_pieces(pieces: list[bytes], algorithm: str) -> None:
    content = b"".join(pieces)
    verifier = Verifier(Digest(algorithm, hashlib.new(algorithm, content).hexdigest()), len(content), "x")
    for piece in pieces:
        verifier.update(memoryview(piece))
    verifier.finish()
    assert verifier.seen == len(content)


@given(st.binary(min_size=1, max_size=20), st.data())
def test_a_blob_with_another_digest_is_refused(content: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content) - 1))
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    verifier = Verifier(Digest.of(content), len(content), "image x")
    verifier.update(changed)
    with pytest.raises(ImageError, match=f"image x: blob {Digest.of(content)} has the digest sha256:"):
        verifier.finish()


def test_a_blob_of_another_size_is_refused_before_all_of_it_is_taken() -> None:
    verifier = Verifier(Digest.of(b"abc"), 3, "x")
    verifier.update(b"ab")
    with pytest.raises(ImageError, match="has 2 bytes instead of 3"):
        verifier.finish()
    with pytest.raises(ImageError, match="has more than its 3 bytes"):
        verifier.update(b"cd")
