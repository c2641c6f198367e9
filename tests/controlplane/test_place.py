"""The scheduler's choice."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from msgspec.structs import replace

from wrenn_server.controlplane.scheduler.place import Saved, Wish, choose, load_with
from wrenn_server.db.hosts import Candidate
from wrenn_server.db.sandboxes import Room

ROOM = Room(cpus=2.0, memory=1.0, disk=1.0)
ANY = Wish("team_a")


def host(name: str, **changes: object) -> Candidate:
    values = {"cpus": 4, "memory_mb": 8192, "disk_mb": 100_000}
    reserved = {"cpus_reserved": 0, "memory_mb_reserved": 0, "disk_mb_reserved": 0, "sandboxes": 0}
    return convert({"id": name, "address": None, **values, **reserved, **changes}, Candidate)


def pick(
    *hosts: Candidate, chance: int = 0, vcpus: int = 1, without: tuple[str, ...] = (), wish: Wish = ANY
) -> str | None:
    chosen = choose(
        hosts, vcpus=vcpus, memory_mb=512, disk_mb=5120, room=ROOM, wish=wish, chance=chance, without=without
    )
    return chosen.id if chosen else None


def test_the_least_loaded_host_is_chosen_by_what_is_scarcest_there() -> None:
    assert pick(host("a", memory_mb_reserved=4096), host("b", cpus_reserved=2)) == "b"
    assert pick(host("a", disk_mb_reserved=90_000), host("b", cpus_reserved=4)) == "b"


def test_it_must_fit() -> None:
    assert pick() is None
    assert pick(host("a", memory_mb_reserved=8000)) is None
    assert pick(host("a", disk_mb_reserved=96_000)) is None
    assert pick(host("a"), vcpus=8) == "a", "processors may be promised twice"
    assert pick(host("a"), vcpus=9) is None
    assert pick(host("a", cpus=0)) is None


def test_hosts_that_refused_are_left_out() -> None:
    assert pick(host("a"), host("b"), without=("a",)) == "b"
    assert pick(host("a"), without=("a",)) is None


def test_equal_hosts_are_chosen_by_chance() -> None:
    hosts = [host(name) for name in "abcd"]
    counts = Counter(pick(*hosts, chance=n) for n in range(400))
    assert counts == dict.fromkeys("abcd", 100)


def test_a_team_with_hosts_of_its_own_goes_to_those_alone() -> None:
    everybodys, own, others = host("a"), host("b", team_id="team_a"), host("c", team_id="team_b")
    assert pick(everybodys, own, others) == "b"
    assert pick(everybodys, others) == "a"
    assert pick(others) is None, "another team's is nobody else's"
    full = host("b", team_id="team_a", cpus_reserved=8)
    assert pick(everybodys, full) is None, "what is to stay on its own machines does not overflow"


def test_tags_and_zone_are_demanded() -> None:
    hosts = [host("a"), host("b", tags=["gpu", "ssd"]), host("c", tags=["ssd"], availability_zone="z")]
    assert pick(*hosts, wish=Wish("t", frozenset(("gpu",)))) == "b"
    assert pick(*hosts, wish=Wish("t", frozenset(("ssd",)), "z")) == "c"
    assert pick(*hosts, wish=Wish("t", frozenset(("gpu",)), "z")) is None


names = st.sampled_from(["", "x86_64/fc/a", "x86_64/qemu/a", "arm64/fc/a"])
stores = st.sampled_from(["", "one", "two"])
teams = st.sampled_from(["team_a", "team_b"])
zones = st.sampled_from([None, "y", "z"])
tags = st.sets(st.sampled_from(["gpu", "ssd"]))
wishes = st.builds(Wish, teams, tags.map(frozenset[str]), zones)
candidates = st.lists(
    st.builds(
        host,
        st.text("abcdef", min_size=1, max_size=3),
        machine=names,
        store=stores,
        draining=st.booleans(),
        has_image=st.booleans(),
        team_id=st.none() | teams,
        tags=tags.map(list[str]),
        availability_zone=zones,
        cpus_reserved=st.integers(0, 9),
        memory_mb_reserved=st.integers(0, 9000),
        disk_mb_reserved=st.integers(0, 110_000),
    ),
    max_size=8,
)


@given(candidates, wishes, st.integers(0, 2**32))
def test_no_team_is_on_a_host_that_is_not_for_it(hosts: list[Candidate], wish: Wish, chance: int) -> None:
    chosen = choose(hosts, vcpus=1, memory_mb=512, disk_mb=5120, room=ROOM, wish=wish, chance=chance)
    owned = any(h.team_id == wish.team_id for h in hosts)
    able = [
        h
        for h in hosts
        if h.team_id == (wish.team_id if owned else None)
        and not h.draining
        and wish.tags <= set(h.tags)
        and (wish.availability_zone is None or h.availability_zone == wish.availability_zone)
        and load_with(h, 1, 512, 5120, ROOM) <= 1
    ]
    assert (chosen is not None) == bool(able)
    assert chosen is None or chosen in able


@given(candidates, st.builds(Saved, store=stores, machine=names, memory=st.booleans()), st.integers(0, 2**32))
def test_what_was_saved_goes_on_only_where_it_can(hosts: list[Candidate], saved: Saved, chance: int) -> None:
    hosts = [replace(h, team_id=None) for h in hosts]
    chosen = choose(
        hosts,
        vcpus=1,
        memory_mb=512,
        disk_mb=5120,
        room=ROOM,
        wish=ANY,
        chance=chance,
        saved=saved,
        without=("a",),
    )
    able = [
        h
        for h in hosts
        if h.id != "a"
        and not h.draining
        and h.store == saved.store != ""
        and (
            h.machine == saved.machine
            if saved.memory
            else h.machine.split("/")[0] == saved.machine.split("/")[0]
        )
        and h.machine
        and load_with(h, 1, 512, 5120, ROOM) <= 1
    ]
    assert (chosen is not None) == bool(able)
    if chosen is not None:
        assert chosen in able
        assert chosen.has_image or not any(h.has_image for h in able), "nothing is fetched without need"
        best = min(load_with(h, 1, 512, 5120, ROOM) for h in able if h.has_image == chosen.has_image)
        assert load_with(chosen, 1, 512, 5120, ROOM) <= best + 0.021
