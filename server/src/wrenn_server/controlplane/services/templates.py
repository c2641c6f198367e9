"""What a text leads to that names a template, and the tags of templates that are made of snapshots.

`name`, `name:tag`, `team/name:tag`, a template's id and a snapshot's id are all good for starting sandboxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.db import templates as db_templates
from wrenn_server.db.pool import Executor
from wrenn_server.db.snapshots import SnapshotRow
from wrenn_server.db.templates import FoundRow, SummaryRow, TagRow, TemplateRow
from wrenn_server.model.errors import Conflict, Forbidden, InvalidRequest, NotFound
from wrenn_server.model.ids import new_template_id, parse_snapshot_id
from wrenn_server.model.snapshot import SnapshotState
from wrenn_server.model.template import DEFAULT_TAG, Reference, new_name, new_tag, parse_reference

_MOST_TAGS = 100


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a sandbox starts from."""

    template_id: str
    """The snapshot's own id when it was named by that."""
    name: str
    image: str
    snapshot: SnapshotRow | None = None


@dataclass(frozen=True, slots=True)
class Tagged:
    tags: list[str]
    snapshot_id: str


async def resolve(cp: ControlPlane, team_id: str, text: str) -> Resolved:
    """
    :raises NotFound: `template_not_found`; :raises InvalidRequest: it cannot be a template's name
    """
    reference = parse_reference(text)
    if snapshot_id := parse_snapshot_id(reference.name):
        snapshot = await _snapshot(cp, team_id, snapshot_id, text)
        return Resolved(snapshot.id, snapshot.id, snapshot.image, snapshot)
    template = await find(cp, team_id, reference, text)
    if template.snapshot_id is not None:
        snapshot = await _snapshot(cp, team_id, template.snapshot_id, text)
        return Resolved(template.id, template.name, snapshot.image, snapshot)
    if template.image is None or reference.tag not in (None, DEFAULT_TAG):
        raise NotFound(
            f"template {template.name} has no tag {reference.tag or DEFAULT_TAG}", code="template_not_found"
        )
    return Resolved(template.id, template.name, template.image)


async def find(cp: ControlPlane, team_id: str, reference: Reference, text: str) -> FoundRow:
    """The template, and where the reference's tag leads.

    :param text: that the reference was read from, for the error
    :raises NotFound: `template_not_found`
    """
    found = None
    if reference.namespace in (None, team_id):
        found = await db_templates.find(cp.db, team_id, _spellings(reference), reference.tag or DEFAULT_TAG)
    if found is None or (reference.namespace is not None and found.team_id is None):
        raise not_found(text)
    return found


async def look_up(cp: ControlPlane, team_id: str, text: str) -> TemplateRow:
    """The template of this name, with or without the tag that the text has.

    :raises Forbidden: it is another team's; :raises NotFound: there is none
    """
    reference = parse_reference(text)
    if reference.namespace not in (None, team_id) and await db_templates.exists(
        cp.db, reference.namespace, _spellings(reference)
    ):
        raise Forbidden(f"template {text[:100]} is another team's", code="template_forbidden")
    return await find(cp, team_id, reference, text)


async def listing(cp: ControlPlane, team_id: str) -> list[TemplateRow]:
    """The platform's and the team's own."""
    return await db_templates.visible(cp.db, team_id)


async def summaries(cp: ControlPlane, team_id: str | None) -> list[SummaryRow]:
    """The team's own, or (None) the platform's; the oldest first."""
    return await db_templates.summaries(cp.db, team_id)


async def get(cp: ControlPlane, team_id: str, text: str) -> tuple[SummaryRow, list[SnapshotRow]]:
    """The template and what its tags lead to. :raises NotFound:"""
    template = await find(cp, team_id, parse_reference(text), text)
    found = await db_templates.summaries(cp.db, template.team_id, template_id=template.id)
    if not found:
        raise not_found(text)
    return found[0], await db_snapshots.of_template(cp.db, template.id)


# Tags


def snapshot_name(text: str) -> tuple[str, str]:
    """Name and tag for a snapshot that shall be called `text`.

    :raises InvalidRequest:
    """
    reference = parse_reference(text)
    if reference.namespace is not None:
        raise InvalidRequest(
            f"the name of a snapshot has no namespace: {text[:100]!r}",
            hint="write name or name:tag; it belongs to the team of the API key",
            code="invalid_template",
        )
    return new_name(reference.name), new_tag(reference.tag or DEFAULT_TAG)


async def demand_free(cp: ControlPlane, team_id: str, name: str, tag: str) -> None:
    """:raises Conflict: `template_name_taken`, `name:tag` of the team leads to a snapshot"""
    found = await db_templates.find(cp.db, team_id, [name], tag)
    if found is not None and found.team_id == team_id and found.snapshot_id is not None:
        raise _taken(name, tag)


async def put(
    tx: Executor, team_id: str, name: str, tag: str, snapshot_id: str, *, replace: bool = True
) -> None:
    """`name:tag` leads to the snapshot from now on; the template is made when it is not there.

    :raises Conflict: `template_name_taken`, it leads to another one, and may not be replaced
    """
    template = await db_templates.ensure(tx, new_template_id(), team_id, name)  # locks it
    if not replace and await db_templates.tag(tx, template.id, tag) is not None:
        raise _taken(name, tag)
    await db_templates.set_tags(tx, template.id, [tag], snapshot_id)


async def assign_tags(cp: ControlPlane, team_id: str, target: str, tags: Sequence[str]) -> Tagged:
    """All these tags lead to where `target`, `name[:tag]`, leads.

    :param tags: `tag`, or `name:tag` with the name of the target
    :raises NotFound: :raises Forbidden: it is the platform's; :raises InvalidRequest:
    """
    reference = parse_reference(target)
    wanted = _read_tags(reference, tags)
    template = await _own(cp, team_id, reference, target)
    async with cp.db.transaction() as tx:
        led = await db_templates.tag(tx, template.id, reference.tag or DEFAULT_TAG)
        if led is None or not await db_snapshots.hold(tx, led):
            raise NotFound(f"template {target[:100]} leads to nothing", code="template_not_found")
        await db_templates.set_tags(tx, template.id, wanted, led)
    return Tagged(wanted, led)


async def remove_tags(cp: ControlPlane, team_id: str, name: str, tags: Sequence[str]) -> None:
    """What the tags led to stays. Tags that are not there are none to remove.

    :raises NotFound: :raises Forbidden: it is the platform's; :raises InvalidRequest: the tag `default` stays
    """
    reference = parse_reference(name)
    wanted = _read_tags(reference, tags)
    if DEFAULT_TAG in wanted:
        raise InvalidRequest(
            f"the tag {DEFAULT_TAG} cannot be removed",
            hint="assign it to another snapshot, or delete the snapshot",
            code="invalid_tag",
        )
    template = await _own(cp, team_id, reference, name)
    await db_templates.remove_tags(cp.db, template.id, wanted)


async def tags(cp: ControlPlane, team_id: str, text: str) -> list[TagRow]:
    """Of the template, newest first. :raises NotFound:"""
    template = await find(cp, team_id, parse_reference(text), text)
    return await db_templates.tags(cp.db, template.id)


def _taken(name: str, tag: str) -> Conflict:
    shown = name if tag == DEFAULT_TAG else f"{name}:{tag}"
    return Conflict(
        f"the name {shown} leads to another snapshot already",
        code="template_name_taken",
        hint="choose another name, or delete that snapshot first",
    )


def not_found(text: str) -> NotFound:
    return NotFound(f"template {text[:100]!r} does not exist", code="template_not_found")


async def _snapshot(cp: ControlPlane, team_id: str, snapshot_id: str, text: str) -> SnapshotRow:
    found = await db_snapshots.get(cp.db, snapshot_id)
    if found is None or found.team_id != team_id or found.state is not SnapshotState.READY:
        raise not_found(text)
    return found


async def _own(cp: ControlPlane, team_id: str, reference: Reference, text: str) -> TemplateRow:
    template = await find(cp, team_id, reference, text)
    if template.team_id != team_id:
        raise Forbidden(f"template {template.name} is the platform's", code="template_forbidden")
    return template


def _read_tags(reference: Reference, tags: Sequence[str]) -> list[str]:
    if not 1 <= len(tags) <= _MOST_TAGS:
        raise InvalidRequest(f"expected 1 to {_MOST_TAGS} tags", code="invalid_tag")
    read: list[str] = []
    for text in tags:
        name, colon, tag = text.rpartition(":")
        if colon and name.rpartition("/")[2].lower() != reference.name.lower():
            raise InvalidRequest(f"{text[:100]!r} is no tag of {reference.name[:100]}", code="invalid_tag")
        read.append(new_tag(tag))
    return list(dict.fromkeys(read))


def _spellings(reference: Reference) -> list[str]:
    """Names that teams give are kept in lower case; those of the platform's images may have capitals."""
    return [reference.name, reference.name.lower()]
