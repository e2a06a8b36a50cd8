from __future__ import annotations

from pathlib import Path

import pytest

from culet.evaluate import TaskInfo
from culet.evaluate.languages import group_of


@pytest.mark.parametrize(
    ("languages", "subset", "group"),
    [
        (("eng-Latn",), "default", "English"),
        (("pol-Latn",), "default", "European"),
        (("jpn-Jpan",), "default", "East Asian"),
        (("heb-Hebr",), "default", "other languages"),
        (("eng-Latn", "python-Code"), "default", "code"),
        (("eng-Latn", "deu-Latn", "zho-Hans"), "de", "European"),
        (("eng-Latn", "deu-Latn", "zho-Hans"), "zh", "East Asian"),
        (("ara-Arab", "eng-Latn"), "ar-ar", "other languages"),
        (("eng-Latn", "sqi-Latn"), "sqi-eng", "across languages"),
        (("deu-Latn", "eng-Latn"), "deu_Latn-eng_Latn", "across languages"),
        (("deu-Latn", "eng-Latn"), "eng_Latn-eng_Latn", "English"),
    ],
)
def test_a_subset_counts_towards_the_group_of_its_languages(
    languages: tuple[str, ...], subset: str, group: str
) -> None:
    info = TaskInfo("A", "sts", "x", Path(), languages=languages)
    assert group_of(info, subset) == group
