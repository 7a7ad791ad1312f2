"""Direct binds in the plan: their mount order, and the conditions under which they are refused."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.host.paths import PathFact
from sandbox.kernel.namespaces import NamespaceFact
from sandbox.plan import Degradation, describe
from sandbox.plan.operations import BuildDev, CheckVolumes, DirectBind, MountRoot, TmpfsVolume
from tests.unit.sandbox.explain.machines import USER_NAMESPACE
from tests.unit.sandbox.facts import plan

TAR = {"/specs/a.tar": PathFact(path="/specs/a.tar", real="/specs/a.tar", kind="file", identity=(1, 3))}
ROOT = '[root]\nlayers = ["dir:/", "tar:a.tar"]\nnative = ["/usr", "/opt/a"]\n'


def test_they_are_mounted_in_the_root_and_before_the_volumes() -> None:
    made = plan(ROOT + '[[volumes]]\ntype = "tmpfs"\ntarget = "/usr/local"\n', paths=TAR)
    kinds = [type(step) for step in made.operations]
    first = kinds.index(DirectBind)
    assert kinds.index(MountRoot) < kinds.index(BuildDev) < first
    assert made.operations[first : first + 3] == (
        DirectBind(target="/opt/a", key="root.native[1]"),
        DirectBind(target="/usr", key="root.native[0]"),
        TmpfsVolume(target="/usr/local", mode=0o1777),
    )
    assert CheckVolumes(targets=("/opt/a", "/usr", "/usr/local")) in made.operations
    assert made.places["root.native[1]"] == "/specs/test.toml:3:19"
    assert "bind /usr from the only layer that has it [read-only nosuid nodev]" in describe(made)


def test_set_id_programs_work_in_them_where_they_work_in_the_root() -> None:
    made = plan(ROOT + "[security]\nno_new_privileges = false\n", paths=TAR)
    assert DirectBind(target="/usr", nosuid=False, key="root.native[0]") in made.operations


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[root]\nlayers = ["dir:/"]\nnative = ["/usr"]\n', "no layer is an archive"),
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
def test_where_a_bind_would_give_too_much_it_is_refused_or_left_to_the_union(text: str, reason: str) -> None:
    joined = {
        "user": NamespaceFact(path="/proc/9/ns/user", identity=USER_NAMESPACE.identity, user=USER_NAMESPACE)
    }
    with pytest.raises(SpecError, match=f"/specs/test.toml:3:10: root.native: {reason}"):
        plan(text, paths=TAR, joined=joined)
    allowed = text.replace("native = ", 'optional = ["native"]\nnative = ')
    made = plan(allowed, paths=TAR, joined=joined)
    assert not [step for step in made.operations if isinstance(step, DirectBind)]
    (difference,) = [item for item in made.differences if item.key == "root.native"]
    assert isinstance(difference, Degradation)
    assert difference.effective is None
    assert difference.reason.startswith(reason)


def test_without_any_nothing_is_asked() -> None:
    made = plan('[root]\nlayers = ["dir:/"]\nnative = []\n[security.capabilities]\nadd = ["SYS_ADMIN"]\n')
    assert not [step for step in made.operations if isinstance(step, DirectBind)]
