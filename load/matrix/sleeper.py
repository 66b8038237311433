"""An application whose requests take a time in which it does nothing, as those that wait for a database do.

    PORT=8000 python -S sleeper.py SECONDS [FILE]

One process, one thread, nothing but the standard library's C modules, so that it is up in the time of an interpreter's
start and a hundred of them leave a small machine to what is measured. A client that leaves takes its request along.
Each answer is a JSON object with the most requests that this process ever had at once. To FILE go lines of a word and a
moment by the machine's boot clock, which all processes share: `listening`, and each request's target when it comes.
"""

import os
import select
import socket
import sys
import time


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Server:
    """Connections and the requests in hand, oldest first; each is done when its time has come."""

    def __init__(self, seconds: float, file: str) -> None:
        self.seconds = seconds
        self.notes = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if file else -1
        self.most = 0
        self.peers: dict[int, socket.socket] = {}
        self.hand: dict[int, float] = {}  # by connection: a client has one request at a time
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", int(os.environ["PORT"])))
        self.listener.listen(1024)
        self.note(b"listening")
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)

    def note(self, what: bytes) -> None:
        if self.notes >= 0:
            os.write(self.notes, b"%b %f\n" % (what, clock()))

    def run(self) -> None:
        while True:
            due = next(iter(self.hand.values()), None)
            for descriptor, _ in self.epoll.poll(None if due is None else max(0.0, due - clock())):
                if descriptor == self.listener.fileno():
                    self.accept()
                else:
                    self.read(descriptor)
            now = clock()
            for descriptor in [one for one, due in self.hand.items() if due <= now]:
                del self.hand[descriptor]
                self.answer(self.peers[descriptor])

    def accept(self) -> None:
        peer, _ = self.listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peers[peer.fileno()] = peer
        self.epoll.register(peer, select.EPOLLIN)

    def read(self, descriptor: int) -> None:
        """A head, content or the end. What comes while a request is in hand is its content."""
        try:
            data = self.peers[descriptor].recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.hand.pop(descriptor, None)
            self.epoll.unregister(descriptor)
            self.peers.pop(descriptor).close()
        elif descriptor not in self.hand and b" HTTP/1.1\r\n" in data:
            self.hand[descriptor] = clock() + self.seconds
            self.most = max(self.most, len(self.hand))
            self.note(data.split(b" ", 2)[1])

    def answer(self, peer: socket.socket) -> None:
        body = b'{"most": %d}' % self.most
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


if __name__ == "__main__":
    Server(float(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "").run()
