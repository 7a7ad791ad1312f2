"""pytest plugin: a test fails after an unexpected warning or traceback.

Unexpected are a log record of level WARNING or above, and a traceback on standard error of this process or of one
that it started. A test declares the expected ones through the fixture `complaints`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator

import pytest

_TRACEBACK = "Traceback (most recent call last)"
_KEY = pytest.StashKey["Complaints"]()


class Complaints(logging.Handler):
    """The log records of one test, and the declarations of the expected ones. The fixture `complaints` creates it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.traceback_expected = False
        self._expected: list[tuple[re.Pattern[str], bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*."""
        self.records.append(record)

    def expect_log(self, pattern: str) -> None:
        """Expect records whose message contains *pattern*; the test fails if there is none."""
        self._expected.append((re.compile(pattern), True))

    def allow_log(self, pattern: str) -> None:
        """Allow records whose message contains *pattern*, which a race may cause."""
        self._expected.append((re.compile(pattern), False))

    def expect_traceback(self) -> None:
        """Expect tracebacks on standard error."""
        self.traceback_expected = True

    def unexpected(self) -> list[str]:
        """Return the faults, one line each."""
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
    """Collect log records. Through this fixture a test declares the expected ones."""
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
    """Fail a phase that passed but has a traceback in its captured standard error."""
    report = yield
    handler = item.stash.get(_KEY, None)
    if report.passed and not (handler is not None and handler.traceback_expected):
        for title, content in report.sections:
            if title == f"Captured stderr {report.when}" and _TRACEBACK in content:
                report.outcome = "failed"
                report.longrepr = "a traceback was written to standard error (below)"
    return report
