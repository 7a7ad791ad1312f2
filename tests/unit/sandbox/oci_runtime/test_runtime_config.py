"""The configuration of a bundle has what the image demands (image-spec, conversion.md), and else what a sandbox has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.images.oci.image_config import ImageConfig, ProcessDefaults
from sandbox.images.oci.platforms import Platform
from sandbox.kernel.capabilities import DEFAULT
from sandbox.kernel.idmaps import IdMap
from sandbox.oci_runtime.runtime_config import BundleOptions, ProcessUser, runtime_config

ROOT = ProcessUser(uid=0, gid=0)
SINGLE = (IdMap(inside=0, outside=1000, count=1),)
MANY = (*SINGLE, IdMap(inside=1, outside=100_000, count=65_535))


def image(process: ProcessDefaults | None = None, **fields: Any) -> ImageConfig:
    platform = fields.pop("platform", Platform(os="linux", architecture="amd64"))
    return ImageConfig(platform=platform, diff_ids=(), process=process or ProcessDefaults(), **fields)


def config(
    process: ProcessDefaults | None = None,
    user: ProcessUser = ROOT,
    options: BundleOptions | None = None,
    **fields: Any,
) -> dict[str, Any]:
    return runtime_config(image(process, **fields), user, options or BundleOptions())


def mount(document: dict[str, Any], destination: str) -> dict[str, Any]:
    [found] = [each for each in document["mounts"] if each["destination"] == destination]
    return found


def test_fields_of_the_image_are_taken_as_they_are() -> None:
    process = ProcessDefaults(
        env=("A=b=c", "PATH=/bin", "EMPTY="), entrypoint=("/e", ""), cmd=("c", "d"), working_dir="/work"
    )
    found = config(process)["process"]
    assert found["args"] == ["/e", "", "c", "d"]
    assert found["env"] == ["A=b=c", "PATH=/bin", "EMPTY="]
    assert found["cwd"] == "/work"
    assert found["user"] == {"uid": 0, "gid": 0}


def test_what_the_image_lacks_has_defaults() -> None:
    found = config(ProcessDefaults(env=("NOVALUE", "=x"), working_dir="relative"))["process"]
    assert found["args"] == ["sh"]
    assert found["env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert found["cwd"] == "/relative"
    assert config()["process"]["cwd"] == "/"


def test_annotations_are_those_of_the_specification_and_labels_have_precedence() -> None:
    prefix = "org.opencontainers.image."
    process = ProcessDefaults(
        stop_signal="SIGINT",
        exposed_ports=("443/tcp", "80/tcp"),
        labels={"mine": "", f"{prefix}author": "label", "": "no key"},
    )
    found = config(
        process,
        platform=Platform(
            os="linux", architecture="arm", variant="v7", os_version="1", os_features=("a", "b")
        ),
        author="field",
        created="2024-01-01T00:00:00Z",
    )
    assert found["annotations"] == {
        f"{prefix}os": "linux",
        f"{prefix}architecture": "arm",
        f"{prefix}variant": "v7",
        f"{prefix}os.version": "1",
        f"{prefix}os.features": "a,b",
        f"{prefix}author": "label",
        f"{prefix}created": "2024-01-01T00:00:00Z",
        f"{prefix}stopSignal": "SIGINT",
        f"{prefix}exposedPorts": "443/tcp,80/tcp",
        "mine": "",
    }


def test_the_program_has_the_default_capabilities_and_another_user_than_root_none() -> None:
    names = sorted(f"CAP_{name}" for name in DEFAULT)
    assert config()["process"]["capabilities"] == {"bounding": names, "effective": names, "permitted": names}
    user = ProcessUser(uid=1, gid=2, groups=(3, 4))
    found = config(user=user)["process"]
    assert found["capabilities"] == {"bounding": names, "effective": [], "permitted": []}
    assert found["user"] == {"uid": 1, "gid": 2, "additionalGids": [3, 4]}
    assert found["noNewPrivileges"] is True


def test_without_maps_there_is_no_user_namespace_and_devices_are_denied() -> None:
    found = config()
    kinds = {each["type"] for each in found["linux"]["namespaces"]}
    assert kinds == {"pid", "network", "ipc", "uts", "mount", "cgroup"}
    assert "uidMappings" not in found["linux"]
    assert found["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert mount(found, "/sys/fs/cgroup")["options"][-1] == "ro"


@pytest.mark.parametrize(("ids", "terminal_group"), [(SINGLE, False), (MANY, True)])
def test_with_maps_nothing_needs_rights_on_the_host(ids: tuple[IdMap, ...], terminal_group: bool) -> None:
    found = config(options=BundleOptions(uid_map=ids, gid_map=ids))
    assert {"type": "user"} in found["linux"]["namespaces"]
    expected = [{"containerID": each.inside, "hostID": each.outside, "size": each.count} for each in ids]
    assert found["linux"]["uidMappings"] == found["linux"]["gidMappings"] == expected
    assert "resources" not in found["linux"]
    assert not [each for each in found["mounts"] if each["type"] == "cgroup"]
    assert ("gid=5" in mount(found, "/dev/pts")["options"]) is terminal_group


def test_masked_paths_have_no_patterns_which_runtimes_do_not_know() -> None:
    linux = config()["linux"]
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert not [path for path in linux["maskedPaths"] + linux["readonlyPaths"] if "*" in path]


def test_options_are_taken() -> None:
    found = config(options=BundleOptions(hostname="h", terminal=True, read_only=True))
    assert (found["hostname"], found["process"]["terminal"], found["root"]["readonly"]) == ("h", True, True)
    json.dumps(found)
