"""The pool of slots, with the kernel and nft replaced by dictionaries."""

import asyncio
import errno
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import structlog.testing

from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.slots import AT_LEAST, Slots, at_once, clean_up
from wrenn_server.linux import netlink
from wrenn_server.linux.fake.netlink import Netlink
from wrenn_server.linux.fake.nft import Nft
from wrenn_server.linux.process import CommandFailed
from wrenn_server.model.errors import Internal, InvalidRequest, Unavailable
from wrenn_server.wire.agent import Network

NETWORK = ipaddress.IPv4Network("10.214.0.0/16")
HOST_TABLE = ("", "inet", "wrenn_1a2b")


class Held(Netlink):
    """A kernel whose deletions wait for a word from the test."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.created = asyncio.Condition()

    async def create(self, plan: netlink.Namespace) -> None:
        await super().create(plan)
        async with self.created:
            self.created.notify_all()

    async def delete(self, names: Sequence[str], links: Sequence[str]) -> None:
        await self.go.wait()
        await super().delete(names, links)

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5), self.created:
            await self.created.wait_for(lambda: len(self.namespaces) >= count)


class HeldNft(Nft):
    """Transactions wait for a word from the test."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def apply(self, ruleset: str, namespace: Path | None = None) -> None:
        self.asked.set()
        await self.go.wait()
        await super().apply(ruleset, namespace)


@pytest.fixture
def kernel() -> Held:
    return Held()


@pytest.fixture
def nft() -> Nft:
    return Nft()


def make(
    kernel: Netlink,
    nft: Nft,
    *,
    limit: int = 10,
    ready: int = 2,
    network: str = "10.214.0.0/16",
    rest: Callable[[], Awaitable[object]] = at_once,
) -> Slots:
    return Slots(
        tag="1a2b",
        network=ipaddress.IPv4Network(network),
        uid_base=20000,
        limit=limit,
        ready=ready,
        rest=rest,
        netlink=kernel,
        nft=nft,
    )


async def test_entering_prepares_and_leaving_removes(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft):
        assert set(kernel.namespaces) == {"wrenn-1a2b-0", "wrenn-1a2b-1"}
        assert HOST_TABLE in nft.rulesets
    assert not kernel.namespaces
    assert not kernel.cables
    assert not nft.rulesets


async def test_a_taken_slot_is_replaced_in_the_background(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot = await slots.acquire()
        assert (slot.index, slot.uid, slot.veth) == (0, 20000, "wr1a2bv0")
        await kernel.wait_for(3)


async def test_a_busy_host_prepares_only_the_least(kernel: Held, nft: Nft) -> None:
    rest = asyncio.Event()
    async with make(kernel, nft, ready=AT_LEAST + 2, rest=rest.wait) as slots:
        assert len(kernel.namespaces) == AT_LEAST
        await slots.acquire()
        await kernel.wait_for(AT_LEAST + 1)
        await asyncio.sleep(0)
        assert len(kernel.namespaces) == AT_LEAST + 1
        rest.set()
        await kernel.wait_for(AT_LEAST + 3)


async def test_more_at_once_than_are_ready_all_get_their_own(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=50) as slots:
        taken = await asyncio.gather(*(slots.acquire() for _ in range(50)))
        assert len({slot.index for slot in taken}) == 50
        with pytest.raises(Unavailable) as refused:
            await slots.acquire()
        assert refused.value.code == "no_slots"


async def test_the_limit_holds_although_some_more_are_prepared(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=1, ready=4) as slots:
        slot = await slots.acquire()
        with pytest.raises(Unavailable):
            await slots.acquire()
        await slots.release(slot)
        await slots.acquire()


async def test_a_network_just_large_enough_is_enough(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=4, ready=4, network="10.214.0.0/28") as slots:
        assert {(await slots.acquire()).index for _ in range(4)} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="room for 4"):
        make(kernel, nft, limit=5, network="10.214.0.0/28")


async def test_release_deletes_and_is_idempotent(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, ready=0) as slots:
        slot = await slots.acquire()
        await asyncio.gather(slots.release(slot), slots.release(slot))
        await slots.release(slot)
        assert not kernel.namespaces
        assert {(await slots.acquire()).index for _ in range(10)} == set(range(10))


async def test_an_index_is_not_given_out_before_its_last_user_is_gone(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=1, ready=0) as slots:
        slot = await slots.acquire()
        kernel.go.clear()
        release = asyncio.create_task(slots.release(slot))
        await asyncio.sleep(0)
        acquire = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        assert not acquire.done()
        kernel.go.set()
        assert (await acquire).index == slot.index
        await release


async def test_a_release_goes_on_when_its_caller_is_cancelled(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, ready=0) as slots:
        slot = await slots.acquire()
        kernel.go.clear()
        release = asyncio.create_task(slots.release(slot))
        await asyncio.sleep(0)
        release.cancel()
        with pytest.raises(asyncio.CancelledError):
            await release
        kernel.go.set()
        await slots.release(slot)
        assert not kernel.namespaces


async def test_a_failed_release_can_be_repeated(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=1, ready=0) as slots:
        slot = await slots.acquire()
        kernel.fail_next = OSError(errno.EBUSY, "busy")
        with pytest.raises(OSError, match="busy"):
            await slots.release(slot)
        with pytest.raises(Unavailable):
            await slots.acquire()
        await slots.release(slot)
        await slots.acquire()


async def test_a_slot_that_cannot_be_made_is_reported_and_its_index_not_lost(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=1, ready=0) as slots:
        kernel.fail_next = OSError(errno.ENOSPC, "no room")
        with pytest.raises(OSError, match="no room"):
            await slots.acquire()
        await slots.acquire()


async def test_leftovers_go_but_adopted_and_foreign_ones_stay(kernel: Held, nft: Nft) -> None:
    kernel.namespaces = dict.fromkeys(
        ["wrenn-1a2b-0", "wrenn-1a2b-7", "wrenn-ffff-3", "wrenn-1a2b-x", "other"]
    )
    kernel.cables = {"wr1a2bv0", "wr1a2bv7", "wr1a2bv9", "wrffffv3", "eth0"}
    slots = make(kernel, nft, ready=0)
    adopted = slots.adopt(7)
    async with slots:
        assert set(kernel.namespaces) == {"wrenn-1a2b-7", "wrenn-ffff-3", "wrenn-1a2b-x", "other"}
        assert kernel.cables == {"wr1a2bv7", "wrffffv3", "eth0"}
        assert 7 not in {(await slots.acquire()).index for _ in range(9)}
        await slots.release(adopted)
        assert "wrenn-1a2b-7" not in kernel.namespaces


async def test_what_is_in_use_outlives_the_pool(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot = await slots.acquire()
    assert set(kernel.namespaces) == {slot.name}
    assert HOST_TABLE in nft.rulesets

    again = make(kernel, nft)
    assert again.adopt(slot.index) == slot
    async with again:
        await again.release(slot)
    assert not kernel.namespaces
    assert not nft.rulesets


async def test_an_adopted_slot_beyond_the_limit_of_today_can_be_released(kernel: Held, nft: Nft) -> None:
    kernel.namespaces = {"wrenn-1a2b-40": None}
    slots = make(kernel, nft, limit=2, ready=0)
    slot = slots.adopt(40)
    async with slots:
        await slots.release(slot)
        assert {(await slots.acquire()).index for _ in range(2)} == {0, 1}


async def test_a_host_that_does_not_forward_is_named_with_the_remedy(nft: Nft) -> None:
    with structlog.testing.capture_logs() as logs:
        async with make(Netlink(forwarding=False), nft):
            pass
    assert [entry["hint"] for entry in logs if entry["log_level"] == "warning"] == [
        "sysctl -w net.ipv4.ip_forward=1"
    ]


async def test_clean_up_removes_everything_of_one_tag_and_nothing_else(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        await slots.acquire()
    kernel.namespaces["wrenn-ffff-0"] = None
    nft.rulesets["", "inet", "wrenn_ffff"] = "somebody's"

    await clean_up("1a2b", kernel, nft)
    await clean_up("1a2b", kernel, nft)

    assert set(kernel.namespaces) == {"wrenn-ffff-0"}
    assert set(nft.rulesets) == {("", "inet", "wrenn_ffff")}


# Rules of single sandboxes.


async def test_default_rules_of_a_fresh_slot_cost_nothing(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot, before = await slots.acquire(), len(nft.applied)
        async with slots.enforcing(slot, Network()) as egress:
            await egress.apply(Network(allow_out=["example.org"]))  # where all is open, that is the same
            assert len(nft.applied) == before


async def test_each_change_leaves_its_own_chains_alone(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot = await slots.acquire()
        nft.applied.clear()
        async with slots.enforcing(slot, Network(internet=False)) as egress:
            await egress.apply(Network(internet=False))
            assert changes_of(nft, slot) == 1
            first = set(await nft.chains("ip", "wrenn", slot.netns))
            assert len(nft.applied) == 1  # nothing runs there yet
            await egress.apply(Network(internet=False, allow_out=["1.2.3.4"]))
            assert changes_of(nft, slot) == 2
            assert len(nft.applied) == 3
        second = set(await nft.chains("ip", "wrenn", slot.netns))
        assert len(first) == len(second) == 2
        assert not first & second


async def test_the_first_rules_of_a_running_sandbox_are_prepared_too(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot = await slots.acquire()
        nft.applied.clear()
        async with slots.enforcing(slot, Network()) as egress:
            await egress.apply(Network(internet=False))
            assert len(nft.applied) == 2


async def test_rules_stay_when_nobody_enforces_them_and_go_with_the_slot(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft, limit=1, ready=0) as slots:
        slot = await slots.acquire()
        async with slots.enforcing(slot, Network(internet=False)):
            pass
        async with slots.enforcing(slot, Network(internet=False)):
            assert changes_of(nft, slot) == 1
        await slots.release(slot)
        slot = await slots.acquire()
        async with slots.enforcing(slot, Network()):
            assert changes_of(nft, slot) == 1


async def test_an_adopted_slot_gets_its_rules_anew(kernel: Held, nft: Nft) -> None:
    """Nobody knows what the earlier agent was doing when it ended: chains of it may be in force, or only prepared."""
    kernel.namespaces = {"wrenn-1a2b-7": None}
    nft.added["wrenn-1a2b-7", "ip", "wrenn"] = ["egress_a", "intercept_a", "egress_b"]
    slots = make(kernel, nft, ready=0)
    slot = slots.adopt(7)
    async with slots, slots.enforcing(slot, Network()):
        assert changes_of(nft, slot) == 1
        assert len(await nft.chains("ip", "wrenn", slot.netns)) == 2


async def test_a_rule_that_is_not_understood_has_no_effect(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot, before = await slots.acquire(), len(nft.applied)
        with pytest.raises(InvalidRequest):
            async with slots.enforcing(slot, Network(deny_out=["nonsense"])):
                raise AssertionError
        async with slots.enforcing(slot, Network()) as egress:
            with pytest.raises(InvalidRequest):
                await egress.apply(Network(deny_out=["1.1.1.1", "nonsense"]))
        assert len(nft.applied) == before


async def test_when_the_kernel_refuses_the_old_rules_stay(kernel: Held, nft: Nft) -> None:
    async with make(kernel, nft) as slots:
        slot = await slots.acquire()
        async with slots.enforcing(slot, Network(internet=False)) as egress:
            nft.fail_next = CommandFailed(["nft"], 1, b"no memory")
            with pytest.raises(Internal):
                await egress.apply(Network())
            await egress.apply(Network(internet=False))
            assert changes_of(nft, slot) == 1
            await egress.apply(Network())
            assert changes_of(nft, slot) == 2


async def test_a_change_is_finished_although_its_caller_is_cancelled(kernel: Held) -> None:
    nft = HeldNft()
    async with make(kernel, nft) as slots:
        slot = await slots.acquire()
        async with slots.enforcing(slot, Network()) as egress:
            nft.asked.clear()
            nft.go.clear()
            change = asyncio.create_task(egress.apply(Network(internet=False)))
            await nft.asked.wait()
            change.cancel()
            second = asyncio.create_task(egress.apply(Network(internet=False)))  # has to wait for its turn
            await asyncio.sleep(0)
            assert not change.done()
            nft.go.set()
            with pytest.raises(asyncio.CancelledError):
                await change
            await second
            assert changes_of(nft, slot) == 1


def changes_of(nft: Nft, slot: Slot) -> int:
    """How often the rules of the slot were switched to others."""
    return sum(where == slot.name and "flush" in text for where, text in nft.applied)
