import pytest

from wrenn_server.images.apt import (
    Source,
    UnsuitableHost,
    carried_settings,
    debian_sources,
    host_suite,
    require_tools,
)

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'


def test_suite_of_debian():
    assert host_suite(DEBIAN) == "bookworm"


@pytest.mark.parametrize(
    "text",
    [
        'PRETTY_NAME="Fedora Linux 43"\nID=fedora\n',
        'PRETTY_NAME="Debian GNU/Linux trixie/sid"\nID=debian\n',
        "",
    ],
)
def test_other_systems_are_refused(text: str):
    with pytest.raises(UnsuitableHost, match="Debian"):
        host_suite(text)


def test_sources_are_debians_own_of_this_release():
    targets = "\n".join(
        [
            "Debian|http://mirror.test/debian/|bookworm|main",
            "Debian|http://mirror.test/debian/|bookworm|contrib",
            "Debian|http://mirror.test/debian/|bookworm|main",
            "Debian|http://mirror.test/debian/|bookworm-updates|main",
            "Debian|http://mirror.test/security/|bookworm-security|main",
            "Debian|http://mirror.test/debian/|trixie|main",
            "Debian Backports|http://mirror.test/debian/|bookworm-backports|main",
            "Vendor|https://vendor.test/apt/|bookworm|main",
            "|https://nameless.test/apt/|bookworm|main",
        ]
    )
    assert debian_sources(targets, "bookworm") == [
        Source("http://mirror.test/debian/", "bookworm", ("main", "contrib")),
        Source("http://mirror.test/debian/", "bookworm-updates", ("main",)),
        Source("http://mirror.test/security/", "bookworm-security", ("main",)),
    ]
    assert (
        str(debian_sources(targets, "bookworm")[0]) == "deb http://mirror.test/debian/ bookworm main contrib"
    )


def test_no_sources():
    assert debian_sources("", "bookworm") == []


def test_only_settings_of_the_connection_are_carried():
    dump = "\n".join(
        [
            'APT::Architecture "amd64";',
            'Acquire "";',
            'Acquire::http "";',
            'Acquire::http::Proxy "http://proxy.test:3128";',
            'Acquire::Check-Date "false";',
            'Dir::State "var/lib/apt";',
            'DPkg::Post-Invoke:: "rm -f x";',
        ]
    )
    assert carried_settings(dump) == [
        'Acquire::http::Proxy "http://proxy.test:3128";',
        'Acquire::Check-Date "false";',
    ]


def test_missing_tools_are_named_by_package():
    require_tools(("sh", "dash"))
    with pytest.raises(UnsuitableHost, match=r"apt-get install one two$"):
        require_tools(("no-such-2", "two"), ("sh", "dash"), ("no-such-1", "one"), ("no-such-3", "two"))
