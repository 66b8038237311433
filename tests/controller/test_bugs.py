"""Our own bugs in the log: in full, and not more often than somebody can read."""

import logging

import pytest

from controller.bugs import INTERVAL, BugLog


class Log:
    """A BugLog with a clock that stands, and what it wrote."""

    def __init__(self, caplog):
        self.now = 0.0
        self._caplog = caplog
        self._bugs = BugLog(logging.getLogger("bugs"), lambda: self.now)

    def report(self, action, who="route", message="failed"):
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a test raises
            self._bugs.report(who, error, message)

    @property
    def lines(self):
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def log(caplog):
    return Log(caplog)


def divide():
    return 1 / 0


def look_up():
    return {}["x"]


def test_the_first_one_comes_at_once_with_its_traceback(log, caplog):
    """Where it was raised is what somebody needs to mend it."""
    log.report(divide)
    assert log.lines == ["failed"]
    assert "return 1 / 0" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_the_same_one_comes_once_a_minute_with_a_count(log, caplog):
    """Thousands a second are two lines in a minute."""
    for step in range(5000):
        log.now = step * INTERVAL / 5000
        log.report(divide, message=f"failed for object {step}")
    assert log.lines == ["failed for object 0"]
    log.now = INTERVAL
    log.report(divide)
    assert log.lines[1:] == ["failed (and 4999 times more since it was logged last, 60 s ago)"]
    assert caplog.text.count("return 1 / 0") == 2
    log.now = 3 * INTERVAL
    log.report(divide)
    assert log.lines[2:] == ["failed"]


def test_another_one_is_not_hidden(log):
    """Other code, another type, or somebody else who met it: each is seen at once."""
    log.report(divide)
    log.report(look_up)
    log.report(lambda: {}["x"])
    log.report(divide, who="service")
    assert len(log.lines) == 4
    log.report(divide)
    log.report(look_up)
    assert len(log.lines) == 4


def test_memory_is_bounded(log):
    """A bug that was forgotten is new when it comes again."""
    for number in range(10_000):
        log.report(divide, who=str(number))
    assert len(log._bugs._known) == 256
    log.report(divide, who="9999")
    assert len(log.lines) == 10_000
    log.report(divide, who="0")
    assert len(log.lines) == 10_001
