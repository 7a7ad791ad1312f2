"""Layers, volumes and archives as values: references, pruning and display."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sandbox.lifecycle.kept_items import (
    FileReference,
    Inventory,
    KeptItem,
    Leftover,
    in_words,
    listing,
    short_names,
    space,
    sums,
    to_prune,
)

HERE, GONE = FileReference(file="/a.toml", exists=True), FileReference(file="/b.toml", exists=False)


def item(kind: Any = "layer", name: str = "x", **facts: Any) -> KeptItem:
    values: dict[str, Any] = {"kind": kind, "name": name, "path": f"/{name}", "bytes": 1024, "used": None}
    return KeptItem(**{**values, **facts})


@pytest.mark.parametrize("kind", ["layer", "volume"])
@pytest.mark.parametrize(
    ("files", "referenced"), [((), True), ((HERE,), True), ((GONE,), False), ((GONE, HERE), True)]
)
def test_data_is_unreferenced_if_files_are_known_and_all_are_gone(
    kind: str, files: tuple[FileReference, ...], referenced: bool
) -> None:
    assert item(kind, files=files).referenced is referenced


@pytest.mark.parametrize(
    ("facts", "referenced"),
    [
        ({}, False),
        ({"files": (HERE,)}, True),
        ({"files": (GONE,)}, False),
        ({"layers": ("db",)}, True),
        ({"layers": ("db",), "files": (HERE,), "current": False}, False),
        ({"in_use": ("run",), "current": False}, True),
    ],
)
def test_archive_is_referenced_if_a_start_may_find_it(facts: dict[str, Any], referenced: bool) -> None:
    assert item("archive", **facts).referenced is referenced


def test_what_is_in_use_is_referenced_whatever_became_of_its_files() -> None:
    assert item(files=(GONE,), in_use=("run",)).referenced


def test_data_is_pruned_only_if_that_is_asked_for() -> None:
    layer, archive, used = item(files=(GONE,)), item("archive", "y"), item("volume", "z")
    assert to_prune([layer, archive, used], data=False) == [archive]
    assert to_prune([layer, archive, used], data=True) == [layer, archive]


def test_names_of_archives_are_as_short_as_they_can_be() -> None:
    assert short_names(["0123456789abcdef", "0123456789xx", "ffffffffff", "short"]) == {
        "0123456789abcdef": "0123456789a",
        "0123456789xx": "0123456789x",
        "ffffffffff": "ffffffff",
        "short": "short",
    }


def test_kinds_in_words() -> None:
    assert in_words([]) == "nothing"
    assert in_words([item(), item(), item("volume")]) == "2 persistent layers and 1 named volume"
    assert in_words([item(), item("volume"), item("archive")]) == (
        "1 persistent layer, 1 named volume and 1 unpacked archive"
    )


def test_a_row_says_who_refers_to_a_thing() -> None:
    rows = [
        item(files=(HERE, GONE), in_use=("db-1 (pid 7)",)),
        item("archive", "0123", source=("/a.tar",), layers=("db",), current=False),
        item("volume", "v", bytes=None),
    ]
    assert [(row[0], row[1], row[3]) for row in listing(rows)] == [
        ("layer:x", "1.0 KiB", "in use by db-1 (pid 7), /a.toml, /b.toml (gone)"),
        ("archive:0123", "1.0 KiB", "/a.tar (changed after unpacking), layer:db"),
        ("volume:v", "?", "unknown"),
    ]


def test_sums_count_what_nobody_refers_to() -> None:
    found = sums(
        Inventory(
            items=(item(files=(GONE,)), item(), dataclasses.replace(item("archive"), bytes=None)),
            leftovers=(Leftover(path="/x", bytes=7),),
        )
    )
    assert [tuple(one.values()) for one in found] == [
        ("layer", 2, 2048, 1024),
        ("changes", 0, 0, 0),
        ("volume", 0, 0, 0),
        ("archive", 1, 0, 0),
        ("image", 0, 0, 0),
        ("leftover", 1, 7, 7),
    ]


@pytest.mark.parametrize(
    ("facts", "referenced"),
    [({}, True), ({"current": False}, False), ({"current": False, "in_use": ("layer:db",)}, True)],
)
def test_an_image_is_referenced_by_its_name_or_what_is_over_it(
    facts: dict[str, Any], referenced: bool
) -> None:
    image = item("image", **facts)
    assert image.referenced is referenced
    assert to_prune([image], data=False) == to_prune([image], data=True) == ([] if referenced else [image])


def test_what_images_share_counts_once() -> None:
    one = item("image", "one:1", bytes=30, parts={"base": 10, "own": 20})
    two = item("image", "two:1", bytes=15, parts={"base": 10, "other": 5}, current=False)
    assert space([one, two]) == 35
    assert space([one, item(bytes=7), item(bytes=None)]) == 37
    (images,) = [one for one in sums(Inventory(items=(one, two))) if one["kind"] == "image"]
    assert tuple(images.values()) == ("image", 2, 35, 15)


def test_a_row_of_an_image_has_its_source_and_its_users() -> None:
    rows = [
        item("image", "a:1"),
        item("image", "b:1", source=("oci:/lay",), in_use=("layer:db",)),
        item("image", "oci:/lay", source=("oci:/lay",), current=False),
    ]
    assert [(row[0], row[3]) for row in listing(rows)] == [
        ("image:a:1", "made here"),
        ("image:b:1", "in use by layer:db, oci:/lay"),
        ("image:oci:/lay", "oci:/lay (changed or gone)"),
    ]
