"""What `zerogate up` says."""

from __future__ import annotations

import os
import subprocess
import sys

SPEAKER = "from controller.embedded.welcome import tell; tell('zerogate is up.'); tell('Stopping.')"


def test_nobody_has_to_listen() -> None:
    """A reader that has left (`zerogate up | head -3`) ends nothing, and the exit status is none of its business."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        result = subprocess.run([sys.executable, "-c", SPEAKER], stdout=gone, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
