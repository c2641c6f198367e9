import socket

from wrenn_server.linux.interfaces import received_bytes


def test_what_an_interface_has_received() -> None:
    before = received_bytes("lo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(bytes(10_000), ("127.0.0.1", 9))
    assert received_bytes("lo") >= before + 10_000


def test_one_that_is_not_there() -> None:
    assert received_bytes("none") == 0
