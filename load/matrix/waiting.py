"""How long a client waits at worst: requests one after the other on one connection, until standard input ends.

    python -m matrix.waiting HOST PORT

Prints one JSON object: the number of requests and milliseconds of the median, the 99th percentile and the longest.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from time import perf_counter


def main() -> None:
    name, port = sys.argv[1:]
    request = f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
    times = []
    with socket.create_connection(("127.0.0.1", int(port))) as client:
        while not select.select([sys.stdin], [], [], 0)[0]:
            began = perf_counter()
            client.sendall(request)
            answer = client.recv(65536)  # the response is short enough to arrive in one piece
            times.append((perf_counter() - began) * 1000)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"not answered: {answer!r}")
    times.sort()
    p50, p99 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.99))
    print(json.dumps({"count": len(times), "p50": p50, "p99": p99, "longest": times[-1]}))


if __name__ == "__main__":
    main()
