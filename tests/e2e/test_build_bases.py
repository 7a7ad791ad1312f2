"""Builds over base images that are for another platform, or lack what they name."""

from __future__ import annotations

import json

import pytest

from tests.e2e.building import BASE, Project, cached
from tests.e2e.support import sandbox
from tests.support.images import Image, tar_of, write_layout

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.busybox]


@pytest.mark.once
def test_a_base_image_for_another_platform_is_refused(project: Project) -> None:
    image = Image(layers=(tar_of({"file": b"x"}),), architecture="s390x")
    layout = write_layout(project.path / "layout", image)
    text = f"FROM oci:{layout}:t\nLABEL a=b\n"
    refused = project.build(text)
    assert refused.status == 125
    assert "no image for linux/" in refused.err
    assert "there is linux/s390x" in refused.err
    assert project.build(text, "--platform", "linux/s390x", "-t", "made").status == 0
    assert project.inspect("made")["platform"] == "linux/s390x"


def test_a_working_directory_that_the_base_image_lacks_is_made_for_commands(project: Project) -> None:
    base = project.path / "base.toml"
    base.write_text(
        '[root]\nlayers = ["image:base0"]\n[[build]]\nlabels = { a = "b" }\n[process]\ncwd = "/lacking/in"\n'
    )
    assert project.build(BASE, "-t", "base0").status == 0
    assert sandbox(project.launcher, "build", str(base), "-t", "base").status == 0
    text = "FROM image:base\nCOPY data/file /copied\nRUN pwd > made\nRUN echo again >> made\n"
    first = project.build(text, "-t", "made")
    assert first.status == 0, first.err
    assert project.shell("made", "cat /lacking/in/made") == "/lacking/in\nagain\n"
    steps = json.loads(sandbox(project.launcher, "image", "history", "made", "--json").out)
    assert [step["created_by"] for step in steps[-4:]] == [
        "COPY data/file /copied",
        "WORKDIR /lacking/in",
        "RUN pwd > made",
        "RUN echo again >> made",
    ]
    again = project.build(text, "-t", "made")
    assert cached(again) == [True] * 3
    digest = project.digest(text)
    assert project.digest(text, "--no-cache") == digest
    # A directory that is there is neither a step nor a layer.
    above = project.build("FROM image:made\nRUN pwd > /above\n", "-t", "above")
    assert above.status == 0, above.err
    steps = json.loads(sandbox(project.launcher, "image", "history", "above", "--json").out)
    assert [step["created_by"] for step in steps[-2:]] == ["RUN echo again >> made", "RUN pwd > /above"]
