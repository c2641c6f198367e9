"""Settings: the documented names and defaults, and clear words for what cannot be."""

from pathlib import Path

import pytest

from wrenn_server.hostagent.config import ConfigError, load
from wrenn_server.linux.env_file import read_env_file
from wrenn_server.model.address import Address


def test_the_documented_defaults() -> None:
    config = load({})
    assert str(config.listen) == ":50051"
    assert config.kernel == Path("/var/lib/wrenn/kernels/vmlinux")
    assert config.initrd == Path("/var/lib/wrenn/kernels/initrd")
    assert config.images == Path("/var/lib/wrenn/images")
    assert config.sandboxes == Path("/var/lib/wrenn/sandboxes")
    assert config.token_file == Path("/var/lib/wrenn/host-token")
    assert (config.cp_url, config.vmm, config.uid_base, str(config.network)) == (
        None,
        "auto",
        20000,
        "10.213.0.0/16",
    )


def test_everything_follows_the_data_directory_and_can_be_set_apart() -> None:
    config = load({"WRENN_DATA_DIR": "/srv/w", "AGENT_KERNEL_PATH": "/boot/k/vmlinux"})
    assert (config.images, config.token_file) == (Path("/srv/w/images"), Path("/srv/w/host-token"))
    assert config.initrd == Path("/boot/k/initrd")


def test_all_mistakes_are_told_at_once() -> None:
    environment = {
        "WRENN_DATA_DIR": "relative",
        "AGENT_CP_URL": "cp-host:8000",
        "AGENT_LISTEN_ADDR": "50051",
        "AGENT_UID_BASE": "0",
        "AGENT_NETWORK": "10.213.0.1/16",
        "AGENT_VMM": "xen",
    }
    with pytest.raises(ConfigError) as error:
        load(environment, "http://10.0.1.5:50051")
    for name in (*environment, "--address"):
        assert name in str(error.value)


def test_more_slots_than_the_network_has_room_for() -> None:
    with pytest.raises(ConfigError, match="room for 64 slots"):
        load({"AGENT_NETWORK": "10.9.8.0/24", "AGENT_SLOTS": "65"})


@pytest.mark.parametrize(
    ("listen", "address", "plain", "bound"),
    [
        (":50051", None, True, "127.0.0.1:50051"),  # reached by CP_HOST_AGENT_ADDR, which is on this machine
        ("0.0.0.0:50051", "localhost:50051", True, "127.0.0.1:50051"),
        ("127.0.0.1:50051", "127.0.0.1:50051", True, "127.0.0.1:50051"),
        (":50051", "10.0.1.5:50051", False, ":50051"),
        (":50051", "agent.example:50051", False, ":50051"),
    ],
)
def test_plain_http_never_leaves_the_machine(
    listen: str, address: str | None, plain: bool, bound: str
) -> None:
    config = load({"AGENT_LISTEN_ADDR": listen}, address)
    assert (config.plain, str(config.bind)) == (plain, bound)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "h/p:1", "u@h:1", ":٣"])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Address.parse_listen(text)


def test_env_files(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# comment\n\nexport A=1\nB = 'two words' \nC=\"x=y\"\nD=\n")
    assert read_env_file(file) == {"A": "1", "B": "two words", "C": "x=y", "D": ""}
    file.write_text("A=1\nnonsense\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_env_file(file)
