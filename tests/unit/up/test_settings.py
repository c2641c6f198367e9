"""What `wrenn up` remembers in files, and what it was asked for."""

import json
import stat
from pathlib import Path

import pytest

from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.linux import forwarding
from wrenn_server.up import doctor, environment, supervisor
from wrenn_server.up.settings import Settings, as_json, from_environment, parse


def test_environment_file_round_trip_is_private(tmp_path: Path) -> None:
    variables = environment.compose(
        base_url="http://127.0.0.1:8000",
        proxy_domain="localhost:8000",
        api_key="wrn_" + "a" * 40,
        admin_email="admin@wrenn.local",
        admin_password="p=w",
    )
    assert tuple(variables) == environment.NAMES
    assert variables["E2B_API_KEY"] == "e2b_" + "a" * 40
    environment.write(tmp_path / "wrenn.env", variables)
    assert environment.read(tmp_path / "wrenn.env") == variables
    assert stat.S_IMODE((tmp_path / "wrenn.env").stat().st_mode) == 0o600
    assert environment.read(tmp_path / "absent") == {}


def test_a_domain_with_its_certificate_reaches_the_control_plane() -> None:
    asked = from_environment(
        {"CP_TLS_KEY": "/etc/key.pem"},
        domain="sandboxes.example.com",
        tls_cert=Path("/etc/cert.pem"),
        tls_listen=":443",
    )
    settings = parse(json.loads(json.dumps(as_json(asked))))
    assert settings == asked
    environ = supervisor.control_plane_environment(settings, "postgres://x")
    assert environ["CP_PROXY_DOMAIN"] == "sandboxes.example.com"
    assert [environ[f"CP_TLS_{name}"] for name in ("CERT", "KEY", "LISTEN_ADDR")] == [
        "/etc/cert.pem",
        "/etc/key.pem",
        ":443",
    ]
    assert settings.base_url == "http://127.0.0.1:8000", "the agent goes on with the plain port"
    plain = supervisor.control_plane_environment(from_environment({}), "postgres://x")
    assert plain["CP_PROXY_DOMAIN"] == "localhost:8000"
    assert not any(name.startswith("CP_TLS") for name in plain)


def test_options_win_over_the_environment_over_defaults() -> None:
    environ = {"WRENN_DATA_DIR": "/srv/wrenn", "AGENT_UID_BASE": "30000"}
    settings = from_environment(environ, listen="0.0.0.0:80", data_dir=None)
    assert (settings.data_dir, settings.uid_base, settings.listen) == (
        Path("/srv/wrenn"),
        30000,
        "0.0.0.0:80",
    )
    assert settings.base_url == "http://127.0.0.1:80"
    assert from_environment(environ, data_dir=Path("/elsewhere")).data_dir == Path("/elsewhere")


def test_agent_and_up_agree_on_the_tag() -> None:
    assert Settings(data_dir=Path("/srv/wrenn")).tag == Paths.under(Path("/srv/wrenn")).tag


def test_only_one_supervisor_a_directory(tmp_path: Path) -> None:
    assert supervisor.running_pid(tmp_path) is None
    with supervisor.lock(tmp_path):
        assert supervisor.running_pid(tmp_path) is not None
        with pytest.raises(supervisor.AlreadyRunning), supervisor.lock(tmp_path):
            pass
    assert supervisor.running_pid(tmp_path) is None


def test_forwarding_is_put_back_only_where_it_was_off(tmp_path: Path) -> None:
    switch, remember = tmp_path / "ip_forward", tmp_path / "before"
    switch.write_text("0\n")
    forwarding.switch_on(remember, switch)
    assert forwarding.is_on(switch)
    forwarding.put_back(remember, switch)
    assert not forwarding.is_on(switch)
    switch.write_text("1\n")
    forwarding.switch_on(remember, switch)
    forwarding.put_back(remember, switch)
    assert forwarding.is_on(switch)


def test_a_taken_port_is_found_with_a_way_out() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.check_port("public port", f"127.0.0.1:{taken.getsockname()[1]}")
    assert finding.verdict is doctor.Verdict.FAIL
    assert finding.fix
