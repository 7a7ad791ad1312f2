"""Id maps in the plan, on machines with and without subordinate ids, and the refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.errors import SpecError
from sandbox.host.facts import HostFacts, IdHelper
from sandbox.kernel.idmaps import IdMap, SubidRange
from sandbox.plan import describe
from sandbox.spec.values import User
from tests.unit.sandbox.facts import host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
KEEP = ROOT + '[ids]\nmap = "keep-id"\n'
MISSING = IdHelper(path=None, problem="newuidmap is not installed")
CONTAINER = (IdMap(inside=0, outside=5000, count=1000),)


def explicit(uids: str, gids: str | None = None, more: str = "") -> str:
    return f"{ROOT}[ids]\nuid_map = [{uids}]\ngid_map = [{gids or uids}]\n{more}"


def given(inside: int, outside: int, count: int) -> str:
    return f"{{ inside = {inside}, outside = {outside}, count = {count} }}"


def refusal(text: str, facts: HostFacts | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        plan(text, facts)
    return str(caught.value)


def test_keep_id_gives_the_user_its_own_number_and_the_program_runs_as_it() -> None:
    made = plan(KEEP)
    assert made.ids.uid_map == (
        IdMap(inside=0, outside=100000, count=1000),
        IdMap(inside=1000, outside=1000, count=1),
        IdMap(inside=1001, outside=101000, count=64535),
    )
    assert made.ids.helpers == ("/usr/bin/newuidmap", "/usr/bin/newgidmap")
    assert (made.ids.single, made.ids.setgroups, made.ids.root) == (False, True, (100000, 100000))
    assert made.process.user == User(1000, 1000)


@pytest.mark.parametrize("user", ["0", '"root"', '"1000:5"', '"www-data"'])
def test_user_of_the_file_wins_over_that_of_keep_id(user: str) -> None:
    made = plan(f"{KEEP}[process]\nuser = {user}\n")
    assert made.process.user != User(1000, 1000)


def test_keep_id_without_subordinate_ids_is_refused_with_the_remedy() -> None:
    text = refusal(KEEP, host(uid_ranges=()))
    assert (
        '/specs/test.toml:4:7: ids.map: "keep-id" is not possible: /etc/subuid has no range for user' in text
    )
    assert "`sandbox doctor` names the command" in text


def test_keep_id_of_root_is_refused() -> None:
    text = refusal(KEEP, host(uid=0, gid=0))
    assert "root of the sandbox would be root of this machine" in text
    assert "start the sandbox as an ordinary user" in text


@pytest.mark.parametrize("facts", [host(uid_ranges=()), host(uid=0, gid=0)])
def test_keep_id_that_may_go_unenforced_is_a_warning_and_the_program_is_root(facts: HostFacts) -> None:
    made = plan(f'{KEEP}optional = ["map"]\n', facts)
    assert len(made.warnings) == 1
    assert made.process.user == User(0)
    assert made.ids.root == ((1000, 1000) if facts.uid else (1878982656, 1878982656))


def test_keep_id_of_root_of_a_container_is_what_auto_is() -> None:
    ranges = (SubidRange(start=100, count=50),)
    facts = host(
        uid=0, gid=0, own_uid_map=CONTAINER, own_gid_map=CONTAINER, uid_ranges=ranges, gid_ranges=ranges
    )
    assert plan(KEEP, facts).ids == plan(ROOT, facts).ids


def test_single_id_of_root_is_nobodys() -> None:
    ids = plan(ROOT + '[ids]\nmap = "single"\n', host(uid=0, gid=0)).ids
    assert ids.uid_map == ids.gid_map == (IdMap(inside=0, outside=1878982656, count=1),)
    assert (ids.single, ids.setgroups) == (True, True)


def test_explicit_map_is_planned_as_it_is_written() -> None:
    text = explicit(f"{given(0, 1000, 1)}, {given(500, 100100, 10)}", given(0, 100000, 65536))
    ids = plan(text).ids
    assert ids.uid_map == (
        IdMap(inside=0, outside=1000, count=1),
        IdMap(inside=500, outside=100100, count=10),
    )
    assert ids.gid_map == (IdMap(inside=0, outside=100000, count=65536),)
    assert ids.helpers == ("/usr/bin/newuidmap", "/usr/bin/newgidmap")
    assert (ids.single, ids.setgroups) == (False, True)


def test_explicit_map_of_the_own_id_takes_no_helper() -> None:
    facts = host(newuidmap=MISSING, newgidmap=MISSING, uid_ranges=(), gid_ranges=())
    ids = plan(explicit(given(0, 1000, 1)), facts).ids
    assert (ids.helpers, ids.single, ids.setgroups) == (None, True, False)


def test_explicit_map_of_more_needs_the_helper() -> None:
    text = refusal(explicit(given(0, 100000, 1)), host(newuidmap=MISSING))
    assert "/specs/test.toml:4:11: ids.uid_map: newuidmap is not installed" in text
    assert "install uidmap" in text


@pytest.mark.parametrize(
    ("inside", "outside", "count", "shown"),
    [
        (1, 0, 1, "0 may"),
        (1, 99999, 2, "99999-100000 may"),
        (1, 165535, 2, "165535-165536 may"),
        (1, 1001, 1, "1001 may"),
        (1, 999, 2, "999-1000 may"),
    ],
)
def test_ids_that_the_account_may_not_map_are_refused_at_their_place(
    inside: int, outside: int, count: int, shown: str
) -> None:
    text = refusal(explicit(f"{given(0, 100001, 1)}, {given(inside, outside, count)}", given(0, 100000, 1)))
    assert f"/specs/test.toml:4:57: ids.uid_map[1]: {shown} not be mapped by this account" in text
    assert (
        "your own id alone, or lie within one line for your account in /etc/subuid: 1000 and 100000-165535"
        in text
    )


def test_range_over_two_lines_of_subuid_is_refused_as_newuidmap_does() -> None:
    lines = (SubidRange(start=100000, count=10), SubidRange(start=100010, count=10))
    assert "100000-100019 may not be mapped" in refusal(
        explicit(given(0, 100000, 20)), host(uid_ranges=lines)
    )


def test_root_may_map_any_id_and_root_of_a_container_those_it_has() -> None:
    assert plan(explicit(given(0, 0, 4294967294)), host(uid=0, gid=0)).ids.root == (0, 0)
    inner = host(uid=0, gid=0, own_uid_map=CONTAINER, own_gid_map=CONTAINER)
    assert plan(explicit(given(0, 500, 500)), inner).ids.helpers is None
    text = refusal(explicit(given(0, 500, 501)), inner)
    assert "500-1000 may not be mapped" in text
    assert "the ids of this user namespace are 0-999" in text


def test_explicit_map_that_may_go_unenforced_is_a_warning() -> None:
    text = explicit(given(0, 7, 1), more='optional = ["uid_map", "gid_map"]\n')
    made = plan(text)
    assert made.ids == plan(ROOT).ids
    assert made.warnings == ("not enforced: ids.uid_map, ids.gid_map: 7 may not be mapped by this account",)


def test_explicit_map_is_not_dropped_with_the_other_unless_it_may_go_unenforced_too() -> None:
    text = explicit(given(0, 1000, 1), given(0, 7, 1), more='optional = ["gid_map"]\n')
    assert "ids.uid_map: can be used only together with ids.gid_map" in refusal(text)
    made = plan(text.replace('["gid_map"]', '["uid_map", "gid_map"]'))
    assert made.ids == plan(ROOT).ids
    assert [difference.key for difference in made.differences] == ["ids.gid_map", "ids.uid_map"]


def test_groups_are_refused_where_no_group_but_the_own_is_mapped() -> None:
    text = refusal(explicit(given(0, 100000, 5), given(0, 1000, 1), "[process]\ngroups = [0]\n"))
    assert "process.groups: setgroups(2) is denied if only your own group is mapped" in text


def test_ids_outside_of_an_explicit_map_are_refused_and_those_there_are_named() -> None:
    ids = explicit(f"{given(0, 100000, 5)}, {given(50, 100050, 1)}")
    text = refusal(ids + '[process]\nuser = "5:49"\ngroups = [50, 51]\n')
    assert "process.user: user 5 does not exist in the sandbox" in text
    assert "the sandbox has users 0-4 and 50" in text
    assert "process.groups[1]: group 51 does not exist in the sandbox" in text
    assert "the sandbox has groups 0-4 and 50" in text


def test_groups_of_root_stay_where_an_outer_namespace_denies_to_set_them() -> None:
    one = (IdMap(inside=0, outside=1000, count=1),)
    inner = host(
        uid=0, gid=0, own_uid_map=one, own_gid_map=one, uid_ranges=(), gid_ranges=(), setgroups=False
    )
    assert not plan(ROOT, inner).ids.setgroups
    assert plan(ROOT, replace(inner, setgroups=True)).ids.setgroups


@pytest.mark.parametrize(
    ("process", "groups"),
    [
        ("", ()),
        ("user = 33", ()),
        ('user = "33"', ()),
        ('user = "web"', None),
        ('user = "web:adm"', ()),  # as docker does
        ('user = "web"\ngroups = []', ()),
        ('user = "web"\ngroups = [5, "adm"]', (5, "adm")),
        ('groups = ["adm"]', ("adm",)),
    ],
)
def test_user_by_name_alone_has_the_groups_that_list_it(process: str, groups: object) -> None:
    made = plan(ROOT + f"[process]\n{process}\n")
    assert made.process.groups == groups
    told = {
        None: "user web with the groups that /etc/group lists,",
        (5, "adm"): "user web with groups 5 adm,",
    }
    if groups in told:
        assert any(line.startswith(told[groups]) for line in describe(made))  # type: ignore[index]
    else:
        assert not any("/etc/group" in line for line in describe(made))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (explicit(given(0, 100000, 40), given(0, 1000, 1), '[process]\nuser = "web"\n'), host()),
        (ROOT + '[ids]\nmap = "single"\n[process]\nuser = "root"\n', host()),
        (ROOT + '[ids]\nmap = "single"\n[process]\nuser = "root"\n', host(uid=0, gid=0)),
    ],
    ids=["denied", "single", "single of root"],
)
def test_groups_that_list_the_user_are_left_where_none_can_be_set(text: str, facts: HostFacts) -> None:
    assert plan(text, facts).process.groups == ()


def test_group_names_where_no_group_but_the_own_is_mapped_are_refused() -> None:
    text = refusal(explicit(given(0, 100000, 5), given(0, 1000, 1), '[process]\ngroups = ["adm"]\n'))
    assert "process.groups: setgroups(2) is denied if only your own group is mapped" in text


def test_plan_knows_where_every_group_stands() -> None:
    made = plan(ROOT + '[process]\ngroups = [5, "adm"]\n')
    assert made.places["process.groups[1]"] == "/specs/test.toml:4:14"
