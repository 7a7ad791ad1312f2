"""Id maps: parsing subordinate ranges, computing maps, and writing them without a namespace."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.kernel import idmaps
from sandbox.kernel.idmaps import IdMap, SubidRange

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

SUBUID = """\
# a comment
alice:200000:65536
bob:300000:65536

2000:400000:10
alice:500000:1000
alice:broken
alice:x:65536
alice:600000:0
alice:-5:10
"""


def test_ranges_are_found_by_name_and_by_number_in_the_order_of_the_file():
    assert idmaps.parse_subid(SUBUID, 2000, "alice") == [
        SubidRange(start=200000, count=65536),
        SubidRange(start=400000, count=10),
        SubidRange(start=500000, count=1000),
    ]


def test_an_account_without_a_name_is_found_by_its_number_only():
    assert idmaps.parse_subid(SUBUID, 2000, None) == [SubidRange(start=400000, count=10)]


def test_an_account_that_is_not_listed_has_no_ranges():
    assert idmaps.parse_subid(SUBUID, 7, "carol") == []


def test_the_automatic_map_puts_root_on_the_own_id_and_fills_up_to_65536_ids():
    assert idmaps.auto_map(2000, [SubidRange(start=200000, count=65536)]) == (
        IdMap(inside=0, outside=2000, count=1),
        IdMap(inside=1, outside=200000, count=65535),
    )


def test_several_small_ranges_follow_each_other_inside():
    ranges = [SubidRange(start=200000, count=100), SubidRange(start=500000, count=50)]
    assert idmaps.auto_map(2000, ranges)[1:] == (
        IdMap(inside=1, outside=200000, count=100),
        IdMap(inside=101, outside=500000, count=50),
    )


def test_a_range_that_holds_the_own_id_is_cut_around_it():
    assert idmaps.auto_map(1005, [SubidRange(start=1000, count=10)]) == (
        IdMap(inside=0, outside=1005, count=1),
        IdMap(inside=1, outside=1000, count=5),
        IdMap(inside=6, outside=1006, count=4),
    )


def test_without_ranges_the_automatic_map_is_the_single_one():
    assert idmaps.auto_map(2000, []) == idmaps.single_map(2000) == (IdMap(inside=0, outside=2000, count=1),)


ids = st.integers(0, 300)
ranges = st.lists(st.builds(SubidRange, start=ids, count=st.integers(1, 100)), max_size=6)


@given(ids, ranges, st.integers(1, 200))
def test_every_automatic_map_is_one_that_the_kernel_takes(own, given_ranges, size):
    entries = idmaps.auto_map(own, given_ranges, size)
    inside = [number for entry in entries for number in range(entry.inside, entry.inside + entry.count)]
    outside = [number for entry in entries for number in range(entry.outside, entry.outside + entry.count)]
    allowed = {own} | {
        number for entry in given_ranges for number in range(entry.start, entry.start + entry.count)
    }
    assert inside == list(range(min(size, len(allowed))))
    assert len(set(outside)) == len(outside)
    assert set(outside) <= allowed
    assert outside[0] == own


@given(ids, ranges, st.integers(1, 200))
def test_every_map_that_keeps_the_id_is_one_that_the_kernel_takes(own, given_ranges, size):
    entries = idmaps.keep_id_map(own, given_ranges, size)
    inside = [number for entry in entries for number in range(entry.inside, entry.inside + entry.count)]
    outside = [number for entry in entries for number in range(entry.outside, entry.outside + entry.count)]
    subordinate = {
        number for entry in given_ranges for number in range(entry.start, entry.start + entry.count)
    } - {own}
    assert idmaps.lookup(entries, own) == own
    others = [number for number in inside if number != own]
    free = [number for number in range(size) if number != own]
    assert others == free[: len(subordinate)]
    assert len(set(outside)) == len(outside)
    assert set(outside) <= subordinate | {own}
    if own == 0:
        assert entries == idmaps.auto_map(own, given_ranges, size)


@given(ids, ranges, ids, st.integers(1, 50))
def test_a_map_within_another_leads_to_the_same_ids(own, given_ranges, start, count):
    outer = idmaps.auto_map(own, given_ranges)
    wanted = (IdMap(inside=5, outside=start, count=count),)
    inner = idmaps.through(outer, wanted)
    there = {number for entry in outer for number in range(entry.outside, entry.outside + entry.count)}
    if inner is None:
        assert not set(range(start, start + count)) <= there
        return
    for number in range(count):
        inside_outer = idmaps.lookup(inner, 5 + number)
        assert inside_outer is not None
        assert idmaps.lookup(outer, inside_outer) == start + number
    assert sum(entry.count for entry in inner) == count


@given(ids, ranges)
def test_what_newuidmap_writes_is_the_own_id_alone_or_within_one_line(own, given_ranges):
    entries = (*idmaps.auto_map(own, given_ranges), IdMap(inside=9000, outside=9000, count=1))
    assert idmaps.not_subordinate(entries, own, given_ranges) == [len(entries) - 1]


@given(ids, ranges)
def test_what_a_map_shows_reads_back_as_the_same_map(own, given_ranges):
    entries = idmaps.auto_map(own, given_ranges)
    text = "".join(f"{entry.inside:>10} {entry.outside:>10} {entry.count:>10}\n" for entry in entries)
    assert idmaps.parse_map(text) == entries


def test_root_s_map_leaves_real_root_out():
    (entry,) = idmaps.root_map()
    assert (entry.inside, entry.outside, entry.count) == (0, 1878982656, 65536)
    assert idmaps.lookup([entry], 0) == 1878982656


def test_looking_up_an_id_that_the_map_lacks_gives_none():
    entries = idmaps.auto_map(2000, [SubidRange(start=200000, count=10)])
    assert [idmaps.lookup(entries, number) for number in (0, 1, 10, 11)] == [2000, 200000, 200009, None]


def test_a_container_of_few_ids_does_not_cover_root_s_range():
    small = (IdMap(inside=0, outside=100000, count=65536),)
    assert not idmaps.covers(small, idmaps.root_map())
    assert idmaps.covers(small, idmaps.single_map(0))
    assert idmaps.covers((IdMap(inside=0, outside=0, count=2**32 - 1),), idmaps.root_map())


def test_a_map_that_spans_two_entries_of_the_outer_one_is_covered():
    outer = (IdMap(inside=0, outside=2000, count=1), IdMap(inside=1, outside=200000, count=9))
    assert idmaps.covers(outer, (IdMap(inside=0, outside=0, count=10),))
    assert not idmaps.covers(outer, (IdMap(inside=0, outside=0, count=11),))


@pytest.fixture
def fake_proc(tmp_path: pathlib.Path) -> pathlib.Path:
    """A simulated /proc with one process, whose map files are regular files."""
    directory = tmp_path / "12"
    directory.mkdir()
    for name in ("uid_map", "gid_map", "setgroups"):
        (directory / name).write_text("")
    return tmp_path


def test_whole_maps_are_written_directly_without_denying_setgroups(fake_proc):
    entries = (IdMap(inside=0, outside=5, count=1), IdMap(inside=1, outside=100, count=9))
    idmaps.write_maps(12, entries, entries, proc_root=str(fake_proc))
    assert (fake_proc / "12/uid_map").read_text() == "0 5 1\n1 100 9"
    assert (fake_proc / "12/gid_map").read_text() == "0 5 1\n1 100 9"
    assert (fake_proc / "12/setgroups").read_text() == ""


def test_an_ordinary_user_s_single_id_denies_setgroups_first(fake_proc, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 2000)
    idmaps.write_maps(12, idmaps.single_map(2000), idmaps.single_map(2000), proc_root=str(fake_proc))
    assert (fake_proc / "12/setgroups").read_text() == "deny"
    assert (fake_proc / "12/uid_map").read_text() == "0 2000 1"


def test_an_empty_map_is_refused():
    with pytest.raises(ValueError, match="at least one entry"):
        idmaps.write_maps(12, (), idmaps.single_map(0))


def test_a_process_that_is_gone_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        idmaps.write_maps(12, idmaps.single_map(0), idmaps.single_map(0), proc_root=str(tmp_path))


@pytest.fixture
def helper(tmp_path: pathlib.Path) -> Callable[[str, str], str]:
    """Return a function that creates programs that replace newuidmap."""

    def make(name: str, body: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\nimport sys, os\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_helpers_get_the_pid_and_all_numbers(helper, tmp_path):
    log = tmp_path / "log"
    body = f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"
    entries = idmaps.auto_map(2000, [SubidRange(start=200000, count=65536)])
    idmaps.write_maps(77, entries, entries, newuidmap=helper("u", body), newgidmap=helper("g", body))
    assert log.read_text() == "77 0 2000 1 1 200000 65535\n" * 2


def test_what_a_failing_helper_said_is_in_the_error(helper):
    bad = helper("u", "sys.stderr.write('newuidmap: uid range [0-1) not allowed\\n'); sys.exit(1)")
    with pytest.raises(OSError, match=r"uid range \[0-1\) not allowed") as caught:
        idmaps.write_maps(77, idmaps.single_map(0), idmaps.single_map(0), newuidmap=bad, newgidmap=bad)
    assert caught.value.errno == errno.EPERM
    assert caught.value.filename == f"{bad} 77 0 0 1"


def test_a_helper_that_ends_silently_is_reported_with_its_status(helper):
    bad = helper("u", "sys.exit(3)")
    with pytest.raises(OSError, match="ended with status 3"):
        idmaps.write_maps(77, idmaps.single_map(0), idmaps.single_map(0), newuidmap=bad, newgidmap=bad)


def test_a_helper_that_is_not_there_is_file_not_found():
    with pytest.raises(FileNotFoundError):
        idmaps.write_maps(
            77, idmaps.single_map(0), idmaps.single_map(0), newuidmap="/nowhere/u", newgidmap="/nowhere/g"
        )
