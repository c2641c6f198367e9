"""The API reference needs nothing but the control plane that serves it."""

import asyncio
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from support.api import DESCRIPTION
from support.simulated import World


class _Named(HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.urls += [value for name in ("src", "href") if (value := given.get(name))]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


async def test_the_page_loads_only_what_is_served_here(world: World) -> None:
    async with httpx2.AsyncClient(trust_env=False, base_url=world.url) as client:
        answer = await client.get("/docs")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        named = _Named()
        named.feed(answer.text)
        assert not named.inline  # the policy would refuse it
        assert {"/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/start.js"} <= set(named.urls)
        for url in named.urls:
            assert url.startswith("/docs/"), url
            asset = await client.get(url)
            assert (asset.status_code, bool(asset.content)) == (200, True), url
            kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[url.rpartition(".")[2]]
            assert asset.headers["content-type"].partition(";")[0] == kind
            assert asset.headers["x-content-type-options"] == "nosniff"
        style = (await client.get("/docs/swagger-ui.css")).text
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style)
        assert 'url: "/openapi.json"' in (await client.get("/docs/start.js")).text


async def test_a_browser_shows_every_operation(world: World, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium: `scripts/bootstrap --test` installs it")
    process = await asyncio.create_subprocess_exec(
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=60000", "--dump-dom", f"{world.url}/docs",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        page, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    shown = re.findall(r'class="opblock opblock-(\w+)".*?data-path="([^"]+)"', page.decode())
    described = [(method, path) for path, item in DESCRIPTION["paths"].items() for method in item]
    assert sorted(shown) == sorted(described), errors.decode()[-2000:]


async def test_the_policy_names_no_other_origin(world: World) -> None:
    async with httpx2.AsyncClient(trust_env=False, base_url=world.url) as client:
        policy = (await client.get("/docs")).headers["content-security-policy"]
    given = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert (given["default-src"], given["script-src"], given["connect-src"]) == ("'none'", "'self'", "'self'")
    sources = {source for value in given.values() for source in value.split()}
    assert sources <= {"'none'", "'self'", "'unsafe-inline'", "data:"}


async def test_no_other_file_of_the_package_is_served(world: World) -> None:
    async with httpx2.AsyncClient(trust_env=False, base_url=world.url) as client:
        for name in ("oauth2-redirect.html", "..%2f__init__.py", "%2e%2e%2f%2e%2e%2fpyproject.toml"):
            answer = await client.get(f"/docs/{name}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), name
