"""What `zerogate up` asks of its machine."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource
from controller.embedded.__main__ import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))
allow_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_many_pods_need_many_files() -> None:
    """The soft limit that a shell hands down is raised as far as the machine allows."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout == "(2048, 2048)\n"
