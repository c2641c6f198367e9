"""`[namespace/]name[:tag]`: what is read, and what a new one may be."""

import pytest

from wrenn_server.model import template
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.model.ids import new_snapshot_id, new_template_id
from wrenn_server.model.template import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base", Reference(None, "base", None)),
        ("base:v1", Reference(None, "base", "v1")),
        ("team_x/base", Reference("team_x", "base", None)),
        ("team_x/base:default", Reference("team_x", "base", "default")),
        ("Python-Data", Reference(None, "Python-Data", None)),
        ("snap_abc:default", Reference(None, "snap_abc", "default")),
    ],
)
def test_read(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":x", "alias:", ":", "/", "/a", "a/", "a/:x", "a/b/c", "a:b:c", "a\0b", "x" * 513]
)
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


def test_new_names_are_kept_in_lower_case() -> None:
    assert template.new_name("My_Snap-1") == "my_snap-1"
    assert template.new_tag("V1.2") == "v1.2"


@pytest.mark.parametrize(
    "text", ["", "a b", "ü", "a.b", "a/b", "x" * 129, new_snapshot_id(), new_template_id()]
)
def test_names_that_no_template_can_have(text: str) -> None:
    with pytest.raises(InvalidRequest):
        template.new_name(text)


@pytest.mark.parametrize("text", ["", "a b", "ü", "a:b", "0b7c3a9e-0000-4000-8000-000000000000"])
def test_tags_that_nothing_can_have(text: str) -> None:
    with pytest.raises(InvalidRequest):
        template.new_tag(text)
