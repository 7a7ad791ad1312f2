"""The root in the plan: when it can be a direct bind, without a server, and each reason why it cannot."""

from __future__ import annotations

import pytest

from sandbox.errors import HostError, SpecError
from sandbox.host.paths import PathFact
from sandbox.kernel.namespaces import NamespaceFact
from sandbox.plan import describe, fuse_problem, make_plan, may_need_no_server
from sandbox.plan.operations import BindRoot, MountRoot
from sandbox.spec.load import parse
from tests.unit.sandbox.explain.machines import USER_NAMESPACE
from tests.unit.sandbox.facts import PRIVATE, host, plan

TAR = {"/specs/a.tar": PathFact(path="/specs/a.tar", real="/specs/a.tar", kind="file", identity=(1, 3))}
ROOT = '[root]\nlayers = ["tar:a.tar"]\nwritable = "none"\n'
NONE = ROOT + 'server = "none"\n'
JOINED = {
    "user": NamespaceFact(path="/proc/9/ns/user", identity=USER_NAMESPACE.identity, user=USER_NAMESPACE)
}


def test_read_only_root_of_one_archive_is_bound_if_the_layer_allows_it() -> None:
    made = plan(ROOT, paths=TAR)
    assert made.operations[0] == BindRoot(nosuid=True, otherwise="serve")
    assert not [step for step in made.operations if isinstance(step, MountRoot)]
    assert made.server == "auto"
    assert (
        "bind the only layer on / [read-only nosuid nodev], or mount unionfs if the layer needs the server"
        in describe(made)
    )


def test_a_file_can_ask_for_that_and_have_it_or_no_start() -> None:
    made = plan(NONE, paths=TAR)
    assert made.operations[0] == BindRoot(nosuid=True, otherwise="refuse")
    assert made.places["root.server"] == "/specs/test.toml:4:10"
    assert {"server: none", "bind the only layer on / [read-only nosuid nodev]"} <= set(describe(made))
    made = plan(NONE + 'optional = ["server"]\n', paths=TAR)
    assert made.operations[0] == BindRoot(nosuid=True, otherwise="warn")


@pytest.mark.parametrize("server", ["direct", "pyfuse3"])
def test_a_server_that_is_named_serves(server: str) -> None:
    made = plan(ROOT + f'server = "{server}"\n', paths=TAR)
    assert made.operations[0] == MountRoot(read_only=True, nosuid=True)
    assert made.server == server


def test_set_id_programs_work_where_they_would_in_a_served_root() -> None:
    made = plan(ROOT + "[security]\nno_new_privileges = false\n", paths=TAR)
    assert made.operations[0] == BindRoot(nosuid=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROOT.replace('"none"', '"ephemeral"'), "a writable root needs the file system server"),
        (ROOT.replace('"none"', '"persistent"'), "a writable root needs the file system server"),
        (
            ROOT.replace('["', '["dir:/", "'),
            "there are 2 layers, and only the file system server can merge them",
        ),
        (ROOT.replace("tar:a.tar", "dir:/"), "no layer is an archive"),
        (ROOT + '[namespaces]\npid = "host"\n', "without its own pid namespace"),
        (
            ROOT + '[security.capabilities]\nadd = ["SYS_ADMIN"]\n',
            "with SYS_ADMIN the program could make the direct bind writable",
        ),
        (
            ROOT + '[namespaces]\nuser = "path:/proc/9/ns/user"\n',
            "root of the joined user namespace could make the direct bind writable",
        ),
    ],
)
def test_what_takes_a_server_has_one_and_is_refused_to_a_file_that_wants_none(text: str, reason: str) -> None:
    made = plan(text, paths=TAR, joined=JOINED)
    assert isinstance(made.operations[0], MountRoot)
    asked = text.replace("[root]\n", '[root]\nserver = "none"\n')
    with pytest.raises(SpecError, match=f"/specs/test.toml:2:10: root.server: {reason}"):
        plan(asked, paths=TAR, joined=JOINED)
    made = plan(asked.replace("[root]\n", '[root]\noptional = ["server"]\n'), paths=TAR, joined=JOINED)
    assert isinstance(made.operations[0], MountRoot)
    assert made.server == "auto"
    (difference,) = [item for item in made.differences if item.key == "root.server"]
    assert difference.reason.startswith(reason)


def test_fuse_is_needed_only_where_somebody_serves() -> None:
    without = host(fuse="missing")
    assert isinstance(plan(NONE, without, paths=TAR).operations[0], BindRoot)
    assert isinstance(plan(ROOT, without, paths=TAR).operations[0], BindRoot)
    assert isinstance(fuse_problem(without), HostError)
    with pytest.raises(HostError, match="/dev/fuse is missing"):
        plan(ROOT + 'server = "direct"\n', without, paths=TAR)


@pytest.mark.parametrize(
    ("text", "may"),
    [
        (ROOT, True),
        (NONE, True),
        (ROOT + 'server = "direct"\n', False),
        (ROOT.replace("tar:a.tar", "dir:/"), False),
        (ROOT.replace('["', '["dir:/", "'), False),
        (ROOT.replace('"none"', '"ephemeral"'), False),
    ],
)
def test_a_server_is_started_at_once_where_one_is_needed_for_sure(text: str, *, may: bool) -> None:
    spec = parse(text.encode(), path="/specs/test.toml", environ={})
    assert may_need_no_server(spec) == may
    if not may:
        facts = {**TAR, "/": PathFact(path="/", real="/", kind="directory", identity=(1, 2))}
        made = make_plan(spec, host(), facts, environ={}, state_directory="/state", private=PRIVATE)
        assert isinstance(made.operations[0], MountRoot)
