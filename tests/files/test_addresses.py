from __future__ import annotations

from dataclasses import dataclass

import pytest

from culet.corpora.places.fetch import get
from culet.errors import InputError, RecipeError
from culet.files.addresses import masked
from culet.files.settings import build, read_toml


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/v1", "http://host/v1"),
        ("https://me:pass@host/v1", "https://***@host/v1"),
        ("http://me:p/?#ss@host/v1", "http://***@host/v1"),
        ("http://host/v1?key=abc&sig=d=e", "http://host/v1?key=***&sig=***"),
        ("http://me@host/v1?abc", "http://***@host/v1?***"),
        ("http://host/v1#abc", "http://host/v1#***"),
    ],
)
def test_what_is_secret_in_a_url_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@dataclass(frozen=True)
class _Settings:
    url: str = ""
    steps: int = 0


SECRET = "https://user:s3cr3t@host/v1?key=s3cr3t"


@pytest.mark.parametrize(
    "table",
    [
        {"url": [SECRET]},
        {"url": {"of": [SECRET]}},
        {"steps": SECRET},
        {"steps": "https://user:s3cr3t/with/slashes@host"},
    ],
)
def test_a_setting_of_the_wrong_type_is_shown_without_secrets(table: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as error:
        build(_Settings, table, where="generate")
    assert "s3cr3t" not in str(error.value)
    assert "host" in str(error.value)


def test_an_override_is_shown_without_secrets(tmp_path: object) -> None:
    recipe = tmp_path / "a.toml"  # type: ignore[operator]
    recipe.write_text("steps = [1]")
    for override in (SECRET.replace("=", "/"), f"steps.7={SECRET}", f"steps.0.x={SECRET}"):
        with pytest.raises(RecipeError) as error:
            read_toml(recipe, [override])
        assert "user" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:s3cr3t@host/simple?token=s3cr3t",
        "user:s3cr3t@host/simple?token=s3cr3t",
        "//user:s3cr3t@host?s3cr3t",
        "https://user:s3cr3t/x@host/simple",
        "https://user:[s3cr3t@host/simple",
        "https://host:port/simple?token=s3cr3t",
        "https://host/simple x?token=s3cr3t",
        "https://host/simple\x01?token=s3cr3t",
    ],
)
def test_an_index_that_cannot_be_asked_is_shown_without_secrets(url: str) -> None:
    with pytest.raises(InputError, match="is not a web address") as error:
        get(url)
    assert "s3cr3t" not in str(error.value)
