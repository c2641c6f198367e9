"""Runs in a sandbox, on port 8888: as much of a Jupyter server, with one kernel `wrenn`, as the code runner of the
published SDK asks for."""

import ast
import base64
import contextlib
import hashlib
import io
import json
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEBSOCKET_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

names: dict[str, object] = {}
kernels: list[dict[str, str]] = []


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade") == "websocket":
            self.channels()
        else:
            self.answer(200, kernels)

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kernels.append({"id": f"kernel-{len(kernels)}", "name": wanted["name"]})
        self.answer(201, kernels[-1])

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def channels(self) -> None:
        digest = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + WEBSOCKET_MAGIC).encode())  # noqa: S324 - RFC 6455
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest.digest()).decode())
        self.end_headers()
        self.close_connection = True
        while (text := self.message()) is not None:
            request = json.loads(text)
            for kind, content in run(request["content"]["code"]):
                self.tell({"msg_type": kind, "parent_header": request["header"], "content": content})

    def message(self) -> bytes | None:
        """The next text; None: the client closes."""
        while True:
            first, second = self.rfile.read(2)
            length = second & 127
            if length >= 126:
                form = ">H" if length == 126 else ">Q"
                [length] = struct.unpack(form, self.rfile.read(struct.calcsize(form)))
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(length)))
            if first & 15 == 8:
                return None
            if first & 15 == 1:
                return data

    def tell(self, message: object) -> None:
        data = json.dumps(message).encode()
        head = struct.pack(">BBH", 0x81, 126, len(data))
        self.wfile.write(head + data)


def run(code: str) -> list[tuple[str, dict[str, object]]]:
    """What the kernel says of a cell."""
    cell = ast.parse(code)
    last = cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
    said, told = io.StringIO(), list[tuple[str, dict[str, object]]]()
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(cell, "cell", "exec"), names)  # noqa: S102 - what it is for
            value = None
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
        if value is not None:
            told.append(("execute_result", {"data": {"text/plain": repr(value)}, "execution_count": 1}))
    except Exception as error:  # noqa: BLE001 - the cell's
        told.append(("error", {"ename": type(error).__name__, "evalue": str(error), "traceback": []}))
    if said.getvalue():
        told.insert(0, ("stream", {"name": "stdout", "text": said.getvalue()}))
    return [*told, ("status", {"execution_state": "idle"})]


ThreadingHTTPServer(("127.0.0.1", 8888), Server).serve_forever()
