"""The footer of a layer is written as podman writes it, and that of a hostile layer gives no annotations."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.images.chunked.footer import SIZE, Footer, Table, annotations_of

NUMBERS = st.integers(0, (1 << 64) - 1)
TABLES = st.builds(Table, NUMBERS, NUMBERS, NUMBERS)


@given(TABLES, TABLES)
def test_a_footer_is_decoded_again(toc: Table, split: Table) -> None:
    frame = Footer(toc, split).encode()
    assert len(frame) == SIZE == 72
    assert Footer.decode(frame) == Footer(toc, split)
    # containers/storage, footerDataToBlob: the type is the fourth number, and the magic ends the frame
    assert struct.unpack("<7Q8s", frame[8:])[3] == 1
    assert frame.endswith(b"GNUlInUx")


@given(st.binary(max_size=80))
def test_other_bytes_are_no_footer(frame: bytes) -> None:
    assert Footer.decode(frame) is None


def stated(tmp_path: Path, content: bytes) -> dict[str, str]:
    path = tmp_path / "blob"
    path.write_bytes(content)
    with open(path, "rb") as file:
        return annotations_of(file.fileno())


@pytest.mark.parametrize(
    ("toc", "split"),
    [
        (Table(8, 101, 5), Table(0, 0, 0)),  # into the footer
        (Table(7, 5, 5), Table(0, 0, 0)),  # without room for the header of its frame
        (Table(8, 0, 0), Table(0, 0, 0)),
        (Table(1 << 63, 5, 5), Table(0, 0, 0)),
        (Table(8, (1 << 64) - 1, 5), Table(0, 0, 0)),
        (Table(8, 5, 5), Table(50, 100, 5)),
        (Table(8, 5, 5), Table(0, 1, 5)),
    ],
)
def test_places_outside_of_the_layer_give_no_annotations(toc: Table, split: Table, tmp_path: Path) -> None:
    assert stated(tmp_path, bytes(108) + Footer(toc, split).encode()) == {}
    assert stated(tmp_path, bytes(108) + Footer(Table(8, 100, 5), Table(8, 100, 5)).encode())


@pytest.mark.parametrize("content", [b"", b"x", bytes(71), bytes(72), bytes(500)])
def test_a_blob_without_a_footer_has_no_annotations(content: bytes, tmp_path: Path) -> None:
    assert stated(tmp_path, content) == {}
