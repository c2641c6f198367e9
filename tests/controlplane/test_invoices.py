"""Pools are charged by the second; months get invoices."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.simulated import World
from wrenn_server.controlplane.reconcile import invoices as reconcile_invoices
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.pricing import month_start

SIZE = {"vcpus": 2, "memory_mb": 2048, "disk_mb": 10240}
PRICES = {"vcpu_hour": 36_000, "gib_hour": 3_600, "gib_month": 1_000_000}
METERED = {"vcpu_hour": 72_000, "gib_hour": 7_200, "gib_month": 2_000_000}


async def set_prices(world: World, **changes: Any) -> dict[str, Any]:
    body = {"currency": "EUR", "prices": PRICES, "metered": METERED, **changes}
    answer = await world.user.put("/v1/admin/rate-card", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def buy(world: World, **changes: Any) -> None:
    answer = await world.user.put("/v1/pool", {**SIZE, **changes})
    assert answer.status_code == 200, answer.text


async def backdate(world: World, to: datetime) -> None:
    """As if the pool and the prices had been there since then."""
    await world.cp.db.execute("UPDATE pools SET charged_until = $1, opened_at = $1", to)
    await world.cp.db.execute("ALTER TABLE rate_card DISABLE TRIGGER append_only")
    await world.cp.db.execute("UPDATE rate_card SET effective_from = $1 WHERE currency = 'EUR'", to)
    await world.cp.db.execute("ALTER TABLE rate_card ENABLE TRIGGER append_only")


async def ledger_balances(world: World) -> None:
    assert await world.cp.db.fetchval("SELECT coalesce(sum(amount), 0) FROM ledger_entries") == 0


async def test_prices(world: World) -> None:
    assert (await world.api.get("/v1/rate-card")).json()[0]["prices"]["vcpu_hour"] == 0
    first = await set_prices(world, metered=None)
    assert first["metered"] == PRICES
    later = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    assert (await set_prices(world, effective_from=later.isoformat()))["metered"] == METERED
    assert len((await world.api.get("/v1/rate-card")).json()) == 3
    for changes, status, code in (
        ({"effective_from": (later - timedelta(days=2)).isoformat()}, 400, "invalid_request"),
        ({"effective_from": (later + timedelta(microseconds=1)).isoformat()}, 400, "invalid_request"),
        ({"effective_from": later.isoformat()}, 409, "rate_exists"),
        ({"currency": "USD"}, 409, "currency_changed"),
    ):
        body = {"currency": "EUR", "prices": PRICES, **changes}
        answer = await world.user.put("/v1/admin/rate-card", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_month_is_invoiced_to_the_second(world: World) -> None:
    """Bought an hour before the month's end, doubled half an hour later."""
    await set_prices(world)
    await buy(world)
    month = month_start(datetime.now(UTC))
    await backdate(world, month - timedelta(hours=1))
    db = world.cp.db
    # The growth half an hour before the month's end, as if the clock had been there
    await db.execute("UPDATE pools SET charged_until = $1", month - timedelta(minutes=30))
    await db.execute(
        """WITH t AS (INSERT INTO ledger_transactions (team_id, period_from, period_to, rate_id, vcpus, memory_mb, disk_mb)
                      SELECT $1, $2::timestamptz, $2 + interval '30 minutes', max(id), 1, 1024, 5120 FROM rate_card
                      RETURNING id)
           INSERT INTO ledger_entries SELECT id, a, n FROM t, (VALUES ('team:' || $1, 20800), ('revenue:vcpus', -18000),
                  ('revenue:memory', -1800), ('revenue:disk', -1000)) v (a, n)""",
        world.admin.team_id,
        month - timedelta(hours=1),
    )
    await reconcile_invoices.converge(world.cp)
    await reconcile_invoices.converge(world.cp)
    await ledger_balances(world)
    [summary] = (await world.user.get("/v1/invoices")).json()
    last = month - timedelta(days=1)
    assert summary["month"] == f"{last:%Y-%m}"
    invoice = (await world.user.get(f"/v1/invoices/{summary['id']}")).json()
    second_half = {line["resource"]: line for line in invoice["lines"][3:]}
    seconds = (month - month_start(last)).total_seconds()
    assert second_half["vcpus"]["amount_micros"] == 36_000  # two for half an hour
    assert second_half["memory"]["amount_micros"] == 3_600
    assert second_half["disk"]["amount_micros"] == round(10 * 1_000_000 * 1800 / seconds)
    assert {line["seconds"] for line in invoice["lines"]} == {1800}
    assert invoice["total_micros"] == sum(line["amount_micros"] for line in invoice["lines"])
    assert summary["total_micros"] == invoice["total_micros"]
    table = list(
        csv.DictReader(io.StringIO((await world.user.get(f"/v1/invoices/{summary['id']}/csv")).text))
    )
    assert sum(int(row["amount_micros"]) for row in table[:-2]) == invoice["total_micros"]
    assert [int(row["amount_micros"]) for row in table[-2:]] == [invoice["total_micros"], 0]
    assert table[0]["from"] == invoice["lines"][0]["from"]
    answer = await world.user.get("/v1/invoices/ivc_x")
    assert answer.status_code == 404


async def test_months_without_anybody_looking(world: World) -> None:
    await set_prices(world)
    await buy(world)
    month = month_start(datetime.now(UTC))
    start = month_start(month_start(month - timedelta(days=1)) - timedelta(days=1))
    await backdate(world, start)
    await reconcile_invoices.converge(world.cp)
    found = (await world.user.get("/v1/invoices")).json()
    assert len(found) == 2
    assert found[0]["month"] > found[1]["month"]
    for summary in found:
        invoice = (await world.user.get(f"/v1/invoices/{summary['id']}")).json()
        hours = invoice["lines"][0]["seconds"] // 3600
        assert invoice["total_micros"] == 2 * hours * 36_000 + 2 * hours * 3_600 + 10_000_000
    assert await world.cp.db.fetchval("SELECT charged_until FROM pools") == month
    await ledger_balances(world)


async def test_every_change_is_charged_at_once(world: World) -> None:
    await set_prices(world)
    await buy(world)
    hour_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    if month_start(hour_ago) != month_start(datetime.now(UTC)):
        pytest.skip("the month has just begun")
    await backdate(world, hour_ago)
    await buy(world, vcpus=4)
    charged = await world.cp.db.fetchval("SELECT amount FROM ledger_entries WHERE account = 'revenue:vcpus'")
    assert 2 * 36_000 <= -charged <= 2 * 36_000 + 60 * 20  # and the seconds of this test
    preview = (await world.user.get("/v1/invoices/preview")).json()
    assert preview["id"] is None
    assert {line["quantity"] for line in preview["lines"] if line["resource"] == "vcpus"} <= {2, 4}
    assert preview["total_micros"] >= -charged
    path = f"/v1/admin/teams/{world.admin.team_id}/pool"
    assert (await world.user.delete(path)).status_code == 204
    await ledger_balances(world)
    after = (await world.user.get("/v1/invoices/preview")).json()
    assert after["total_micros"] >= preview["total_micros"]
    assert (await world.user.get("/v1/invoices/preview")).json()["lines"] == after["lines"], "it is over"


async def test_beside_it_what_sandbox_seconds_would_cost(world: World, host: SimulatedAgent) -> None:
    await set_prices(world)
    await buy(world)
    await world.new_sandbox(memory_mb=1024)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=100)
    if month_start(start) != month_start(datetime.now(UTC)):
        pytest.skip("the month has just begun")
    await backdate(world, start)
    await world.cp.db.execute("UPDATE draws SET began_at = $1", start)
    found = (await world.user.get("/v1/invoices/preview")).json()["by_sandbox_second"]
    seconds = found["vcpu_seconds"]
    assert 100 <= seconds <= 130
    assert found["memory_mb_seconds"] == 1024 * seconds
    assert found["disk_mb_seconds"] == 5120 * seconds
    assert abs(found["total_micros"] - (20 * seconds + 2 * seconds + 3.87 * seconds)) < 50


async def test_a_spend_limit_stops_growth(world: World) -> None:
    await set_prices(world)
    month = 31 * 24 * (2 * 36_000 + 2 * 3_600) + 10_000_000
    await buy(world, spend_limit=month)
    answer = await world.user.put("/v1/pool", {**SIZE, "vcpus": 2000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "spend_limit_reached")
    assert (await world.user.get("/v1/pool")).json()["bought"] == SIZE
    await buy(world, vcpus=1)  # shrinks
    answer = await world.user.put("/v1/pool", {**SIZE, "vcpus": 2000, "spend_limit": 1})
    assert answer.status_code == 409
    await buy(world, vcpus=2000, spend_limit=None)


async def test_nobody_sees_anothers(world: World) -> None:
    other = await world.api.get("/v1/invoices/ivc_00000000000000000000/csv")
    assert other.status_code == 404
    answer = await world.api.put("/v1/admin/rate-card", {"currency": "EUR", "prices": PRICES})
    assert answer.status_code == 401, "an API key is no administrator"
