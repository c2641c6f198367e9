"""Joining and heartbeats, against a control plane that is a socket with a script."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hostagent.calls import HOST, Signer
from hostagent.control_plane import FakeControlPlane

from wrenn_server.hostagent import app, config, credentials, heartbeat, registration, specs
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import CredentialsError
from wrenn_server.hostagent.registration import RegistrationFailed
from wrenn_server.wire.agent import HostSpecs

SPECS = HostSpecs(
    arch="x86_64",
    cpus=2,
    memory_mb=1,
    disk_mb=1,
    vmm="qemu",
    vmm_version="7.2",
    accelerated=False,
    version="0",
)


def registered(**changes: object) -> dict[str, object]:
    key = (
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return {
        "host_id": HOST,
        "token": "host.jwt",
        "cert_pem": "c",
        "ca_cert_pem": "ca",
        "control_plane_key_pem": key.decode(),
    } | changes


async def test_a_host_joins_and_keeps_what_it_got_in_one_private_file(
    cp: FakeControlPlane, tmp_path: Path
) -> None:
    cp.answer = lambda path, body: (200, registered())
    got = await registration.register(ControlPlane(cp.url), "tok", "10.0.1.5:50051", SPECS)
    path, _, body = await cp.calls.get()
    assert (path, body["token"], body["address"], body["specs"]["arch"]) == (
        "/v1/hosts/register",
        "tok",
        "10.0.1.5:50051",
        "x86_64",
    )
    request = x509.load_pem_x509_csr(body["csr_pem"].encode())
    assert request.is_signature_valid
    [name] = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert str(name.value) == "10.0.1.5"
    assert "PRIVATE" not in json.dumps(body)
    file = tmp_path / "deep" / "host-token"
    credentials.save(file, got)
    assert file.stat().st_mode & 0o777 == 0o600
    assert credentials.load(file) == got
    assert got.came_from("tok")
    assert not got.came_from("another")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"error": {"code": "unauthorized", "message": "token expired"}}), "token expired.*/token"),
        ((409, {"error": {"code": "conflict", "message": "address taken"}}), "address taken"),
        ((502, None), "refused to register"),
        ((200, {"hello": 1}), "token may be used up"),
        ((200, registered(control_plane_key_pem="x")), "no usable key"),
        (None, "cannot be reached"),
    ],
)
async def test_a_failure_says_what_to_do(
    cp: FakeControlPlane, answer: tuple[int, object] | None, words: str
) -> None:
    cp.answer = lambda path, body: answer
    with pytest.raises(RegistrationFailed, match=words):
        await registration.register(ControlPlane(cp.url), "tok", None, SPECS)


async def test_a_control_plane_that_is_not_there(unused_tcp_port: int) -> None:
    with pytest.raises(RegistrationFailed, match="AGENT_CP_URL"):
        await registration.register(ControlPlane(f"http://127.0.0.1:{unused_tcp_port}"), "tok", None, SPECS)


def test_a_damaged_credentials_file_is_not_overwritten_or_taken_for_none(tmp_path: Path) -> None:
    file = tmp_path / "host-token"
    assert credentials.load(file) is None
    file.write_text("{")
    with pytest.raises(CredentialsError, match="register this host again"):
        credentials.load(file)


# Heartbeats.


@pytest.fixture
async def heart(cp: FakeControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[heartbeat.Heart]:
    monkeypatch.setattr(heartbeat, "COALESCE", 0.0)
    monkeypatch.setattr(heartbeat, "FIRST_PAUSE", 0.001)

    async def specs() -> HostSpecs:
        return SPECS

    content = heartbeat.Content(
        address=None, started_at=7.0, specs=specs, sandboxes=list, templates=lambda: ["minimal"]
    )
    heart = heartbeat.Heart(ControlPlane(cp.url), Signer().credentials(), content)
    task = asyncio.create_task(heart.run())
    yield heart
    task.cancel()


async def test_it_beats_at_once_and_after_a_change(cp: FakeControlPlane, heart: heartbeat.Heart) -> None:
    async with asyncio.timeout(5):
        path, headers, body = await cp.calls.get()
        assert path == f"/v1/hosts/{HOST}/heartbeat"
        assert headers["x-host-token"] == "t"
        assert (body["sequence"], body["started_at"], body["templates"]) == (1, 7.0, ["minimal"])
        for number in (2, 3):
            heart.wake()
            assert (await cp.calls.get())[2]["sequence"] == number


@pytest.mark.parametrize("answer", [(401, {}), (404, {}), (500, None), None])
async def test_no_answer_stops_it(
    cp: FakeControlPlane, heart: heartbeat.Heart, answer: tuple[int, object] | None
) -> None:
    cp.answer = lambda path, body: answer
    async with asyncio.timeout(5):
        for _ in range(3):
            await cp.calls.get()
        cp.answer = lambda path, body: (204, None)
        while heart.last_success is None:
            heart.wake()
            await cp.calls.get()


def test_the_certificate_that_was_signed_is_served(tmp_path: Path) -> None:
    """Only that loading works and leaves no key behind; TLS itself is the listener's test."""
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    from wrenn_server.hostagent.tunnel import server_context

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    context = server_context(certificate, private, tmp_path)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert list(tmp_path.iterdir()) == []


def test_configuration_reaches_the_paths() -> None:
    settings = config.load({"WRENN_DATA_DIR": "/srv/w", "AGENT_IMAGES_PATH": "/srv/images"})
    assert settings.paths.images == Path("/srv/images")
    assert settings.paths.run == Path("/srv/w/run")


def test_of_two_agents_with_one_data_directory_one_runs(tmp_path: Path) -> None:
    with app.only_one(tmp_path):
        with pytest.raises(app.AlreadyRunning, match=str(tmp_path.parent)), app.only_one(tmp_path):
            raise AssertionError("both run")
    with app.only_one(tmp_path):
        pass


def test_a_copy_of_a_data_directory_is_another_installation(tmp_path: Path) -> None:
    for name in ("first", "copy"):
        (tmp_path / name).mkdir()
    first = specs.installation(tmp_path / "first")
    assert first == specs.installation(tmp_path / "first")
    assert first != specs.installation(tmp_path / "copy")
