from __future__ import annotations

import sys
from pathlib import Path

import pytest

from culet.errors import MissingExtra, need


def test_a_module_that_is_there_is_returned() -> None:
    assert need("json", extra="none", purpose="reading") is sys.modules["json"]


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("nowhere_to_be_found", "nowhere_to_be_found"),
        ("sklearn.cluster", "scikit-learn"),
        ("sentence_transformers", "sentence-transformers"),
    ],
)
def test_a_missing_package_is_named_as_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    with pytest.raises(MissingExtra) as raised:
        need(module, extra="some", purpose="a picture")
    assert str(raised.value) == (
        f"a picture needs the package {package!r}, which is not installed; "
        "install it with: pip install 'culet[some]'"
    )
    assert (raised.value.package, raised.value.extra) == (package, "some")


def test_what_a_module_imports_and_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_another.py").write_text("import nowhere.deep")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match="needs the package 'nowhere',"):
        need("needs_another", extra="some", purpose="it")


def test_a_missing_module_of_ours_is_a_bug_and_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"culet\.nowhere"):
        need("culet.nowhere", extra="some", purpose="it")
