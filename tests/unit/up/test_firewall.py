"""What other programs' rules do to the way out of sandboxes, from listings as nft 1.0.6 and iptables 1.8.9 print them."""

import pytest

from wrenn_server.linux.firewall import closed, closed_legacy

OURS = "wr1a2bv"
DOCKER = """\
table ip nat {
	chain DOCKER {
		iifname "docker0" counter packets 0 bytes 0 return
	}
}
table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 12 bytes 720 jump DOCKER-USER
		oifname "docker0" ct state related,established counter packets 0 bytes 0 accept
		oifname "docker0" counter packets 0 bytes 0 jump DOCKER
		iifname "docker0" oifname != "docker0" counter packets 0 bytes 0 accept
	}

	chain DOCKER {
	}

	chain DOCKER-USER {
		counter packets 12 bytes 720 return
	}
}
"""
OPENED = DOCKER.replace(
    "\tchain DOCKER-USER {\n",
    '\tchain DOCKER-USER {\n\t\toifname "wr1a2bv*" counter packets 0 bytes 0 accept\n'
    '\t\tiifname "wr1a2bv*" counter packets 0 bytes 0 accept\n',
)


def chain(*rules: str, policy: str = "drop", table: str = "inet firewall", hook: str = "forward") -> str:
    base = f"type filter hook {hook} priority filter; policy {policy};"
    lines = "".join(f"\t\t{line}\n" for line in (base, *rules))
    return f"table {table} {{\n\tset names {{\n\t\ttype ifname\n\t}}\n\n\tchain passing {{\n{lines}\t}}\n}}\n"


def test_docker_is_in_the_way_until_its_chain_for_users_says_otherwise() -> None:
    [found] = closed(DOCKER, OURS)
    assert found.chain == "ip filter FORWARD"
    assert found.opening == [
        "iptables -I DOCKER-USER -i wr1a2bv+ -j ACCEPT",
        "iptables -I DOCKER-USER -o wr1a2bv+ -j ACCEPT",
    ]
    assert closed(OPENED, OURS) == []
    assert closed(OPENED, "wr9f9fv"), "opened for another installation"


def test_chains_of_others_are_opened_with_their_own_tool() -> None:
    [found] = closed(chain(), OURS)
    assert found.opening == [
        "nft 'insert rule inet firewall passing iifname \"wr1a2bv*\" accept'",
        "nft 'insert rule inet firewall passing oifname \"wr1a2bv*\" accept'",
    ]
    [found] = closed(chain(table="ip filter"), OURS)
    assert found.opening[0] == "iptables -I passing -i wr1a2bv+ -j ACCEPT"


@pytest.mark.parametrize(
    "rules",
    [
        ['iifname "wr1a2bv*" accept'],
        ['oifname "wr1a2bv*" accept', "ct state established,related accept"],
        ['iifname "wr1a2bv*" accept', 'oifname "wr1a2bv*" drop'],
        ['iifname "wr1a2bv7" accept', 'oifname "wr1a2bv7" accept'],
        ['iifname != "wr1a2bv*" oifname != "wr1a2bv*" accept'],
        ['iifname "docker0" accept', 'oifname "docker0" ct state established accept'],
        ["reject with icmpx admin-prohibited"],
    ],
)
def test_half_a_way_is_none(rules: list[str]) -> None:
    assert closed(chain(*rules), OURS)


@pytest.mark.parametrize(
    "listing",
    [
        "",
        chain(policy="accept"),
        chain(hook="input"),
        chain(table="bridge filter"),
        chain("counter packets 0 bytes 0 accept"),
        chain('iifname "wr*" counter packets 0 bytes 0 accept', "ct state related,established accept"),
        chain('iifname { "eth1", "wr1a2bv*" } accept', 'oifname "wr1a2bv*" accept'),
        chain('iifname "wr1a2bv*" oifname "wr1a2bv*" counter drop', policy="accept"),
    ],
)
def test_what_lets_pass_is_not_in_the_way(listing: str) -> None:
    assert closed(listing, OURS) == []


def test_a_chain_that_ends_in_a_refusal_stops_too() -> None:
    refusing = chain(
        "ct state established,related accept",
        "counter packets 3 bytes 180 reject with icmpx admin-prohibited",
        policy="accept",
    )
    assert closed(refusing, OURS)


LEGACY = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n"


def test_the_older_iptables_is_looked_at_too() -> None:
    [found] = closed_legacy(LEGACY, OURS)
    assert found.opening[0] == "iptables-legacy -I FORWARD -i wr1a2bv+ -j ACCEPT"
    docker = LEGACY + "-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n"
    [found] = closed_legacy(docker, OURS)
    assert found.opening[1] == "iptables-legacy -I DOCKER-USER -o wr1a2bv+ -j ACCEPT"
    half = docker + "-A DOCKER-USER -i wr1a2bv+ -j ACCEPT\n"
    assert closed_legacy(half, OURS)
    assert closed_legacy(half + "-A DOCKER-USER -o wr1a2bv+ -j ACCEPT\n", OURS) == []
    assert closed_legacy(LEGACY.replace("DROP", "ACCEPT"), OURS) == []
