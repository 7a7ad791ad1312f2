"""The plugins of tests/support fail faulty tests. Each plugin runs on small tests here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import requirements

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(autouse=True)
def project_plugins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the plugins into the tests that pytester runs. Each test runs in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", PROJECT)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # saves half of the start-up time
    monkeypatch.delenv("SANDBOX_TESTS_STRICT", raising=False)
    pytester.makeconftest(
        'pytest_plugins = ["tests.support.requirements", "tests.support.leaks", "tests.support.output"]\n'
        "def pytest_configure(config):\n"
        "    from tests.support import leaks\n"
        "    leaks.GRACE = 0.3\n"
    )


def outcomes(pytester: pytest.Pytester, source: str) -> tuple[dict[str, int], str]:
    pytester.makepyfile(source)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", "-rs")
    return result.parseoutcomes(), result.stdout.str()


def test_a_clean_test_passes(pytester: pytest.Pytester) -> None:
    counts, _ = outcomes(
        pytester,
        """
        import subprocess
        def test_clean(tmp_path):
            subprocess.run(["true"], check=True)
            (tmp_path / "file").write_text("x")
        """,
    )
    assert counts == {"passed": 1}


def test_a_leaked_descriptor_is_an_error_that_names_its_target(pytester: pytest.Pytester) -> None:
    counts, output = outcomes(
        pytester,
        """
        import os
        def test_leak():
            os.open("/dev/null", os.O_RDONLY)
        """,
    )
    assert counts == {"passed": 1, "errors": 1}
    assert "/dev/null" in output
    assert "left behind" in output


def test_a_descriptor_in_a_reference_cycle_is_no_leak(pytester: pytest.Pytester) -> None:
    counts, _ = outcomes(
        pytester,
        """
        import os
        class Cycle:
            def __init__(self):
                self.me = self
                self.fd = os.open("/dev/null", os.O_RDONLY)
            def __del__(self):
                os.close(self.fd)
        def test_cycle():
            Cycle()
        """,
    )
    assert counts == {"passed": 1}


def test_a_child_left_running_is_an_error_even_if_its_parent_has_ended(pytester: pytest.Pytester) -> None:
    counts, output = outcomes(
        pytester,
        """
        import subprocess
        def test_orphan():
            subprocess.run(["sh", "-c", "sleep 1.5 >/dev/null 2>&1 &"], check=True)
        """,
    )
    assert counts == {"passed": 1, "errors": 1}
    assert "sleep 1.5" in output


def test_an_orphan_that_ends_within_the_grace_is_reaped(pytester: pytest.Pytester) -> None:
    counts, _ = outcomes(
        pytester,
        """
        import subprocess
        def test_orphan():
            subprocess.run(["sh", "-c", "sleep 0.1 >/dev/null 2>&1 &"], check=True)
        """,
    )
    assert counts == {"passed": 1}


@pytest.mark.root
def test_a_leaked_mount_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import subprocess
        def test_mount(tmp_path):
            subprocess.run(["mount", "-t", "tmpfs", "left-by-a-test", tmp_path], check=True)
        """
    )
    # In a mount namespace of its own, so that this test itself leaks no mount.
    script = f"cd {pytester.path} && exec {sys.executable} -m pytest -p no:cacheprovider"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "left-by-a-test" in done.stdout


def test_resources_of_a_module_fixture_are_no_leak_of_its_tests(pytester: pytest.Pytester) -> None:
    counts, _ = outcomes(
        pytester,
        """
        import subprocess
        import pytest
        @pytest.fixture(scope="module")
        def server():
            with subprocess.Popen(["sleep", "10"]) as process:
                yield process
                process.terminate()
        def test_one(server):
            assert server.poll() is None
        def test_two(server):
            assert server.poll() is None
        """,
    )
    assert counts == {"passed": 2}


def test_an_unexpected_warning_in_the_log_is_an_error(pytester: pytest.Pytester) -> None:
    counts, output = outcomes(
        pytester,
        """
        import logging
        def test_complains():
            logging.getLogger("unionfs.vfs.filesystem").warning("lost %d bytes", 7)
        """,
    )
    assert counts == {"passed": 1, "errors": 1}
    assert "unexpected log record: WARNING unionfs.vfs.filesystem: lost 7 bytes" in output


def test_an_expected_warning_passes_and_its_absence_fails(pytester: pytest.Pytester) -> None:
    counts, output = outcomes(
        pytester,
        """
        import logging
        def test_expected(complaints):
            complaints.expect_log("lost [0-9]+ bytes")
            logging.warning("lost 7 bytes")
        def test_absent(complaints):
            complaints.expect_log("lost [0-9]+ bytes")
        def test_allowed(complaints):
            complaints.allow_log("lost [0-9]+ bytes")
        """,
    )
    assert counts == {"passed": 3, "errors": 1}
    assert "no log record matches 'lost [0-9]+ bytes'" in output


def test_a_traceback_of_another_process_fails_the_test(pytester: pytest.Pytester) -> None:
    source = """
        import subprocess
        import sys
        def test_crash({fixture}):
            {statement}
            subprocess.run([sys.executable, "-c", "raise RuntimeError"])
        """
    counts, output = outcomes(pytester, source.format(fixture="", statement="pass"))
    assert counts == {"failed": 1}
    assert "a traceback was written to standard error" in output
    allowed, _ = outcomes(
        pytester, source.format(fixture="complaints", statement="complaints.expect_traceback()")
    )
    assert allowed == {"passed": 1}


@pytest.mark.parametrize(("strict", "expected"), [("0", {"skipped": 2}), ("1", {"skipped": 1, "errors": 1})])
def test_strict_mode_fails_only_tests_whose_requirement_could_be_provided(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, strict: str, expected: dict[str, int]
) -> None:
    monkeypatch.setenv("SANDBOX_TESTS_STRICT", strict)
    counts, output = outcomes(
        pytester,
        """
        import pytest
        from tests.support.requirements import PROBES, Missing
        PROBES["fuse"] = lambda: Missing("a thing", "buy one")
        PROBES["root"] = lambda: Missing("a crown", removable=False)
        @pytest.mark.fuse
        def test_that_needs_a_thing():
            pass
        @pytest.mark.root
        def test_that_needs_a_crown():
            pass
        """,
    )
    assert counts == expected  # a failure before the test itself counts as an error
    assert "needs a thing (buy one)" in output
    assert "needs a crown" in output


def test_long_tests_run_only_with_the_option(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.long\ndef test_hours(): pass\n")
    assert pytester.runpytest_subprocess().parseoutcomes() == {"skipped": 1}
    assert pytester.runpytest_subprocess("--long").parseoutcomes() == {"passed": 1}


@pytest.mark.parametrize("name", requirements.PROBES)
def test_a_probe_raises_no_exception(name: str) -> None:
    lack = requirements.missing(name)
    assert lack is None or lack.what
