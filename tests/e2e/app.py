"""The application under test: says which version it is, and does on request what real applications do."""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match url.path:
            case "/sleep":
                time.sleep(float(query["seconds"]))
                self.answer("slept")
            case "/hold":  # says who has it, and answers when the test lets go
                folder = sys.argv[1]
                open(f"{folder}/held-by-{os.getpid()}", "w").close()
                while not os.path.exists(f"{folder}/let-go"):
                    time.sleep(0.01)
                self.answer(str(os.getpid()))
            case "/exit":
                os._exit(int(query["code"]))
            case "/pid":
                self.answer(str(os.getpid()))
            case "/env":
                self.answer(json.dumps(dict(os.environ)))
            case "/headers":
                self.answer(json.dumps({name.lower(): value for name, value in self.headers.items()}))
            case _:
                self.answer(os.environ.get("TARGET", "hello"))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/sleep":
            time.sleep(float(content))
        self.answer(content)

    def answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        print("served", self.path, flush=True)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = False


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
if "ABRUPT" not in os.environ:  # then SIGTERM ends it in the middle of whatever it does
    # What a well-behaved application does at SIGTERM: no new connection, what has begun is finished.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("listening", flush=True)
server.serve_forever()
sys.exit(0)
