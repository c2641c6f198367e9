"""Settings from the environment and from `.env`."""

from pathlib import Path

import pytest

from wrenn_server.controlplane.config import ConfigError, Tls, load
from wrenn_server.model.address import Address

ENV_EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"


def test_the_example_as_it_stands() -> None:
    config = load({}, ENV_EXAMPLE)
    assert config.database_url == "postgres://wrenn:wrenn@localhost:5432/wrenn?sslmode=disable"
    assert config.listen == "0.0.0.0:8000"
    assert config.agent == Address("localhost", 50051)


def test_defaults() -> None:
    config = load({}, None)
    assert (config.database_url, config.listen) == (None, "0.0.0.0:8000")
    assert config.data_dir == Path("/var/lib/wrenn")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\n\nexport CP_LISTEN_ADDR=':1'\nWRENN_DATA_DIR=\"/x\"\n")
    config = load({"CP_LISTEN_ADDR": "[::1]:2"}, tmp_path / ".env")
    assert (config.listen, config.data_dir) == ("[::1]:2", Path("/x"))


def test_all_mistakes_are_named_at_once_and_no_password() -> None:
    with pytest.raises(ConfigError) as refused:
        load(
            {"DATABASE_URL": "mysql://u:secret@h/d", "CP_LISTEN_ADDR": "8000", "CP_MEMORY_OVERCOMMIT": "0"},
            None,
        )
    text = str(refused.value)
    assert all(name in text for name in ("DATABASE_URL", "CP_LISTEN_ADDR", "CP_MEMORY_OVERCOMMIT"))
    assert "secret" not in text


def test_tls_is_a_port_beside_the_plain_one() -> None:
    files = {"CP_TLS_CERT": "/c.pem", "CP_TLS_KEY": "/k.pem"}
    assert load({}, None).tls is None
    assert load(files, None).tls == Tls(Path("/c.pem"), Path("/k.pem"), "0.0.0.0:8443")
    assert load({**files, "CP_TLS_LISTEN_ADDR": ":443"}, None).tls == Tls(
        Path("/c.pem"), Path("/k.pem"), "0.0.0.0:443"
    )
    for half in (
        {"CP_TLS_CERT": "/c.pem"},
        {"CP_TLS_LISTEN_ADDR": ":443"},
        {**files, "CP_TLS_LISTEN_ADDR": "x"},
    ):
        with pytest.raises(ConfigError, match="CP_TLS_"):
            load(half, None)


def test_where_webhooks_may_lead() -> None:
    assert not load({}, None).webhooks_private
    assert load({"CP_WEBHOOKS_PRIVATE": "true"}, None).webhooks_private
    with pytest.raises(ConfigError, match="CP_WEBHOOKS_PRIVATE"):
        load({"CP_WEBHOOKS_PRIVATE": "perhaps"}, None)


def test_how_long_certificates_of_hosts_are_valid() -> None:
    assert load({}, None).certificate_days == 90
    assert load({"CP_HOST_CERTIFICATE_DAYS": "7"}, None).certificate_days == 7
    for wrong in ("0", "3651", "-1", "1.5"):
        with pytest.raises(ConfigError, match="CP_HOST_CERTIFICATE_DAYS"):
            load({"CP_HOST_CERTIFICATE_DAYS": wrong}, None)


def test_the_domain_of_the_ports() -> None:
    assert load({}, None).proxy_domain is None
    for text in ("sandboxes.example.com", "localhost:8000", "Example.com:443"):
        assert load({"CP_PROXY_DOMAIN": text}, None).proxy_domain == text.lower()
    for text in ("https://example.com", "a b", "example.com/", "*.example.com", "x:y", "-"):
        with pytest.raises(ConfigError, match="CP_PROXY_DOMAIN"):
            load({"CP_PROXY_DOMAIN": text}, None)


def test_a_line_that_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nnonsense\n")
    with pytest.raises(ConfigError, match="line 2"):
        load({}, tmp_path / ".env")


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("http://localhost:50051", "localhost", 50051, True),
        ("127.0.0.1:1", "127.0.0.1", 1, True),
        ("[::1]:1", "::1", 1, True),
        ("10.0.1.5:50051", "10.0.1.5", 50051, False),
        ("https://agent.example:443", "agent.example", 443, False),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "x", ":1", "host:", "host:0", "host:65536", "u@h:1", "h:1/p", "h:1?q", "ftp://h:1", "a b:1", "h:x"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT"):
        Address.parse(text)
