"""pytest plugin: a test fails if something complained that the test did not expect.

A log record of WARNING or above, or a traceback on standard error (of this process or of one it started), is
a defect until the test says that it belongs to what is tested, through the fixture `complaints`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator

import pytest

_TRACEBACK = "Traceback (most recent call last)"
_KEY = pytest.StashKey["Complaints"]()


class Complaints(logging.Handler):
    """What was logged during one test, and what of it the test has said it expects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.traceback_expected = False
        self._expected: list[tuple[re.Pattern[str], bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*."""
        self.records.append(record)

    def expect_log(self, pattern: str) -> None:
        """Let records pass whose message matches *pattern* anywhere; the test fails if none comes."""
        self._expected.append((re.compile(pattern), True))

    def allow_log(self, pattern: str) -> None:
        """Let records pass whose message matches *pattern* anywhere, if they come (a race decides)."""
        self._expected.append((re.compile(pattern), False))

    def expect_traceback(self) -> None:
        """Let tracebacks on standard error pass."""
        self.traceback_expected = True

    def unexpected(self) -> list[str]:
        """Return what is wrong, one line each."""
        messages = [(record, record.getMessage()) for record in self.records]
        wrong = [
            f"unexpected log record: {record.levelname} {record.name}: {message}"
            for record, message in messages
            if not any(pattern.search(message) for pattern, _ in self._expected)
        ]
        for pattern, required in self._expected:
            if required and not any(pattern.search(message) for _, message in messages):
                wrong.append(f"no log record matches {pattern.pattern!r}")
        return wrong


@pytest.fixture(autouse=True)
def complaints(request: pytest.FixtureRequest) -> Iterator[Complaints]:
    """Collect log records; the test says through this which complaints it expects."""
    handler = request.node.stash[_KEY] = Complaints()
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    if wrong := handler.unexpected():
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a phase that passed with a traceback on its captured standard error into a failure."""
    report = yield
    handler = item.stash.get(_KEY, None)
    if report.passed and not (handler is not None and handler.traceback_expected):
        for title, content in report.sections:
            if title == f"Captured stderr {report.when}" and _TRACEBACK in content:
                report.outcome = "failed"
                report.longrepr = "a traceback was written to standard error (below)"
    return report
