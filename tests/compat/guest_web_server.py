"""Runs inside sandboxes: a web server at each ADDRESS:PORT that is given. It tells what reached it, and echoes one frame
of a WebSocket. A line says that all of them listen."""

import base64
import hashlib
import http.server
import json
import sys
import threading

WEBSOCKET_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo_frame()
            return
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo_frame(self) -> None:
        """A masked text frame of up to 125 bytes comes back unmasked."""
        digest = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + WEBSOCKET_MAGIC).encode()).digest()  # noqa: S324 - RFC 6455
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        self.end_headers()
        kind, length = self.rfile.read(2)
        mask = self.rfile.read(4)
        data = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(length & 127)))
        self.wfile.write(bytes([kind, len(data)]) + data)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        # Looking the name up would wait for DNS.
        self.server_name, self.server_port = "sandbox", self.server_address[1]


if __name__ == "__main__":
    places = [word.rpartition(":") for word in sys.argv[1:]]
    servers = [Server((address, int(port)), Handler) for address, _, port in places]
    print("serving", flush=True)
    for server in servers:
        threading.Thread(target=server.serve_forever).start()
