"""What the native API takes and gives about pools, prices and invoices, as in `schema.py`. Money is in millionths of the
currency's unit."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from wrenn_server.controlplane.schema import Request, Time

Amount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Micros = Annotated[int, Meta(ge=0, le=10**15)]
PlanName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]


class Capacity(Struct, kw_only=True):
    """Memory and disk in MiB."""

    vcpus: int
    memory_mb: int
    disk_mb: int


class Pool(Struct, kw_only=True):
    unlimited: Annotated[
        bool, Meta(description="There is no pool: the hosts alone bound what the team may have")
    ]
    bought: Capacity | UnsetType = UNSET
    drawn: Annotated[Capacity, Meta(description="By sandboxes that run; of paused ones the disk alone")]
    free: Capacity | UnsetType = UNSET
    waiting: Annotated[int, Meta(description="Requests that wait for room")]
    spend_limit: Micros | None = None
    version: Annotated[int, Meta(description="Grows with each change of its size; 0: there is no pool")]
    updated_at: Time | UnsetType = UNSET


class PoolSet(Request):
    """Either a plan, or all three of vCPUs, memory and disk."""

    plan: PlanName | None = None
    vcpus: Amount | None = None
    memory_mb: Amount | None = None
    disk_mb: Amount | None = None
    spend_limit: Annotated[
        Micros | UnsetType | None,
        Meta(
            description="A month's, in millionths: growth that would cost more is refused; null: none; absent: as before"
        ),
    ] = UNSET
    version: Annotated[int | None, Meta(description="Refuse when the pool has another one by now")] = None


class PoolChange(Struct, kw_only=True):
    kind: Literal["open", "resize", "close"]
    version: int
    vcpus: int
    memory_mb: int
    disk_mb: int
    spend_limit: Micros | None
    changed_by: Annotated[str | UnsetType, Meta(description="Id of a user or an API key")] = UNSET
    at: Time


class Label(Request):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    value: Annotated[str, Meta(max_length=4096)]


class PoolCapSet(Request):
    """For the sandboxes of one API key, or for those with a label, which is an entry of their metadata. An absent bound is
    none."""

    key_id: Annotated[str, Meta(max_length=64)] | None = None
    label: Label | None = None
    vcpus: Amount | None = None
    memory_mb: Amount | None = None
    disk_mb: Amount | None = None


class PoolCap(Struct, kw_only=True):
    id: str
    key_id: str | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    vcpus: int | UnsetType = UNSET
    memory_mb: int | UnsetType = UNSET
    disk_mb: int | UnsetType = UNSET
    drawn: Capacity
    created_at: Time


class PlanSet(Request):
    vcpus: Amount
    memory_mb: Amount
    disk_mb: Amount
    spend_limit: Micros | None = None
    default: Annotated[bool, Meta(description="New teams get a pool of this size")] = False


class Plan(Struct, kw_only=True):
    name: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    spend_limit: Micros | None
    default: bool


# Prices and invoices


class Prices(Request):
    """Millionths of the currency's unit. A GiB-month is that of the calendar month, in UTC."""

    vcpu_hour: Micros
    gib_hour: Micros
    gib_month: Annotated[int, Meta(ge=0, le=10**15, description="Of disk")]


class RateSet(Request):
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]
    prices: Prices
    metered: Annotated[
        Prices | None,
        Meta(description="By the second of each sandbox, for comparison on invoices; absent: as `prices`"),
    ] = None
    effective_from: Annotated[
        Time | None, Meta(description="A whole second that is not over yet; absent: now")
    ] = None


class Rate(Struct, kw_only=True):
    currency: str
    prices: Prices
    metered: Prices
    effective_from: Time


class InvoiceLine(Struct, kw_only=True):
    resource: Literal["vcpus", "memory", "disk"]
    quantity: int
    unit: str
    period_from: Annotated[Time, Meta(description="`from`")] = field(name="from")
    period_to: Time = field(name="to")
    seconds: int
    price_micros: int
    per: str
    amount_micros: int


class MeteredCost(Struct, kw_only=True):
    """What the same month costs by the second of each sandbox."""

    vcpu_seconds: int
    memory_mb_seconds: int
    disk_mb_seconds: int
    total_micros: int


class Invoice(Struct, kw_only=True):
    id: Annotated[str | None, Meta(description="Null: it is not issued")]
    team_id: str
    month: Annotated[str, Meta(description="YYYY-MM, in UTC")]
    currency: str
    lines: list[InvoiceLine]
    total_micros: int
    by_sandbox_second: MeteredCost
    until: Annotated[Time, Meta(description="Up to when it counts")]
    issued_at: Time | None


class InvoiceSummary(Struct, kw_only=True):
    id: str
    month: str
    currency: str
    total_micros: int
    issued_at: Time
