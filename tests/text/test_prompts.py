from __future__ import annotations

import dataclasses

import pytest

from culet.errors import InputError
from culet.text.prompts import TASKS, Prompts


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("search", "task: search result | query: "),
        ("question_answering", "task: question answering | query: "),
        ("fact_checking", "task: fact checking | query: "),
        ("classification", "task: classification | query: "),
        ("clustering", "task: clustering | query: "),
        ("similarity", "task: sentence similarity | query: "),
        ("code", "task: code retrieval | query: "),
        ("summarization", "task: summarization | query: "),
        ("STS", "task: sentence similarity | query: "),
        ("InstructionRetrieval", "task: code retrieval | query: "),
        ("Retrieval-document", "title: none | text: "),
    ],
)
def test_default_prompts_are_the_published_ones(task: str, expected: str) -> None:
    assert Prompts.default().query(task) == expected


def test_document_prompt_takes_a_title_or_the_word_none() -> None:
    prompts = Prompts.default()
    assert prompts.document() == "title: none | text: "
    assert prompts.document("Mars") == "title: Mars | text: "
    assert prompts.document("The red\n  planet ") == "title: The red planet | text: "
    assert prompts.document("  ") == prompts.document("") == prompts.document(None)


def test_a_title_may_hold_the_words_of_the_form() -> None:
    assert Prompts.default().document("title: none") == "title: title: none | text: "


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown task 'serach'.*search, question_answering.*STS"):
        Prompts.default().query("serach")


def test_names_survive_the_way_there_and_back() -> None:
    names = {"query": "q: ", "document": "d: ", "odd": ""}
    assert Prompts.from_names(names).to_names() == names
    assert list(Prompts.default().to_names())[:2] == ["query", "document"]
    assert {"STS", "QuestionAnswering", "Document"} <= set(Prompts.default().to_names())


def test_a_task_without_a_name_of_its_own_uses_the_form_of_the_checkpoint() -> None:
    # The first EmbeddingGemma stores no name for question answering, but was trained on it.
    first = Prompts.from_names({"query": "task: search result | query: "})
    assert first.query("question_answering") == "task: question answering | query: "


def test_the_checkpoint_wins_over_the_defaults() -> None:
    prompts = Prompts.from_names({"query": "find: ", "STS": "compare: "})
    assert prompts.query() == "find: "
    assert prompts.query("similarity") == "compare: "
    assert prompts.document() == ""
    assert prompts.tasks == ("search", "similarity", "query", "STS")
    with pytest.raises(InputError, match=r"unknown task 'code'.*search, similarity, query, STS"):
        prompts.query("code")


def test_a_checkpoint_without_a_search_prompt_does_not_guess_one() -> None:
    with pytest.raises(InputError, match=r"unknown task 'search'.*s2p_query"):
        Prompts.from_names({"s2p_query": "Instruct: "}).query()


@pytest.mark.parametrize("names", [{}, {"query": "", "document": ""}, {"query": None}])
def test_a_checkpoint_without_prompts_gets_empty_prefixes(names: dict[str, str | None]) -> None:
    prompts = Prompts.from_names(names)
    assert prompts.empty
    assert not prompts.takes_title
    assert [prompts.query(task) for task in TASKS] == [""] * len(TASKS)
    assert prompts.document() == ""
    with pytest.raises(InputError, match="unknown task 'x'"):
        prompts.query("x")


def test_a_title_without_a_place_is_refused_and_not_dropped() -> None:
    prompts = Prompts.from_names({"query": "query: ", "document": "passage: "})
    with pytest.raises(InputError, match=r"'passage: '.*no place for a title"):
        prompts.document("Mars")


def test_an_instruction_replaces_the_description_of_the_task() -> None:
    prompt = Prompts.default().query("code", instruction="find the\n cited law")
    assert prompt == "task: find the cited law | query: "


@pytest.mark.parametrize("instruction", ["", " \n", "a | b"])
def test_an_instruction_that_breaks_the_form_is_refused(instruction: str) -> None:
    with pytest.raises(InputError, match="a few words without"):
        Prompts.default().query(instruction=instruction)


def test_an_instruction_without_a_place_is_refused() -> None:
    with pytest.raises(InputError, match=r"no place for an instruction.*search"):
        Prompts.from_names({"query": "query: "}).query(instruction="find it")


def test_prompts_that_are_not_strings_are_refused() -> None:
    with pytest.raises(InputError, match="'query': 3"):
        Prompts.from_names({"query": 3})  # type: ignore[dict-item]


def test_prompts_are_frozen_and_compare_by_content() -> None:
    prompts = Prompts.default()
    assert prompts == Prompts.default()
    assert hash(prompts) == hash(Prompts.default())
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompts.pairs = ()  # type: ignore[misc]
