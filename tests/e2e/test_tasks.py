"""The way of a task, on the real engine and the real model."""

from __future__ import annotations

import json
import threading
import uuid

import pytest

from tests.e2e.daemon import SLOTS, Daemon, Ended

PROMPT = "The capital of France is"
EMOJI = "Happy 🎉😀 birthday 🎂🎁 party 🥳🎈 fun 😂🤣 love ❤️😍 emojis: 😀😁😂"


def test_greedy_text_is_what_the_engine_says_when_asked_directly(daemon: Daemon) -> None:
    ended = daemon.run(prompt=PROMPT, max_tokens=32, temperature=0)
    body = {"prompt": PROMPT, "n_predict": 32, "temperature": 0}
    with daemon.engine() as engine:
        direct = engine.post("/completion", json=body).json()
    assert ended.text == direct["content"]
    assert "Paris" in ended.text
    assert ended.last["tokens_in"] == direct["tokens_evaluated"]
    assert ended.last["tokens_out"] == direct["tokens_predicted"] == 32
    assert ended.last["finish_reason"] == "length"
    assert ended.last["decode_ms"] > 0


def test_story_is_started_tokens_end_with_ids_and_indexes_without_gaps(daemon: Daemon) -> None:
    ended = daemon.run(prompt=PROMPT, max_tokens=8, temperature=0)
    tokens = ended.events[1:-1]
    assert ended.names == ["started", *["token"] * len(tokens), "end"]
    assert [event.id for event in ended.events] == [str(n) for n in range(len(ended.events))]
    assert [json.loads(event.data)["i"] for event in tokens] == list(range(len(tokens)))
    assert json.loads(ended.events[0].data) == {"queue_position": 0, "predicted_start_ms": 0}


def test_characters_of_several_tokens_come_whole(daemon: Daemon) -> None:
    ended = daemon.run(prompt=EMOJI, max_tokens=48, temperature=0)
    body = {"prompt": EMOJI, "n_predict": 48, "temperature": 0}
    with daemon.engine() as engine:
        direct = engine.post("/completion", json=body).json()
    events = len(ended.events) - 2
    assert any(ord(character) > 0xFFFF for character in ended.text), ended.text
    assert events < ended.last["tokens_out"], "no character took more than one token"
    assert "\N{REPLACEMENT CHARACTER}" not in ended.text
    # Asked without a stream the engine shows half a character at a cut; a stream never does.
    assert ended.text == direct["content"].rstrip("\N{REPLACEMENT CHARACTER}")


def test_messages_go_through_the_models_own_chat_template(daemon: Daemon) -> None:
    turns = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ended = daemon.run(messages=turns, max_tokens=24, temperature=0)
    body = {"messages": turns, "max_tokens": 24, "temperature": 0}
    with daemon.engine() as engine:
        direct = engine.post("/v1/chat/completions", json=body).json()
        rendered = engine.post("/apply-template", json={"messages": turns}).json()["prompt"]
    assert ended.text == direct["choices"][0]["message"]["content"]
    assert ended.last["tokens_in"] == direct["usage"]["prompt_tokens"]
    assert ended.last["tokens_out"] == direct["usage"]["completion_tokens"]
    assert ended.text == daemon.run(prompt=rendered, max_tokens=24, temperature=0).text


def test_stop_words_and_seeds_reach_the_engine(daemon: Daemon) -> None:
    stopped = daemon.run(prompt=PROMPT, max_tokens=32, temperature=0, stop=["."])
    assert stopped.last["finish_reason"] == "stop"
    assert "." not in stopped.text
    warm = {"prompt": "Once", "max_tokens": 12, "temperature": 1.5}
    texts = {seed: daemon.run(**warm, seed=seed).text for seed in (1, 2, 3)}
    assert len(set(texts.values())) > 1
    assert daemon.run(**warm, seed=1).text == texts[1]


def test_as_many_tasks_as_slots_decode_at_once(daemon: Daemon) -> None:
    alone = daemon.run(prompt=PROMPT, max_tokens=48, temperature=0)
    task_ids = [daemon.submit(prompt=PROMPT, max_tokens=48, temperature=0) for _ in range(SLOTS)]
    order: list[tuple[str, str]] = []
    stories: dict[str, Ended] = {}

    def read(task_id: str) -> None:
        events = []
        with daemon.events(task_id) as source:
            for event in source:
                events.append(event)
                order.append((event.event, task_id))
        stories[task_id] = Ended(events)

    threads = [threading.Thread(target=read, args=(task_id,)) for task_id in task_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first_end = next(n for n, (event, _) in enumerate(order) if event == "end")
    assert {task_id for event, task_id in order[:first_end] if event == "token"} == set(task_ids)
    assert [stories[task_id].text for task_id in task_ids] == [alone.text] * SLOTS


def test_a_task_beyond_the_slots_waits_and_is_served(daemon: Daemon) -> None:
    for _ in range(SLOTS):
        daemon.submit(prompt="Once upon a time", max_tokens=64)
    queued = daemon.client.post("/v1/tasks", json={"prompt": PROMPT, "max_tokens": 4})
    assert queued.status_code == 202
    assert daemon.health()["pools"][0]["queue"] == {"interactive": 1, "batch": 0}
    assert daemon.stream(queued.json()["task_id"]).names[-1] == "end"


def test_a_client_that_hangs_up_frees_its_slot(daemon: Daemon) -> None:
    daemon.wait_for_replica(slots_busy=0)
    task_id = daemon.submit(prompt="Count: 1 2 3 4", max_tokens=1000, temperature=0)
    with daemon.events(task_id) as events:
        assert next(events).event == "started"
        assert next(events).event == "token"
        assert daemon.replica()["slots_busy"] == 1
    daemon.wait_for_replica(slots_busy=0)
    story = daemon.stream(task_id)
    assert story.names[-1] == "error"
    assert story.last["code"] == "CANCELLED"
    assert "nobody streamed it" in story.last["message"]
    daemon.wait_for_idle_engine()


def test_a_reader_that_comes_back_gets_the_rest(daemon: Daemon) -> None:
    task_id = daemon.submit(prompt=PROMPT, max_tokens=24, temperature=0)
    with daemon.events(task_id) as events:
        seen = [next(events) for _ in range(5)]
    path = f"/v1/tasks/{task_id}/stream"
    rest = daemon.client.get(path, headers={"Last-Event-ID": seen[-1].id})
    whole = daemon.client.get(path)
    assert rest.text.startswith("id: 5\n")
    assert whole.text.endswith(rest.text)
    assert len(whole.text) > len(rest.text)


def test_cancel_stops_the_engine_and_the_log(daemon: Daemon) -> None:
    daemon.wait_for_replica(slots_busy=0)
    task_id = daemon.submit(prompt="Count: 1 2 3 4", max_tokens=1000, temperature=0)
    with daemon.events(task_id) as events:
        assert [next(events).event, next(events).event] == ["started", "token"]
        cancelled = daemon.client.post(f"/v1/tasks/{task_id}/cancel")
        assert (cancelled.status_code, cancelled.content) == (204, b"")
        assert [event.event for event in events if event.event != "token"] == ["error"]
    assert daemon.client.post(f"/v1/tasks/{task_id}/cancel").status_code == 204
    story = daemon.stream(task_id)
    assert story.last["code"] == "CANCELLED"
    assert len(story.events) < 900
    daemon.wait_for_replica(slots_busy=0)
    daemon.wait_for_idle_engine()


def test_a_prompt_beyond_the_context_is_refused_in_the_engines_words(daemon: Daemon) -> None:
    ended = daemon.run(prompt="word " * 3000, max_tokens=4)
    assert ended.names == ["error"]
    assert ended.last["code"] == "INVALID_PARAMS"
    assert "context size" in ended.last["message"]
    assert ended.last["engine"] == "llamacpp"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"prompt": PROMPT, "ctx": 100_000}, "above"),
        ({"prompt": PROMPT, "pool_id": "other"}, "demo"),
        ({"prompt": PROMPT, "engine": "vllm"}, "llamacpp"),
        ({"prompt": PROMPT, "max_token": 4}, "max_tokens"),
    ],
    ids=["ctx", "pool", "engine", "unknown field"],
)
def test_what_no_pool_can_serve_is_refused_at_the_door(
    daemon: Daemon, task: dict[str, object], words: str
) -> None:
    answer = daemon.client.post("/v1/tasks", json=task)
    assert answer.status_code == 400
    assert answer.json().keys() == {"code", "message", "engine"}
    assert answer.json()["code"] == "INVALID_PARAMS"
    assert words in answer.json()["message"]


def test_a_known_task_id_is_a_conflict(daemon: Daemon) -> None:
    task_id = str(uuid.uuid4())
    assert daemon.submit(task_id=task_id, prompt=PROMPT, max_tokens=1) == task_id
    again = daemon.client.post("/v1/tasks", json={"task_id": task_id, "prompt": PROMPT})
    assert (again.status_code, again.json()["code"]) == (409, "CONFLICT")
    assert daemon.stream(task_id).names[-1] == "end"
