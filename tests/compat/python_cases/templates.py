"""Templates by name; what is not served yet says so."""

import uuid

from .kit import Sdk, case, e2b, raises


@case(
    "Template.exists", "True for the default one, False for an unknown one", also=("Template.alias_exists",)
)
async def exists(sdk: Sdk) -> None:
    assert await sdk(sdk.Template.exists, "base") is True
    assert await sdk(sdk.Template.exists, "no-such-template") is False
    assert await sdk(sdk.Template.alias_exists, "base") is True


@case(
    "Template.assign_tags",
    "shown by get_tags, usable in create, removed",
    also=("Template.get_tags", "Template.remove_tags"),
)
async def tags(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    name = "tags-" + uuid.uuid4().hex[:8]
    saved = await sdk(
        sandbox.create_snapshot, name=name
    )  # the team's own template: builds are not served yet
    try:
        info = await sdk(sdk.Template.assign_tags, name, ["v1", "v2"])
        assert sorted(info.tags) == ["v1", "v2"]
        found = {entry.tag: entry for entry in await sdk(sdk.Template.get_tags, name)}
        assert sorted(found) == ["default", "v1", "v2"]
        assert {entry.build_id for entry in found.values()} == {info.build_id}
        async with sdk.sandbox(template=f"{name}:v1") as tagged:
            assert (await sdk(tagged.commands.run, "echo 1")).stdout == "1\n"
        await sdk(sdk.Template.remove_tags, name, ["v1"])
        assert sorted(entry.tag for entry in await sdk(sdk.Template.get_tags, name)) == ["default", "v2"]
    finally:
        await sdk(sdk.Sandbox.delete_snapshot, saved.snapshot_id)


@case("Template.assign_tags", "the platform's own template is refused")
async def tags_of_the_platform(sdk: Sdk) -> None:
    with raises(e2b.TemplateException, saying="403"):
        await sdk(sdk.Template.assign_tags, "base", "v1")


@case("Template.assign_tags", "an empty name or tag is refused")
async def bad_tags(sdk: Sdk) -> None:
    for target, tag in ((":x", "y"), ("base", "base:"), ("no-such-template", "x")):
        with raises(e2b.TemplateException, e2b.SandboxException):
            await sdk(sdk.Template.assign_tags, target, tag)


@case(
    "Template.build",
    "not served yet: a clear 501",
    also=("Template.build_in_background", "Template.get_build_status"),
)
async def build(sdk: Sdk) -> None:
    template = sdk.Template().from_base_image()
    for start in (sdk.Template.build, sdk.Template.build_in_background):
        with raises(e2b.BuildException, saying="501"):
            await sdk(start, template, name="own")
    status = e2b.BuildInfo(template_id="x", build_id=str(uuid.uuid4()), name="own", alias="own")
    with raises(e2b.BuildException, saying="501"):
        await sdk(sdk.Template.get_build_status, status)


@case(
    "Volume.create",
    "not served yet: a clear error",
    also=("Volume.connect", "Volume.get_info", "Volume.list", "Volume.destroy"),
)
async def volumes(sdk: Sdk) -> None:
    for method, words in (
        ("create", ["v"]),
        ("connect", ["v"]),
        ("get_info", ["v"]),
        ("list", []),
        ("destroy", ["v"]),
    ):
        with raises(e2b.VolumeException, e2b.NotFoundException, saying="501"):
            await sdk(getattr(sdk.Volume, method), *words)


@case(
    "Secret.create",
    "not served yet: a clear error",
    also=("Secret.get_info", "Secret.list", "Secret.update", "Secret.destroy", "Secret.exists"),
)
async def secrets(sdk: Sdk) -> None:
    with raises(e2b.SecretException, saying="501"):
        await sdk(sdk.Secret.create, "name", "value")
    for method, words in (("get_info", ["s"]), ("update", ["s", "v"]), ("destroy", ["s"]), ("exists", ["s"])):
        with raises(e2b.SecretException, saying="501"):
            await sdk(getattr(sdk.Secret, method), *words)
    with raises(e2b.SecretException, saying="501"):
        await sdk(sdk.Secret.list().next_items)


@case("Secret.fill", "a placeholder, made locally", also=("Secret.iam_token",))
async def fill(sdk: Sdk) -> None:
    assert "name" in sdk.Secret.fill("name")
    assert sdk.Secret.iam_token(audience="a", token_type="JWT-SVID")["audience"] == "a"
