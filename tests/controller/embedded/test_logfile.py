"""One log file: rotation and the tail in memory (its entries are in test_podlogs, with their reading)."""

from __future__ import annotations

from datetime import UTC, datetime

from controller.embedded import logfile
from controller.embedded.logfile import LogWriter

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_rotation_bounds_what_is_kept(tmp_path, monkeypatch):
    """However much a container prints, three files of the given size hold the newest of it."""
    monkeypatch.setattr(logfile, "MAX_BYTES", 1000)
    writer = LogWriter(tmp_path / "0.log")
    for number in range(100):
        writer.write("stdout", f"line {number} {'x' * 50}\n".encode(), NOW)
    writer.close(NOW)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["0.log", "0.log.1", "0.log.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert "line 99 " in files[0].read_text()


def test_the_tail_is_the_last_two_kilobytes_or_eighty_lines(tmp_path):
    """A termination message has the smaller of the two bounds, as in Kubernetes."""
    writer = LogWriter(tmp_path / "0.log")
    writer.write("stdout", b"".join(b"%d\n" % n for n in range(100)), NOW)
    assert writer.tail().splitlines() == [str(n) for n in range(20, 100)]
    writer.write("stdout", b"x" * 5000 + b"\n", NOW)
    assert len(writer.tail()) <= 2048
    writer.close(NOW)
