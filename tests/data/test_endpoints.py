"""The client of language models, against a server on this machine."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_double import Reply, Stub, full_disk, serving

from culet.data.endpoints.chat import ChatAnswer, ChatClient, ChatEndpoint, Messages
from culet.errors import InputError, RecipeError
from culet.files.settings import to_tables, to_toml

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as server:
        yield server


@pytest.fixture
def config(stub: Stub) -> ChatEndpoint:
    return ChatEndpoint(stub.url, "small", input_price=2.0, output_price=10.0)


def questions(*texts: str) -> list[Messages]:
    return [[{"role": "user", "content": text}] for text in texts]


def texts(answers: Iterator[ChatAnswer]) -> list[str]:
    return [answer.text for answer in answers]


def test_answers_come_in_the_order_of_questions(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    endpoint = ChatClient(config, tmp_path / "answers.sqlite")
    asked = [f"question {i}" for i in range(30)]
    assert texts(endpoint.answers(questions(*asked))) == [text.upper() for text in asked]
    assert len(stub.bodies) == 30
    assert stub.bodies[0] | {"messages": []} == {
        "model": "small",
        "messages": [],
        "temperature": 0.0,
        "max_tokens": 512,
    }
    assert stub.keys == [None] * 30
    assert endpoint.cost.asked == 30
    assert (endpoint.cost.asked_tokens, endpoint.cost.answered_tokens) == (60, 60)
    assert endpoint.cost.paid == pytest.approx((60 * 2 + 60 * 10) / 1e6)


def test_what_was_asked_is_not_asked_again(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    cache = tmp_path / "answers.sqlite"
    texts(ChatClient(config, cache).answers(questions("a", "b")))
    again = ChatClient(replace(config, url=stub.url + "/", parallel=1), cache)
    answers = list(again.answers(questions("b", "c", "a")))
    assert [(answer.text, answer.cached) for answer in answers] == [
        ("B", True),
        ("C", False),
        ("A", True),
    ]
    assert len(stub.bodies) == 3
    assert (again.cost.asked, again.cost.cached, again.cost.cached_tokens) == (1, 2, 4)
    assert again.cost.saved == pytest.approx(2 * again.cost.paid)
    assert texts(ChatClient(replace(config, temperature=1.0), cache).answers(questions("a"))) == [
        "A"
    ]
    assert len(stub.bodies) == 4  # another temperature is another question


def test_an_answer_that_an_earlier_version_kept_is_known(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "a") as store:
        store.execute(
            "create table answers "
            "(question text primary key, answer text, asked integer, answered integer)"
        )
        key = "b27a9020d89c517c4e0cfafdea14d95da53d1c89b83cdd9facb133063c664d88"
        store.execute("insert into answers values (?, 'kept', 1, 2)", (key,))
    store.close()
    assert texts(ChatClient(config, tmp_path / "a").answers(questions("a"))) == ["kept"]
    assert stub.bodies == []


def test_one_question_twice_in_line_is_asked_once(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    endpoint = ChatClient(config, tmp_path / "answers.sqlite")
    assert texts(endpoint.answers(questions("a", "a", "b", "a"))) == ["A", "A", "B", "A"]
    assert len(stub.bodies) == 2
    assert (endpoint.cost.asked, endpoint.cost.cached) == (2, 2)


def test_what_was_answered_before_a_stop_is_kept(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    cache = tmp_path / "answers.sqlite"
    stream = ChatClient(replace(config, parallel=1), cache).answers(questions(*"abcdef"))
    assert next(stream).text == "A"
    assert next(stream).text == "B"
    stream.close()
    before = len(stub.bodies)
    assert texts(ChatClient(config, cache).answers(questions(*"ab"))) == ["A", "B"]
    assert len(stub.bodies) == before


def test_questions_are_taken_as_they_are_needed(config: ChatEndpoint, tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[Messages]:
        for number in range(10**9):
            taken.append(number)
            yield from questions(str(number))

    stream = ChatClient(config, tmp_path / "answers.sqlite").answers(endless())
    assert next(stream).text == "0"
    stream.close()
    assert len(taken) < 20


def test_a_busy_endpoint_is_asked_again_after_the_time_it_names(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    waited: list[float] = []
    replies = [(429, "slow down", {"Retry-After": "7"}), (503, "busy"), "fine"]
    stub.reply = lambda question, number: replies[number - 1]  # type: ignore[return-value]
    now = [0.0]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    endpoint = ChatClient(config, tmp_path / "a.sqlite", sleep=sleep, clock=lambda: now[0])
    assert texts(endpoint.answers(questions("a"))) == ["fine"]
    assert waited[0] == 7.0
    assert 1.0 <= waited[1] <= 2.0  # 2 ** 1, spread
    assert endpoint.cost.retried == 2
    assert endpoint.cost.asked == 1


def test_an_endpoint_that_stays_away_is_named(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.reply = lambda question, number: (500, "out of order")
    endpoint = ChatClient(replace(config, retries=2), tmp_path / "a", sleep=lambda seconds: None)
    with pytest.raises(InputError, match=r"no answer in 3 attempts, the last: 500 .*out of order"):
        texts(endpoint.answers(questions("a")))
    assert len(stub.bodies) == 3
    nobody = ChatClient(replace(config, url="http://127.0.0.1:9/v1", retries=0), tmp_path / "b")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/v1 gave no answer in 1 attempts"):
        texts(nobody.answers(questions("a")))


def test_a_refusal_is_not_repeated(stub: Stub, config: ChatEndpoint, tmp_path: Path) -> None:
    stub.reply = lambda question, number: (401, '{"error": "no such key"}')
    with pytest.raises(InputError, match=r"refuses the request: 401 .*no such key.* key_env"):
        texts(ChatClient(config, tmp_path / "a").answers(questions("a")))
    assert len(stub.bodies) == 1


@pytest.mark.parametrize("body", ["{}", '{"choices": []}', "[]", "no json", '{"choices": 3}'])
def test_what_is_no_answer_is_asked_again_and_shown(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, body: str
) -> None:
    stub.reply = lambda question, number: (200, body) if number == 1 else "fine"
    endpoint = ChatClient(config, tmp_path / "a", sleep=lambda seconds: None)
    assert texts(endpoint.answers(questions("a"))) == ["fine"]
    assert endpoint.cost.retried == 1


CUT_OFF = (200, '{"choices"', {"Content-Length": "99"})
NO_STATUS = (1000, "", {})  # a status has three digits


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (CUT_OFF, r"IncompleteRead: IncompleteRead\(10 bytes read, 89 more expected\)"),
        (NO_STATUS, "BadStatusLine: HTTP/1.0 1000"),
    ],
)
def test_a_broken_connection_is_tried_again_and_named(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, reply: Reply, words: str
) -> None:
    stub.reply = lambda question, number: reply if number < 3 else "fine"
    waited: list[float] = []
    endpoint = ChatClient(config, tmp_path / "a", sleep=waited.append)
    assert texts(endpoint.answers(questions("a"))) == ["fine"]
    assert endpoint.cost.retried == len(waited) == 2
    stub.reply = lambda question, number: reply
    endpoint = ChatClient(replace(config, retries=1), tmp_path / "b", sleep=waited.append)
    with pytest.raises(InputError, match=rf"gave no answer in 2 attempts, the last: {words}; run"):
        texts(endpoint.answers(questions("a")))


def test_a_refusal_that_breaks_off_is_still_a_refusal(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    stub.reply = lambda question, number: (400, "99\r\nno su", chunked)
    with pytest.raises(InputError, match=r"refuses the request: 400 Bad Request: $"):
        texts(ChatClient(config, tmp_path / "a").answers(questions("a")))
    gc.collect()  # warns of a connection that was left open


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_an_empty_answer_is_asked_again_and_paid_for(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, nothing: str | None
) -> None:
    stub.reply = lambda question, number: nothing if number < 3 else "fine"
    waited: list[float] = []
    endpoint = ChatClient(config, tmp_path / "a", sleep=waited.append)
    assert texts(endpoint.answers(questions("one two"))) == ["fine"]
    assert (endpoint.cost.asked, endpoint.cost.retried, len(waited)) == (1, 2, 2)
    assert (endpoint.cost.asked_tokens, endpoint.cost.answered_tokens) == (3 * 2, 1)
    assert endpoint.cost.paid == pytest.approx((6 * 2 + 1 * 10) / 1e6)


def test_a_question_left_empty_stops_no_run_and_is_asked_by_the_next(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.reply = lambda question, number: None if question == "b" else question.upper()
    few = replace(config, retries=1)
    endpoint = ChatClient(few, tmp_path / "a", sleep=lambda seconds: None)
    answers = list(endpoint.answers(questions(*"abbc")))
    assert [answer.text for answer in answers] == ["A", "", "", "C"]
    assert [answer.empty for answer in answers] == [False, True, True, False]
    assert len(stub.bodies) == 2 + 2  # b, twice in line, had two attempts
    stub.reply = lambda question, number: question.upper()
    assert texts(ChatClient(few, tmp_path / "a").answers(questions(*"abc"))) == ["A", "B", "C"]
    assert len(stub.bodies) == 5


def test_an_empty_answer_of_a_stopped_run_is_not_kept(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.reply = lambda question, number: "" if question == "b" else question.upper()
    stream = ChatClient(replace(config, retries=0), tmp_path / "a").answers(questions(*"ab"))
    next(stream)
    stream.close()  # b is under way, or waits
    with sqlite3.connect(tmp_path / "a") as store:
        assert store.execute("select answer from answers").fetchall() == [("A",)]
    store.close()


def test_an_empty_answer_that_was_kept_is_asked_for_again(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    texts(ChatClient(config, tmp_path / "a").answers(questions("a")))
    with sqlite3.connect(tmp_path / "a") as store:  # as older versions left it
        store.execute("update answers set answer = ' '")
    store.close()
    for _ in range(2):
        assert texts(ChatClient(config, tmp_path / "a").answers(questions("a"))) == ["A"]
    assert len(stub.bodies) == 2


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = replace(config, key_env="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(InputError, match="the environment variable SOME_KEY is not set"):
        ChatClient(keyed, tmp_path / "a")
    monkeypatch.setenv("SOME_KEY", "secret-key")
    texts(ChatClient(keyed, tmp_path / "a").answers(questions("a")))
    assert stub.keys == ["Bearer secret-key"]
    assert b"secret-key" not in (tmp_path / "a").read_bytes()


def test_requests_keep_their_distance(config: ChatEndpoint, tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    slow = replace(config, requests_per_minute=30, parallel=1)
    endpoint = ChatClient(slow, tmp_path / "a", sleep=sleep, clock=lambda: now[0])
    texts(endpoint.answers(questions(*"abcdef")))
    assert now[0] == pytest.approx(10.0)  # five gaps of two seconds


def test_tokens_put_the_next_request_off(config: ChatEndpoint, tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    slow = replace(config, tokens_per_minute=60, parallel=1)
    endpoint = ChatClient(slow, tmp_path / "a", sleep=sleep, clock=lambda: now[0])
    texts(endpoint.answers(questions("one two", "three", "four")))
    assert now[0] == pytest.approx(6.0)  # 4 tokens, then 2, a second each


def test_the_budget_is_not_exceeded(stub: Stub, config: ChatEndpoint, tmp_path: Path) -> None:
    poor = replace(config, budget=24e-6, parallel=1)  # an answer costs 12e-6
    endpoint = ChatClient(poor, tmp_path / "a")
    found: list[str] = []
    with pytest.raises(InputError, match=r"the budget of 2\.4e-05 is spent"):
        found.extend(answer.text for answer in endpoint.answers(questions(*"abcdefgh")))
    assert found[:2] == ["A", "B"]
    assert len(stub.bodies) <= 4  # two more were under way
    assert len(texts(ChatClient(config, tmp_path / "a").answers(questions(*"abcdefgh")))) == 8
    assert len(stub.bodies) == 8


def test_an_endpoint_that_counts_nothing_costs_nothing(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.usage = False
    endpoint = ChatClient(config, tmp_path / "a")
    assert texts(endpoint.answers(questions("a"))) == ["A"]
    assert endpoint.cost.paid == 0


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_counts_that_are_null_are_none(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, usage: Any
) -> None:
    value = {"choices": [{"message": {"content": "A"}}], "usage": usage}
    stub.reply = lambda question, number: (200, json.dumps(value))
    endpoint = ChatClient(replace(config, retries=0), tmp_path / "a")
    assert texts(endpoint.answers(questions("a"))) == ["A"]
    assert (endpoint.cost.asked_tokens, endpoint.cost.answered_tokens) == (0, 0)


@pytest.mark.parametrize("count", ["Infinity", "NaN", "-1", "1e300", "1" + "0" * 30, '"many"'])
def test_counts_that_are_none_cost_no_answer(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, count: str
) -> None:
    usage = f'{{"prompt_tokens": {count}, "completion_tokens": 3}}'
    body = f'{{"choices": [{{"message": {{"content": "A"}}}}], "usage": {usage}}}'
    stub.reply = lambda question, number: (200, body)
    endpoint = ChatClient(replace(config, retries=0), tmp_path / "a")
    assert texts(endpoint.answers(questions("a"))) == ["A"]
    assert (endpoint.cost.asked_tokens, endpoint.cost.answered_tokens) == (0, 3)


def test_half_an_emoji_is_replaced_and_kept(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.reply = lambda question, number: "smile \ud83d!"
    for _ in range(2):
        endpoint = ChatClient(config, tmp_path / "a")
        assert texts(endpoint.answers(questions("a"))) == ["smile \ufffd!"]
    assert len(stub.bodies) == 1


@pytest.mark.parametrize("body", ["[" * 100_000, '{"choices": [{"message": {"content": %s1%s}}]}'])
def test_an_answer_nested_too_deeply_is_an_empty_one(
    stub: Stub, config: ChatEndpoint, tmp_path: Path, body: str
) -> None:
    deep = body.replace("%s1%s", "[" * 100_000 + "1" + "]" * 100_000)
    stub.reply = lambda question, number: (200, deep) if question == "a" else question.upper()
    client = ChatClient(config, tmp_path / "a", sleep=lambda seconds: None)
    answers = list(client.answers(questions(*"ab")))
    assert [(answer.text, answer.empty) for answer in answers] == [("", True), ("B", False)]


def test_a_file_that_holds_no_answers_is_named(config: ChatEndpoint, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("something else " * 100)
    with pytest.raises(InputError, match="as a file of answers: file is not a database"):
        ChatClient(config, tmp_path / "a")


def test_a_file_that_cannot_be_opened_is_named(config: ChatEndpoint, tmp_path: Path) -> None:
    words = "cannot use {} as a file of answers: {}.*; expected a file .* that can be written"
    with pytest.raises(InputError, match=words.format(tmp_path, "unable to open database file")):
        ChatClient(config, tmp_path)
    with pytest.raises(InputError, match=words.format(r"\.", "unable to open database file")):
        ChatClient(config, Path(""))
    (tmp_path / "a").write_text("a file, no folder")
    below = tmp_path / "a" / "b"
    with pytest.raises(InputError, match=words.format(below, r"\[Errno 17\] File exists")):
        ChatClient(config, below)


def test_a_full_disk_is_named_and_what_was_answered_stays(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.reply = lambda question, number: question * 3000
    cache, alone, asked = tmp_path / "a", replace(config, parallel=1), questions(*LETTERS)
    found: list[str] = []
    words = (
        r"cannot use .*a as a file of answers: database or disk is full; .* the answers it holds"
    )
    with full_disk(pages=12), pytest.raises(InputError, match=words):
        found.extend(answer.text for answer in ChatClient(alone, cache).answers(asked))
    assert 3 <= len(found) < len(LETTERS)
    before = len(stub.bodies)
    assert texts(ChatClient(alone, cache).answers(asked)) == [text * 3000 for text in LETTERS]
    assert len(stub.bodies) - before <= len(LETTERS) - len(found)


REDIRECTS = (301, 302, 303, 307, 308)


@pytest.mark.parametrize("code", REDIRECTS)
@pytest.mark.parametrize("key", [None, "secret-key"])
def test_a_redirect_is_refused_and_nothing_is_sent_on(
    stub: Stub,
    config: ChatEndpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    key: str | None,
) -> None:
    if key is not None:
        monkeypatch.setenv("SOME_KEY", key)
        config = replace(config, key_env="SOME_KEY")
    with serving(Stub()) as other:
        target = f"{other.url}/chat/completions".replace("http://", "http://me:hidden@")
        stub.reply = lambda question, number: (code, "", {"Location": f"{target}?token={key}"})
        with pytest.raises(InputError, match="redirects are not followed") as caught:
            texts(ChatClient(config, tmp_path / "a").answers(questions("a")))
        assert other.bodies == []
    assert len(stub.bodies) == 1
    words = str(caught.value)
    assert f"{stub.url} redirects to 'http://***@127.0.0.1:" in words
    assert f"/v1/chat/completions?token=***' ({code})" in words
    assert "hidden" not in words
    assert "secret-key" not in words


def test_a_redirect_within_the_same_address_is_refused_too(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.reply = lambda question, number: (308, "", {"Location": "/v2/chat/completions"})
    with pytest.raises(InputError, match=r"redirects to '/v2/chat/completions' \(308\)"):
        texts(ChatClient(config, tmp_path / "a").answers(questions("a")))


def test_secrets_of_a_url_are_used_and_appear_in_no_message_and_no_file(
    stub: Stub, config: ChatEndpoint, tmp_path: Path
) -> None:
    stub.path = "/v1/chat/completions?key=hidden-key"
    url = stub.url.replace("://", "://me:hidden-word@") + "/?key=hidden-key"
    secret = replace(config, url=url)
    assert texts(ChatClient(secret, tmp_path / "a").answers(questions("a"))) == ["A"]
    assert stub.keys == ["Basic bWU6aGlkZGVuLXdvcmQ="]
    stub.reply = lambda question, number: (401, "hidden-word and hidden-key are wrong")
    with pytest.raises(InputError, match=r"\*\*\* and \*\*\* are wrong") as refused:
        texts(ChatClient(secret, tmp_path / "b").answers(questions("a")))
    stub.reply = lambda question, number: (200, '"hidden-key"')
    with pytest.raises(InputError, match=r"not an answer of a chat endpoint: '\*\*\*'") as odd:
        texts(ChatClient(replace(secret, retries=0), tmp_path / "b").answers(questions("a")))
    away = replace(secret, url="http://me:hidden-word@127.0.0.1:9/v1?key=hidden-key", retries=0)
    with pytest.raises(
        InputError, match=r"http://\*\*\*@127\.0\.0\.1:9/v1\?key=\*\*\* gave no"
    ) as lost:
        texts(ChatClient(away, tmp_path / "c").answers(questions("a")))
    recipe = to_toml(to_tables(secret))
    assert 'url = "http://***@127.0.0.1:' in recipe
    assert "hidden" not in f"{refused.value}{odd.value}{lost.value}{recipe}"
    assert b"hidden" not in (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "localhost:8000"}, "url must begin with http:// or https://, got 'localhost"),
        ({"parallel": 0}, "parallel must be at least 1 and retries 0, got 0 and 5"),
        (
            {"url": "http://u:pa/ss@host/v1"},
            r"url must be http://host:port/path, got 'http://\*\*\*@h",
        ),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"input_price": -1.0}, "prices must not be negative"),
        ({"budget": 1.0}, "budget needs the prices of tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        ChatEndpoint(**({"url": "http://x", "model": "m"} | settings))  # type: ignore[arg-type]
