"""`/v1/rate-card`, `/v1/invoices`: what pools cost."""

from datetime import UTC
from typing import Any

import msgspec
from litestar import Request, Response, get, put
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane import schema_pools as schema
from wrenn_server.controlplane.api import etag
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import invoices, ledger
from wrenn_server.db.ledger import RateRow
from wrenn_server.model.pricing import Prices


@get("/v1/rate-card", operation_id="getRateCard", tags=["pools"])
async def rate_card(cp: Cp, caller: Who) -> list[schema.Rate]:
    """All prices that ever were and that will be, oldest first. The newest that has begun is in force."""
    return [_rate(row) for row in await ledger.rates(cp)]


@put("/v1/admin/rate-card", operation_id="setRateCard", tags=["admin"])
async def set_rate_card(cp: Cp, caller: Who, data: JSONBody[schema.RateSet]) -> schema.Rate:
    """Set the prices from now or from a later time on. What was charged before stays as it is."""
    start = data.effective_from
    row = await ledger.set_rate(
        cp,
        effective_from=start.astimezone(UTC) if start else None,
        currency=data.currency,
        prices=_prices(data.prices),
        metered=_prices(data.metered or data.prices),
        created_by=caller.user_id,
    )
    return _rate(row)


@get("/v1/invoices", operation_id="listInvoices", tags=["pools"])
async def listing(cp: Cp, caller: Who) -> list[schema.InvoiceSummary]:
    """The team's invoices, one for each month that is over, newest first."""
    return [
        schema.InvoiceSummary(
            id=row.id,
            month=f"{row.month:%Y-%m}",
            currency=row.currency,
            total_micros=row.total,
            issued_at=row.issued_at,
        )
        for row in await invoices.listing(cp, caller.team_id)
    ]


@get("/v1/invoices/preview", operation_id="previewInvoice", tags=["pools"])
async def preview(cp: Cp, caller: Who) -> schema.Invoice:
    """This month's, as if it ended now; beside it what the same would cost by the second of each sandbox."""
    return msgspec.convert(await invoices.preview(cp, caller.team_id), schema.Invoice, from_attributes=True)


@get(
    "/v1/invoices/{invoice_id:str}",
    operation_id="getInvoice",
    tags=["pools"],
    responses={200: ResponseSpec(schema.Invoice, description="The document", generate_examples=False)},
)
async def get_one(
    cp: Cp, caller: Who, request: Request[Any, Any, Any], invoice_id: FromPath[str]
) -> Response[bytes]:
    """One invoice, word for word as it was issued: its `ETag` stays."""
    row = await invoices.get(cp, caller.team_id, invoice_id)
    return etag.document(request, row.document.encode(), "application/json")


@get(
    "/v1/invoices/{invoice_id:str}/csv",
    operation_id="getInvoiceCsv",
    tags=["pools"],
    media_type="text/csv",
)
async def get_csv(cp: Cp, caller: Who, invoice_id: FromPath[str]) -> Response[str]:
    """The same as rows: one for each line, then the totals."""
    row = await invoices.get(cp, caller.team_id, invoice_id)
    return Response(row.csv, media_type="text/csv")


def _rate(row: RateRow) -> schema.Rate:
    rate = row.rate
    return schema.Rate(
        currency=rate.currency,
        prices=_shown(rate.prices),
        metered=_shown(rate.metered),
        effective_from=rate.effective_from,
    )


def _shown(prices: Prices) -> schema.Prices:
    return schema.Prices(vcpu_hour=prices.vcpu_hour, gib_hour=prices.gib_hour, gib_month=prices.gib_month)


def _prices(given: schema.Prices) -> Prices:
    return Prices(given.vcpu_hour, given.gib_hour, given.gib_month)


ROUTES = [rate_card, listing, preview, get_one, get_csv]
ADMIN_ROUTES = [set_rate_card]
