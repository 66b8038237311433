"""A gRPC application with a health service: `echo` answers with its target and the message, `follow` counts on."""

import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc


def echo(message: bytes, _context: grpc.ServicerContext) -> bytes:
    return os.environ.get("TARGET", "hello").encode() + b": " + message


def follow(_message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for number in itertools.count():
        if not context.is_active():
            return
        yield b"%d" % number
        time.sleep(0.05)


def check(_message: bytes, _context: grpc.ServicerContext) -> bytes:
    return b"\x08\x01"  # SERVING


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(16))
    test = {
        "echo": grpc.unary_unary_rpc_method_handler(echo),
        "follow": grpc.unary_stream_rpc_method_handler(follow),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("Test", test),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
