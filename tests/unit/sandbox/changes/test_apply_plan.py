"""A plan has the selected rows with what they need, all conflicts, marks, and steps in an order that works."""

from __future__ import annotations

import stat

import pytest

from sandbox.changes.apply_plan import Plan, Rules, make
from sandbox.changes.rows import Change, OldObject
from sandbox.changes.selection import is_at_or_below
from sandbox.changes.step_order import Action, staged_name
from sandbox.errors import SandboxError

TYPES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "socket": stat.S_IFSOCK}


def old(path: str, kind: str = "file", *, since: str = "same", layer: int = 0, ino: int = 7) -> OldObject:
    if since == "gone":
        return OldObject(path=path.encode(), since=since)
    return OldObject(
        path=path.encode(),
        since=since,
        layer=layer,
        ino=ino,
        mode=TYPES[kind] | 0o644,
        size=1,
        mtime=2,
        ctime=3,
    )


def row(text: str, kind: str = "file", **fields: object) -> Change:
    """Return a row from its text: ``A /path`` or ``R /from /path``; *fields* replace those that it has."""
    letter, *paths = text.split()
    values: dict[str, object] = {
        "kind": letter,
        "path": paths[-1].encode(),
        "type": kind,
        "size": 0,
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
    }
    if letter == "R":
        values["from_path"] = paths[0].encode()
    if letter in "CDR":
        values["old"] = old(paths[0], kind)
    return Change(**{**values, **fields})  # type: ignore[arg-type]


def d(text: str, **fields: object) -> Change:
    """Return the row of a directory."""
    return row(text, "directory", **fields)


def selected(rows: list[Change], *paths: str, exclude: tuple[str, ...] = ()) -> list[str]:
    plan = make(rows, Rules(paths=tuple(path.encode() for path in paths), exclude=exclude))
    return [f"{change.kind} {change.path.decode()}" for change in plan.changes]


def steps(plan: Plan) -> list[str]:
    """Return the steps as text."""
    return [
        " ".join(filter(None, (step.action.value, step.source.decode(), step.path.decode())))
        for step in plan.steps
    ]


# -- selection -------------------------------------------------------------------------------------

NEW_TREE = [d("A /new"), d("A /new/a"), row("A /new/a/f"), d("A /new/b"), row("A /new/b/g"), row("C /other")]


def test_without_paths_every_row_is_selected() -> None:
    assert len(selected(NEW_TREE)) == len(NEW_TREE)


def test_a_path_selects_what_is_at_and_below_it_with_the_new_directories_above() -> None:
    assert selected(NEW_TREE, "/new/a") == ["A /new", "A /new/a", "A /new/a/f"]
    assert selected(NEW_TREE, "/new/a/") == selected(NEW_TREE, "new/a")
    assert selected(NEW_TREE, "/ne", "/absent") == []
    assert selected(NEW_TREE, "/other", "/new/b/g") == ["A /new", "A /new/b", "A /new/b/g", "C /other"]
    assert selected(NEW_TREE, "/") == selected(NEW_TREE)


def test_a_pattern_excludes_a_path_and_all_below_it() -> None:
    for pattern in ("/new/a", "/new/a/", "a", "*/a", "/n?w/[a]"):
        assert selected(NEW_TREE, exclude=(pattern,)) == ["A /new", "A /new/b", "A /new/b/g", "C /other"], (
            pattern
        )
    assert selected(NEW_TREE, exclude=("*.pyc", "/f")) == selected(NEW_TREE)
    assert selected(NEW_TREE, "/new", exclude=("/new",)) == []


def test_names_that_are_not_utf_8_are_selected_and_excluded() -> None:
    rows = [row("A /x", path=b"/\xff/\xfe"), row("A /y")]
    assert len(make(rows, Rules(paths=(b"/\xff",))).changes) == 1
    assert len(make(rows, Rules(exclude=("/\udcff",))).changes) == 1


def test_a_path_with_dots_is_refused() -> None:
    with pytest.raises(SandboxError, match=r"/a/\.\./b"):
        make([], Rules(paths=(b"/a/../b",)))


def test_a_change_in_a_moved_directory_needs_the_move() -> None:
    rows = [d("R /a /b"), row("C /b/x", old=old("/a/x")), row("A /b/y"), row("C /c")]
    assert selected(rows, "/b/x") == ["R /b", "C /b/x"]
    assert selected(rows, "/b/y") == ["R /b", "A /b/y"]
    assert selected(rows, "/a") == ["R /b"]
    assert selected(rows, exclude=("/a",)) == ["C /c"]


def test_a_deleted_entry_of_a_moved_directory_is_known_by_its_old_and_its_new_path() -> None:
    rows = [d("R /a /b"), row("D /a/x"), row("D /z")]
    assert selected(rows, "/b") == selected(rows, "/a") == ["R /b", "D /a/x"]
    assert selected(rows, exclude=("/b/x",)) == selected(rows, exclude=("/a/x",)) == ["R /b", "D /z"]


def test_a_deleted_directory_needs_all_that_goes_out_of_it() -> None:
    rows = [d("D /a"), row("D /a/x"), d("D /a/b"), row("D /a/b/y"), row("R /a/b/z /z")]
    assert selected(rows, "/a/b") == ["D /a/b", "D /a/b/y", "R /z"]
    assert selected(rows, "/a/b/y") == ["D /a/b/y"]
    assert sorted(selected(rows, exclude=("/z",))) == ["D /a/b/y", "D /a/x"]
    assert sorted(selected(rows, exclude=("/a/b/y",))) == ["D /a/x", "R /z"]


def test_a_file_in_place_of_a_directory_needs_its_entries_to_go() -> None:
    rows = [row("C /a", old=old("/a", "directory")), row("D /a/x"), row("R /a/y /y")]
    assert sorted(selected(rows, exclude=("/y",))) == ["D /a/x"]
    assert sorted(selected([*rows, row("C /b")], "/a")) == ["C /a", "D /a/x", "R /y"]


def test_what_is_in_a_directory_that_was_a_file_needs_that_directory() -> None:
    rows = [d("C /a", old=old("/a")), row("A /a/x")]
    assert selected(rows, "/a/x") == ["C /a", "A /a/x"]
    assert selected([d("C /a"), row("A /a/x")], "/a/x") == ["A /a/x"]


def test_an_object_in_place_of_one_that_moved_needs_that_move() -> None:
    rows = [row("R /a /b"), row("A /a"), row("R /c /d"), row("R /d /c")]
    assert selected(rows, "/a") == ["R /b", "A /a"]
    assert selected(rows, exclude=("/b",)) == ["R /d", "R /c"]
    assert selected(rows, "/c") == ["R /d", "R /c"]
    assert selected(rows, exclude=("/c",)) == ["R /b", "A /a"]


def test_a_moved_directory_needs_what_it_replaces_to_go() -> None:
    rows = [
        d("R /a /b", replaced=(old("/b", "directory"), old("/b/same", "directory"))),
        row("D /b/x"),
        row("D /b/same/y"),
        row("D /z"),
    ]
    assert sorted(selected(rows, "/a")) == ["D /b/same/y", "D /b/x", "R /b"]
    assert selected(rows, exclude=("/b/same/y",)) == ["D /b/x", "D /z"]


def test_rows_that_need_an_excluded_one_are_named() -> None:
    plan = make([d("A /new"), row("A /new/x"), d("D /a"), row("D /a/x")], Rules(exclude=("/a/x",)))
    assert plan.notices == ("/a: left out, because it needs an excluded path",)


def test_a_socket_is_left_out_with_a_notice_if_it_is_selected() -> None:
    rows = [row("A /s", "socket"), row("D /t", "socket"), row("R /u /v", "socket")]
    plan = make(rows, Rules())
    assert [change.path for change in plan.changes] == [b"/t", b"/v"]
    assert plan.notices == ("/s: a socket cannot be copied; it is left out",)
    assert make(rows, Rules(paths=(b"/t",))).notices == ()


# -- conflicts and marks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (row("C /x", old=old("/x", since="changed")), "it changed on the host since the sandbox first used it"),
        (row("D /x", old=old("/x", since="unknown")), "what it was when the sandbox first used it was not recorded"),
        (row("A /x", old=old("/x", since="gone")), "it is gone from the host since the sandbox first used it"),
        (row("C /x", old=old("/x", since="touched")), "its status changed on the host since the sandbox first used it"),
        (row("C /x", old=old("/x", layer=2)), "it is in lower layer 2, not in layer 0, which is written to"),
        (row("R /x /y", replaced=(old("/y", since="changed"),)), "it changed on the host since the sandbox first used it"),
    ],
)  # fmt: skip
def test_a_selected_row_whose_old_object_is_another_one_now_is_a_conflict(
    change: Change, reason: str
) -> None:
    [conflict] = make([change, row("C /z")], Rules()).conflicts
    assert conflict.change is change
    assert conflict.reason == reason
    assert conflict.text() == f"{'/y' if change.replaced else '/x'}: {reason}"
    assert make([change, row("C /z")], Rules(paths=(b"/z",))).conflicts == ()


def test_all_conflicts_are_found() -> None:
    rows = [row("C /a", old=old("/a", since="changed")), row("D /b", old=old("/b", layer=1)), row("C /c")]
    assert [conflict.path for conflict in make(rows, Rules()).conflicts] == [b"/a", b"/b"]


def test_the_layer_that_is_written_to_may_be_another_one() -> None:
    rows = [row("C /a", old=old("/a", layer=1)), row("C /b"), row("A /c")]
    assert [conflict.path for conflict in make(rows, Rules(layer=1)).conflicts] == [b"/b"]


def test_an_object_that_was_only_touched_is_no_conflict_if_the_caller_finds_it_unchanged() -> None:
    change = row("C /x", old=old("/x", since="touched"))
    asked: list[tuple[Change, OldObject]] = []

    def is_unchanged(*given: object) -> bool:
        asked.append(given)  # type: ignore[arg-type]
        return True

    assert make(
        [change, row("C /y", old=old("/y", since="changed"))], Rules(is_unchanged=is_unchanged)
    ).conflicts
    assert asked == [(change, change.old)]


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (row("A /x", mode=0o4755), ("set-user-ID",)),
        (row("C /x", mode=0o6755), ("set-user-ID", "set-group-ID")),
        (d("A /x", mode=0o2755), ()),
        (row("A /x", capabilities=True), ("capabilities",)),
        (row("A /x", "block-device"), ("device",)),
        (row("A /x", mode=0o666), ("writable for everybody",)),
        (d("A /x", mode=0o777), ("writable for everybody",)),
        (d("A /x", mode=0o1777), ()),
        (row("A /x", "symlink", mode=0o777), ()),
        (row("A /x", uid=5, gid=6), ("owner 5:6",)),
        (row("A /out/x"), ("outside your own directories",)),
        (row("R /out/x /x"), ("outside your own directories",)),
        (row("D /out/x", mode=0o4777, uid=5), ("outside your own directories",)),
        (row("D /x", mode=0o4777, uid=5), ()),
    ],
)  # fmt: skip
def test_what_deserves_a_second_look_is_marked(change: Change, reasons: tuple[str, ...]) -> None:
    rules = Rules(is_own=lambda path: not path.startswith(b"/out"), is_own_id=lambda uid, _gid: uid == 0)
    assert [mark.reasons for mark in make([change], rules).marks] == ([reasons] if reasons else [])


# -- steps -----------------------------------------------------------------------------------------


def test_the_steps_are_in_the_safe_order() -> None:
    rows = [
        d("C /"), d("A /a"), d("A /a/b"), row("A /a/b/f"), row("A /a/f"), d("C /c"), d("C /c/d"), d("D /d"),
        row("D /d/x"), row("C /f"), row("R /g /h"), row("C /h", old=old("/g")), d("R /i /j"), row("D /i/x"),
    ]  # fmt: skip
    plan = make(rows, Rules())
    assert steps(plan) == [
        "move g h", "move i j", "remove d/x", "remove j/x", "remove d", "make directory a", "make directory a/b",
        "write a/b/f", "write a/f", "write f", "write h",
        "set attributes c/d", "set attributes", "set attributes c",
    ]  # fmt: skip
    assert plan.members == (b"a", b"a/b", b"a/b/f", b"a/f", b"f", b"h", b"c/d", b"", b"c")


def test_moves_are_in_the_order_of_a_chain() -> None:
    assert steps(make([row("R /a /b"), row("R /b /c"), row("R /c /d")], Rules())) == [
        "move c d",
        "move b c",
        "move a b",
    ]


def test_two_that_swap_use_one_temporary_name() -> None:
    aside = staged_name(b"d/a").decode()
    assert steps(make([row("R /d/a /d/b"), row("R /d/b /d/a")], Rules())) == [
        f"move aside d/a d/{aside}",
        "move d/b d/a",
        f"move d/{aside} d/b",
    ]


def test_a_temporary_name_is_in_a_directory_that_no_step_touches() -> None:
    rows = [d("R /t/a /t/b"), d("R /t/b /t/b/in")]
    made = steps(make(rows, Rules()))
    aside = staged_name(b"t/b").decode()
    assert made == [f"move aside t/b t/{aside}", "move t/a t/b", f"move t/{aside} t/b/in"]
    rows = [d("R /p /q"), row("R /p/a /q/b"), row("R /p/b /q/a")]
    aside = staged_name(b"p/a").decode()
    assert steps(make(rows, Rules())) == [
        "move p q",
        f"move aside q/a {aside}",
        "move q/b q/a",
        f"move {aside} q/b",
    ]


def test_what_moves_out_of_a_deleted_directory_and_takes_its_place_moves_aside() -> None:
    rows = [d("R /y/c /y", replaced=(old("/y", "directory"),)), row("D /y/x"), row("D /y/c/z")]
    aside = staged_name(b"y/c").decode()
    assert steps(make(rows, Rules())) == [
        f"move aside y/c {aside}", "remove y/x", f"move {aside} y", "remove y/z",
    ]  # fmt: skip
    rows = [d("R /y/d/c /y", replaced=(old("/y", "directory"),)), row("D /y/x"), d("D /y/d")]
    aside = staged_name(b"y/d/c").decode()
    assert steps(make(rows, Rules())) == [
        "remove y/x", f"move aside y/d/c {aside}", "remove y/d", f"move {aside} y",
    ]  # fmt: skip


def test_a_moved_directory_waits_for_the_one_that_it_replaces_to_be_empty() -> None:
    rows = [
        d("R /x /y", replaced=(old("/y", "directory"), old("/y/d", "directory"), old("/y/d/f"))),
        row("D /y/d/g"),
        row("D /y/h"),
    ]
    assert steps(make(rows, Rules())) == [
        "remove y/d/f",
        "remove y/d/g",
        "remove y/d",
        "remove y/h",
        "move x y",
    ]


def test_a_file_that_a_directory_replaces_is_removed_before() -> None:
    rows = [d("R /x /y", replaced=(old("/y"),)), row("R /f /g", replaced=(old("/g"),))]
    assert steps(make(rows, Rules())) == ["move f g", "remove y", "move x y"]


def test_a_move_waits_for_the_new_directory_that_it_leads_to() -> None:
    rows = [d("A /new"), d("A /new/in"), row("R /a /new/in/a"), d("C /f", old=old("/f")), row("R /b /f/b")]
    assert steps(make(rows, Rules())) == [
        "make directory f", "move b f/b", "make directory new", "make directory new/in", "move a new/in/a",
    ]  # fmt: skip


def test_a_moved_object_is_found_where_moves_before_have_brought_it() -> None:
    rows = [d("R /a /b"), row("R /a/x /c"), row("D /a/y"), d("R /a/d /b/e"), row("D /a/d/z")]
    assert steps(make(rows, Rules())) == [
        "move a b",
        "move b/d b/e",
        "move b/x c",
        "remove b/e/z",
        "remove b/y",
    ]


def test_a_great_many_swaps_are_ordered_quickly() -> None:
    rows = []
    for number in range(3000):
        rows += [row(f"R /d/{number}a /d/{number}b"), row(f"R /d/{number}b /d/{number}a")]
    made = make(rows, Rules()).steps
    assert len(made) == 9000
    assert sum(step.action is Action.MOVE_ASIDE for step in made) == 3000
    chain = [row(f"R /{number} /{number + 1}") for number in range(5000)]
    assert [step.path for step in make(chain, Rules()).steps][:2] == [b"5000", b"4999"]


def test_paths_are_compared_by_components() -> None:
    assert is_at_or_below(b"a/b", b"a")
    assert is_at_or_below(b"a", b"")
    assert not is_at_or_below(b"ab", b"a")
