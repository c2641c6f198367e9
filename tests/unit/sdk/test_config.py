"""Settings: where they come from, what is refused."""

import pytest

import wrenn
from wrenn import Config
from wrenn.config import default_proxy_domain, proxy_for

KEY = "wrn_" + "a" * 40


def test_arguments_before_environment_before_defaults() -> None:
    environ = {
        "WRENN_BASE_URL": "https://env.example/",
        "WRENN_API_KEY": KEY,
        "WRENN_PROXY_DOMAIN": "env.box",
    }
    config = Config.resolve(environ=environ)
    assert (config.base_url, config.api_key, config.proxy_domain) == ("https://env.example", KEY, "env.box")
    config = Config.resolve(base_url="http://a:1", api_key="k", proxy_domain="p", environ=environ)
    assert (config.base_url, config.api_key, config.proxy_domain) == ("http://a:1", "k", "p")
    config = Config.resolve(environ={"WRENN_API_KEY": KEY})
    assert (config.base_url, config.proxy_domain) == ("http://127.0.0.1:8000", "localhost:8000")


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "ä"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    with pytest.raises(wrenn.ConfigError):
        Config.resolve(environ={"WRENN_API_KEY": key})


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://x:0", "http://[x"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(wrenn.ConfigError, match="is not a base URL"):
        Config.resolve(base_url=url, api_key=KEY, environ={})


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("http://[::1]:8000", "localhost:8000"),
        ("https://wrenn.example", "wrenn.example"),
        ("https://wrenn.example:8443/api", "wrenn.example:8443"),
        ("http://10.0.0.1:8000", "10.0.0.1:8000"),
    ],
)
def test_proxy_domain_from_the_base_url(url: str, domain: str) -> None:
    assert default_proxy_domain(url) == domain


def test_the_http_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("https://wrenn.example") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxy_for("https://wrenn.example") == "http://proxy:3128"
    assert proxy_for("https://a.inside.example") is None
    assert proxy_for("http://127.0.0.1:8000") is None, "loopback never goes through one"


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(Config.resolve(api_key=KEY, environ={}))
