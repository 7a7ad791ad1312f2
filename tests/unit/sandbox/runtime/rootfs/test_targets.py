"""The resolution of targets through symbolic links of layers, with real directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.runtime.rootfs.targets import resolve


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[list[int]]:
    """Two layers, the topmost first."""
    for name in ("top", "bottom"):
        (tmp_path / name / "etc").mkdir(parents=True)
    found = [os.open(tmp_path / name, os.O_PATH) for name in ("top", "bottom")]
    yield found
    for fd in found:
        os.close(fd)


@pytest.mark.parametrize(
    ("link", "to", "path", "where"),
    [
        ("top/run", "/var/run", "/run/x/y", "/var/run/x/y"),
        ("bottom/run", "var/./run/", "/run/x", "/var/run/x"),
        ("top/etc/up", "../../../../x", "/etc/up/y", "/x/y"),
        ("top/self", "self", "/self/x", "/self/x"),
        ("bottom/etc/alias", "etc", "/etc/alias/x", "/etc/etc/x"),
        ("bottom/last", "/etc/end", "/last", "/etc/end"),
    ],
)
def test_links_lead_within_the_union(
    trees: list[int], tmp_path: Path, link: str, to: str, path: str, where: str
) -> None:
    (tmp_path / link).symlink_to(to)
    assert resolve(path, trees) == where


def test_what_lies_over_a_link_hides_it(trees: list[int], tmp_path: Path) -> None:
    (tmp_path / "bottom" / "way").symlink_to("/etc")
    (tmp_path / "top" / "way").mkdir()
    assert resolve("/way/x", trees) == "/way/x"


def test_links_of_several_layers_are_followed_one_after_the_other(trees: list[int], tmp_path: Path) -> None:
    (tmp_path / "bottom" / "one").symlink_to("two/in")
    (tmp_path / "top" / "two").symlink_to("/etc")
    (tmp_path / "bottom" / "etc" / "in").symlink_to("../end")
    assert resolve("/one/x", trees) == "/end/x"


def test_the_host_is_not_looked_at(trees: list[int], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "way").symlink_to("/leaked")
    (tmp_path / "top" / "out").symlink_to(f"{tmp_path}/outside")
    assert resolve("/out/way/x", trees) == f"{tmp_path}/outside/way/x"
