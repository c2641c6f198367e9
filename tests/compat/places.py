"""What stands around the platform: names that lead to it, and a place outside."""

import contextlib
import select
import socket
import socketserver
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.rdatatype
import dns.rrset

from wrenn_server.linux import netns

DOMAIN = "sandboxes.test"
OUTSIDE_ADDRESS = "192.31.196.77"
"""Of AS112's range (RFC 7535): public, so that sandboxes may reach it, and nobody's on this machine."""
OUTSIDE_PORT = 9000


@contextmanager
def proxy(target: tuple[str, int]) -> Generator[str, None, None]:
    """The address of an HTTP proxy that leads every CONNECT to one place, as a wildcard DNS record would."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            with socket.create_connection(target) as upstream:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                splice(self.connection, upstream)

    with _served(_Server(("127.0.0.1", 0), Handler)) as (host, port):
        yield f"http://{host}:{port}"


def splice(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until one side ends, which ends the other alike."""
    with contextlib.suppress(OSError):
        while True:
            for readable in select.select([one, other], [], [])[0]:
                data = readable.recv(1 << 16)
                if not data:
                    return
                (other if readable is one else one).sendall(data)


class Greeting(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"outside")


class Web(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\noutside")


class Names(socketserver.DatagramRequestHandler):
    """A resolver that knows all names, at this very place."""

    def handle(self) -> None:
        question = dns.message.from_wire(self.rfile.read())
        answer = dns.message.make_response(question)
        asked = question.question[0]
        if asked.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", OUTSIDE_ADDRESS))
        self.wfile.write(answer.to_wire())


@contextmanager
def outside(name: str) -> Generator[str, None, None]:
    """ADDRESS:PORT of a server in a namespace behind the host, as the internet is; it says `outside` to everyone, and
    so does its port 80 by HTTP. On port 53 it is a resolver, for which it is every host there is."""

    batch = [
        f"link add {name} type veth peer name wan netns {name}",
        f"addr add 192.31.196.1/32 dev {name}",
        f"link set {name} up",
        f"route add {OUTSIDE_ADDRESS}/32 dev {name}",
    ]
    inner = [
        f"addr add {OUTSIDE_ADDRESS}/32 dev wan",
        "link set wan up",
        "link set lo up",
        "route add 192.31.196.1/32 dev wan",
        "route add default via 192.31.196.1 dev wan",
    ]
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        _ip("-batch", "-", lines=batch)
        _ip("-n", name, "-batch", "-", lines=inner)
        with (
            _served(_made_inside(name, OUTSIDE_PORT, _Server, Greeting)),
            _served(_made_inside(name, 80, _Server, Web)),
            _served(_made_inside(name, 53, _Datagrams, Names)),
        ):
            yield f"{OUTSIDE_ADDRESS}:{OUTSIDE_PORT}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Datagrams(socketserver.ThreadingUDPServer):
    daemon_threads = True


def _made_inside(
    name: str,
    port: int,
    kind: type[socketserver.TCPServer],
    handler: type[socketserver.BaseRequestHandler],
) -> socketserver.TCPServer:
    """setns is per thread, and a socket stays in the namespace in which it was made."""
    made: list[socketserver.TCPServer] = []

    def make() -> None:
        netns.enter(Path("/run/netns") / name)
        made.append(kind((OUTSIDE_ADDRESS, port), handler))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@contextmanager
def _served(server: socketserver.TCPServer) -> Generator[tuple[str, int], None, None]:
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            host, port = server.socket.getsockname()
            yield host, port
        finally:
            server.shutdown()
            thread.join()


def _ip(*words: str, lines: list[str]) -> None:
    subprocess.run(["ip", *words], input="\n".join(lines), text=True, check=True)
