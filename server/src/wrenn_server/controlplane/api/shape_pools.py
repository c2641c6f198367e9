"""Pools, prices and invoices between rows and what the API gives, as in `shape.py`."""

from msgspec import UNSET

from wrenn_server.controlplane import schema_pools as schema
from wrenn_server.controlplane.services.pools import View
from wrenn_server.db.pools import CapRow, ChangeRow, PlanRow
from wrenn_server.model.pool import Capacity


def capacity(size: Capacity) -> schema.Capacity:
    return schema.Capacity(vcpus=size.vcpus, memory_mb=size.memory_mb, disk_mb=size.disk_mb)


def pool(view: View) -> schema.Pool:
    row = view.pool
    if row is None:
        return schema.Pool(unlimited=True, drawn=capacity(view.drawn), waiting=0, version=0)
    bought, drawn = row.bought, row.drawn
    free = Capacity(
        bought.vcpus - drawn.vcpus, bought.memory_mb - drawn.memory_mb, bought.disk_mb - drawn.disk_mb
    )
    return schema.Pool(
        unlimited=False,
        bought=capacity(bought),
        drawn=capacity(drawn),
        free=capacity(free),
        waiting=view.waiting,
        spend_limit=row.spend_limit,
        version=row.version,
        updated_at=row.updated_at,
    )


def change(row: ChangeRow) -> schema.PoolChange:
    return schema.PoolChange(
        kind=row.kind,
        version=row.version,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        spend_limit=row.spend_limit,
        changed_by=row.changed_by or UNSET,
        at=row.at,
    )


def cap(row: CapRow) -> schema.PoolCap:
    return schema.PoolCap(
        id=row.id,
        key_id=row.name if row.kind == "key" else UNSET,
        label=schema.Label(name=row.name, value=row.value) if row.kind == "label" else UNSET,
        vcpus=UNSET if row.vcpus is None else row.vcpus,
        memory_mb=UNSET if row.memory_mb is None else row.memory_mb,
        disk_mb=UNSET if row.disk_mb is None else row.disk_mb,
        drawn=schema.Capacity(
            vcpus=row.vcpus_drawn, memory_mb=row.memory_mb_drawn, disk_mb=row.disk_mb_drawn
        ),
        created_at=row.created_at,
    )


def plan(row: PlanRow) -> schema.Plan:
    return schema.Plan(
        name=row.name,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        spend_limit=row.spend_limit,
        default=row.is_default,
    )
