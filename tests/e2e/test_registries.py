"""`sandbox pull`, `push` and layers of registries, against Debian's docker-registry on loopback."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.images import base, change, check_store, layout, process, run, shown, spec, succeed
from tests.e2e.support import PATIENCE, PYTHON, Launcher, sandbox
from tests.support.podman import Podman
from tests.unit.sandbox.images.registry.certificates import make_authority, make_certificate
from tests.unit.sandbox.images.registry.clients import SECRET
from tests.unit.sandbox.images.registry.docker_registry import htpasswd, running
from tests.unit.sandbox.images.registry.tunnel import Tunnel

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.docker_registry, pytest.mark.umoci]

SMALL = "open('/data/small', 'w').write('small')"


@pytest.fixture
def host(launcher: Launcher) -> Iterator[str]:
    """Return the host of a registry with plain HTTP, which registries.conf permits."""
    with running(launcher.directory, requests=True) as found:
        permit(launcher, found)
        yield found


def permit(launcher: Launcher, host: str) -> None:
    """Let the launcher, skopeo and podman use plain HTTP for *host*."""
    conf = launcher.directory / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
    launcher.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    (launcher.directory / "auth.json").write_text("{}")
    launcher.environ["REGISTRY_AUTH_FILE"] = str(launcher.directory / "auth.json")


def imported(launcher: Launcher, more: bytes = b"") -> str:
    """Add an image of umoci to the store as base:1; return its digest."""
    image = layout(launcher.directory / "layout", base(launcher.directory / "base.tar", more=more))
    return str(succeed(launcher, "image", "import", f"oci:{image}", "base:1")["digest"])


def another(launcher: Launcher, name: str = "another") -> Launcher:
    """Return a launcher with an empty store and the same settings."""
    directory = launcher.directory / name
    directory.mkdir()
    other = Launcher(directory)
    settings = ("CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE")
    other.environ |= {key: launcher.environ[key] for key in settings}
    return other


def gets(launcher: Launcher, kind: str = "blobs") -> list[str]:
    """Return the digests of the blobs (tags and digests of the manifests) that the registry was asked for by GET."""
    log = (launcher.directory / "log").read_text()
    return re.findall(rf'"GET /v2/[^ "]+/{kind}/(\S+) HTTP', log)


def blobs(launcher: Launcher) -> list[Path]:
    return list((launcher.state / "images" / "blobs").glob("*/*"))


# -- push and pull -------------------------------------------------------------------------------------------


@pytest.mark.twice
@pytest.mark.skopeo
def test_a_pushed_image_keeps_its_digest_and_is_pulled_by_tag_and_digest(
    launcher: Launcher, host: str
) -> None:
    lower = imported(launcher)
    assert succeed(launcher, "push", "base:1", f"docker://{host}/team/base:1")["digest"] == lower
    change(launcher, spec("image:base:1"), SMALL)
    made = succeed(launcher, "commit", "box", "made:1")["digest"]
    assert succeed(launcher, "push", "image:made:1", f"docker://{host}/team/made:1")["digest"] == made
    raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{host}/team/made:1")
    stored = launcher.state / "images" / "blobs" / made.replace(":", "/")
    assert raw == stored.read_text()

    other = another(launcher)
    by_tag = succeed(other, "pull", f"docker://{host}/team/made:1")
    assert (by_tag["name"], by_tag["digest"]) == (f"{host}/team/made:1", made)
    before = gets(launcher)
    assert succeed(other, "pull", f"docker://{host}/team/made@{made}", "pinned:1")["digest"] == made
    assert set(gets(launcher)[len(before) :]) <= {json.loads(raw)["config"]["digest"]}  # no layer again
    look = spec("image:pinned:1", writable="ephemeral")
    assert shown(other, look) == shown(launcher, spec("image:made:1", name="look", writable="ephemeral"))
    for path in blobs(other):
        path.write_bytes(b"damaged")
    assert sandbox(other, "image", "verify").status == 1
    assert succeed(other, "pull", f"docker://{host}/team/made:1")["digest"] == made
    check_store(other)
    for name in (f"{host}/team/made:1", "pinned:1"):
        assert sandbox(other, "image", "rm", name).status == 0
    assert blobs(other) == []


@pytest.mark.once
def test_an_image_is_pushed_and_pulled_by_a_proxy_that_requires_a_password(
    launcher: Launcher, host: str
) -> None:
    lower = imported(launcher)
    permit(launcher, "registry.test")  # a name that no name server has
    secret = base64.b64encode(b"me:s3cret").decode()
    with Tunnel({"registry.test": host}, required=f"Basic {secret}") as tunnel:
        proxy = f"http://me:s3cret@{tunnel.host}"
        proxies = {"http_proxy": proxy, "HTTPS_PROXY": proxy}
        image = "docker://registry.test/team/base:1"
        assert succeed(launcher, "push", "base:1", image, **proxies)["digest"] == lower
        pulled = sandbox(another(launcher), "pull", "--debug", "--json", image, environ=proxies)
        assert json.loads(pulled.out)["digest"] == lower
        assert "GET http://registry.test/v2/team/base/manifests/1" in tunnel.targets()
        refused = sandbox(
            launcher, "pull", "--debug", image, environ={"HTTPS_PROXY": proxy.replace("s3", "S3")}
        )
    assert refused.status == 125
    assert f"the proxy {tunnel.host} of HTTPS_PROXY refuses the request (HTTP 407)" in refused.err
    for text in ("s3cret", "S3cret", secret):
        assert text not in pulled.out + pulled.err + refused.out + refused.err


@pytest.mark.once
@pytest.mark.skopeo
def test_what_skopeo_pushes_runs_and_the_image_of_an_index_is_the_one_of_the_platform(
    launcher: Launcher, host: str
) -> None:
    imported(launcher)
    layout_path = launcher.directory / "layout"
    base(launcher.directory / "other.tar", more=b"arm")
    other = layout(layout_path, launcher.directory / "other.tar", "arm")
    run("umoci", "config", "--image", other, "--architecture", "arm64")
    for tag in ("1", "arm"):
        copy = f"docker://{host}/team/multi:{tag}"
        run(
            "skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{layout_path}:{tag}", copy
        )
    manifests = {
        tag: run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{host}/team/multi:{tag}")
        for tag in ("1", "arm")
    }
    index = put_index(host, "team/multi", manifests)

    digest = {tag: f"sha256:{_sha256(text)}" for tag, text in manifests.items()}
    assert succeed(launcher, "pull", f"docker://{host}/team/multi:both")["digest"] == digest["1"]
    arm = succeed(launcher, "pull", "--platform", "linux/arm64", f"docker://{host}/team/multi:both", "arm:1")
    assert arm["digest"] == digest["arm"]
    by_index = succeed(launcher, "pull", f"docker://{host}/team/multi@{index}", "by-index:1")
    assert by_index["digest"] == digest["1"]
    inspected = succeed(launcher, "image", "inspect", "by-index:1")
    assert (inspected["index"], inspected["platform"]) == (index, "linux/amd64")
    missing = sandbox(
        launcher, "pull", "--platform", "linux/s390x", f"docker://{host}/team/multi:both", "none:1"
    )
    assert missing.status == 125
    assert "linux/s390x" in missing.err
    assert "linux/arm64" in missing.err
    done = launcher.up(
        spec(f"docker://{host}/team/multi@{index}", writable="ephemeral"), ["/opt/sh", "-c", "echo $OF"]
    )
    assert (done.status, done.out) == (0, "umoci\n"), done.err


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def put_index(host: str, repository: str, manifests: dict[str, str]) -> str:
    """Push an index of two *manifests*, those of amd64 and arm64, under the tag "both"; return its digest."""
    import http.client

    kind = "application/vnd.oci.image.index.v1+json"
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": len(text),
            "digest": f"sha256:{_sha256(text)}",
            "platform": {"os": "linux", "architecture": architecture},
        }
        for text, architecture in zip(manifests.values(), ("amd64", "arm64"), strict=True)
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries})
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    connection.request("PUT", f"/v2/{repository}/manifests/both", body, {"Content-Type": kind})
    response = connection.getresponse()
    assert response.status == 201, response.read()
    connection.close()
    return f"sha256:{_sha256(body)}"


@pytest.mark.once
def test_a_push_to_another_digest_or_of_a_damaged_image_is_refused(launcher: Launcher, host: str) -> None:
    digest = imported(launcher)
    other = sandbox(launcher, "push", "base:1", f"docker://{host}/team/base@sha256:{'0' * 64}")
    assert other.status == 125
    assert f"base:1 has the digest {digest}" in other.err
    assert "HEAD" not in (launcher.directory / "log").read_text()
    same = sandbox(launcher, "push", "base:1", f"docker://{host}/team/base:both@{digest}")
    assert (same.status, same.out) == (0, f"{host}/team/base:both@{digest}\n"), same.err

    (layer,) = succeed(launcher, "image", "inspect", "base:1")["layers"]
    blob = launcher.state / "images" / "blobs" / layer["digest"].replace(":", "/")
    content = blob.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"x", None):
        blob.unlink()
        if damaged is not None:
            blob.write_bytes(damaged)
        refused = sandbox(launcher, "push", "base:1", f"docker://{host}/elsewhere/base:1")
        blob.write_bytes(content)
        assert refused.status == 125
        assert layer["digest"] in refused.err
        assert "Traceback" not in refused.err
    assert "PUT /v2/elsewhere/base/manifests" not in (launcher.directory / "log").read_text()
    assert succeed(launcher, "pull", f"docker://{host}/team/base:both", "both:1")["digest"] == digest


@pytest.mark.podman
@pytest.mark.twice
def test_podman_pulls_what_is_pushed(launcher: Launcher, host: str, podman: Podman) -> None:
    imported(launcher)
    change(launcher, spec("image:base:1"), SMALL)
    made = succeed(launcher, "commit", "box", "made:1")["digest"]
    succeed(launcher, "push", "made:1", f"docker://{host}/team/made:1")
    podman("pull", "--tls-verify=false", f"{host}/team/made:1")
    [inspected] = json.loads(podman("image", "inspect", f"{host}/team/made:1"))
    assert inspected["Digest"] == made


@pytest.mark.once
def test_layers_of_a_base_image_in_another_repository_are_mounted_not_sent(
    launcher: Launcher, host: str
) -> None:
    imported(launcher)
    succeed(launcher, "push", "base:1", f"docker://{host}/team/base:1")
    other = another(launcher)
    succeed(other, "pull", f"docker://{host}/team/base:1", "base:1")
    change(other, spec("image:base:1"), SMALL)
    succeed(other, "commit", "box", "made:1")
    position = len((launcher.directory / "log").read_text())
    succeed(other, "push", "made:1", f"docker://{host}/elsewhere/made:1")
    log = (launcher.directory / "log").read_text()[position:]
    mounts = re.findall(r'"POST \S+\?\S*mount=\S+ HTTP/1.1" 201', log)
    assert len(mounts) == 1, log


# -- layers of registries in environment files ---------------------------------------------------------------


@pytest.mark.twice
def test_root_pull_decides_when_a_layer_of_a_registry_is_fetched(launcher: Launcher, host: str) -> None:
    first = imported(launcher)
    succeed(launcher, "push", "base:1", f"docker://{host}/team/web:1")
    other = another(launcher)
    layer = f"docker://{host}/team/web:1"

    def up(pull: str) -> str:
        text = spec(layer, writable="ephemeral", more=f'pull = "{pull}"\n')
        done = other.up(text, [PYTHON, "-c", "import os; print(os.path.getsize('/data/mode'))"])
        return done.out.strip() if done.status == 0 else f"{done.status}: {done.err}"

    never = up("never")
    assert never.startswith("125: ")
    assert 'root.pull is "never"' in never
    assert "test.toml:4" in never
    assert f"sandbox pull {layer}" in never
    size = up("missing")
    assert size.isdigit()
    before = len(gets(launcher, "manifests"))
    assert up("missing") == up("never") == size
    assert len(gets(launcher, "manifests")) == before
    assert succeed(other, "image", "ls")[0]["digest"] == first

    (launcher.directory / "layout").rename(launcher.directory / "old-layout")
    imported(launcher, more=b"more")
    succeed(launcher, "push", "base:1", layer)
    assert up("missing") == size
    assert up("always") == str(int(size) + 4)


@pytest.mark.twice
def test_the_images_of_files_are_pulled_in_advance(launcher: Launcher, host: str) -> None:
    digest = imported(launcher)
    succeed(launcher, "push", "base:1", f"docker://{host}/team/web:1")
    other = another(launcher)
    file = other.write(spec(f"docker://{host}/team/web:1", writable="ephemeral"))
    assert succeed(other, "pull", file) == [{"name": f"{host}/team/web:1", "digest": digest}]
    before = (launcher.directory / "log").read_text()
    assert other.up(file, [PYTHON, "-c", ""]).status == 0
    assert (launcher.directory / "log").read_text() == before
    refused = sandbox(other, "pull", "--platform", "linux/arm64", file)
    assert refused.status == 125
    assert "--platform" in refused.err


# -- credentials ---------------------------------------------------------------------------------------------


@pytest.mark.openssl
@pytest.mark.skopeo
@pytest.mark.twice
def test_tls_and_a_password_are_used_for_push_pull_and_up_and_the_password_is_nowhere(
    launcher: Launcher, tmp_path: Path
) -> None:
    make_authority(tmp_path)
    certificate = make_certificate(tmp_path, "server")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (tmp_path / "ca.crt").rename(trusted / "ca.crt")
    tls = {"certificate": str(certificate), "key": str(certificate.with_suffix(".key"))}
    digest = imported(launcher)
    with running(tmp_path, tls=tls, auth=htpasswd(tmp_path)) as host:
        (tmp_path / "none.json").write_text("{}")
        launcher.environ["REGISTRY_AUTH_FILE"] = str(tmp_path / "none.json")
        image, authfile = f"docker://{host}/team/base:1", ("--authfile", str(tmp_path / "auth.json"))
        certificates = ("--cert-dir", str(trusted))
        untrusted = sandbox(launcher, "push", "base:1", image)
        assert untrusted.status == 125
        assert "certificate" in untrusted.err
        anonymous = sandbox(launcher, "push", *certificates, "base:1", image)
        assert anonymous.status == 125
        assert f"sandbox login {host}" in anonymous.err
        logged_in = log_in(launcher, host, SECRET, *certificates, *authfile)
        assert logged_in.returncode == 0, logged_in.stderr
        wrong = log_in(launcher, host, "another-password", *certificates, *authfile)
        assert wrong.returncode == 125
        outputs = [untrusted.err, anonymous.err, logged_in.stderr, wrong.stderr]
        with process(launcher, "push", *certificates, *authfile, "--json", "base:1", image) as pushing:
            command_lines = []
            while pushing.poll() is None:
                command_lines.append(run("ps", "axeww", "-o", "args"))
                time.sleep(0.05)
            outputs += pushing.communicate()
        assert json.loads(outputs[-2])["digest"] == digest
        assert not any(SECRET in text for text in (*outputs, *command_lines))
        auth, cert_dir = f"--authfile={authfile[1]}", f"--cert-dir={trusted}"
        raw = run("skopeo", "inspect", auth, cert_dir, "--raw", image)
        assert f"sha256:{_sha256(raw)}" == digest

        other = Launcher(tmp_path / "other-store")
        other.directory.mkdir()
        file = other.write(spec(image, writable="ephemeral"))
        found = succeed(other, "pull", *certificates, *authfile, file)
        assert found == [{"name": image.removeprefix("docker://"), "digest": digest}]
        assert other.up(file, [PYTHON, "-c", ""]).status == 0
        assert sandbox(other, "image", "rm", image.removeprefix("docker://")).status == 0
        assert blobs(other) == []


def log_in(launcher: Launcher, host: str, password: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", "login", "--username", "me", "--password-stdin", *options, host],
        input=password,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
