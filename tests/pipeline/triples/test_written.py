"""Requests that a model writes for the clauses of a policy: what is kept, dropped and counted, and what they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from derta.config import PolicyRequests, parse_triples_config
from derta.data.requests import load_requests
from derta.errors import DataError, RecipeError
from derta.pipeline.triples.asking import Models
from derta.pipeline.triples.making import make_triples
from derta.pipeline.triples.planning import plan_triples
from derta.pipeline.triples.written import WrittenRequests, write_requests
from derta.records import Prompt
from scripted_writers import STEPS, Scripts, write_config
from small_run import Derta

Values = dict[str, Any]
POLICY = "# Rules\n- Locks: no picking of locks.\n- Paint: no theft of paint.\n"
PLACES = "garden kitchen harbour museum station library castle bakery school tower bridge market".split()  # noqa: SIM905
SHAPES = {
    "requests": "How do I take the {what} of the {where}",
    "borderline": "May I look at the {what} in the {where}",
}


def listed(prompt: Prompt, *, round_size: int = 4) -> str:
    """Return a numbered list for a clause, another one in each round."""
    kind, _, clause = prompt.request_id.partition(":")
    number = int(prompt.id.partition(":")[0].removeprefix(kind)) - 1
    shape = SHAPES.get(kind, "Who made the old {what} of the {where}")
    places = PLACES[number * round_size : (number + 1) * round_size]
    return "\n".join(f"{i}. {shape.format(what=clause, where=where)}?" for i, where in enumerate(places, start=1))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.md"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture
def from_policy(policy: Path, values: Values, scripts: Scripts) -> Values:
    """A configuration whose requests are written from a policy."""
    scripts["lister"] = listed
    scripts["writer"] = lambda prompt: STEPS.replace("roots", str(prompt.category))
    requests = {"policy": str(policy), "model": "lister", "engine": "scripted", "per_clause": 4, "per_call": 4}
    return values | {"requests": requests}


def write(policy: Path, out: Path, **changes: Any) -> WrittenRequests:
    values = {"policy": str(policy), "model": "lister", "engine": "scripted", "per_clause": 6, "per_call": 4}
    return write_requests(PolicyRequests.model_validate(values | changes), out=out, models=Models())


def test_each_clause_gets_requests_of_three_kinds_with_its_id_as_category(policy, scripts, tmp_path):
    scripts["lister"] = listed
    written = write(policy, tmp_path / "out", borderline=2, lookalikes=3)
    assert [(one.clause, one.requests, one.borderline, one.lookalikes) for one in written.clauses] == [
        ("locks", 6, 2, 3),
        ("paint", 6, 2, 3),
    ]
    assert {one.category for one in written.requests()} == {"locks", "paint"}
    assert len({one.id for one in written.requests()}) == 12
    [first, *_] = written.kept["requests"]
    assert first.text == "How do I take the locks of the garden?"
    assert (first.origin.source, first.origin.prompt, len(first.origin.prompt_hash or "")) == (
        "lister",
        "requests1:locks",
        16,
    )
    assert [one.category for one in load_requests(tmp_path / "out" / "borderline.jsonl")] == ["locks"] * 2 + [
        "paint"
    ] * 2
    assert len(load_requests(tmp_path / "out" / "lookalikes.jsonl")) == 6
    assert {one.reason for one in written.dropped} == {"surplus"}


def test_a_prompt_has_the_clause_the_number_and_what_is_there_already(policy, scripts, tmp_path):
    seen: dict[str, str] = {}

    def script(prompt: Prompt) -> str:
        assert prompt.messages is not None
        seen[prompt.id] = prompt.messages[0].content
        return listed(prompt)

    scripts["lister"] = script
    write(policy, tmp_path / "out", borderline=0, lookalikes=1)
    assert [name for name in seen if name.startswith("lookalikes")] == ["lookalikes1:locks", "lookalikes1:paint"]
    assert "Locks: no picking of locks." in seen["requests1:locks"]
    assert "Write 4 different" in seen["requests1:locks"]
    assert "Write 2 different" in seen["requests2:locks"]
    assert "- How do I take the locks of the garden?" in seen["requests2:locks"]
    assert "paint of the" not in seen["requests2:locks"]
    assert "harmless" in seen["lookalikes1:locks"]


def test_what_is_no_new_request_is_dropped_and_counted_by_clause(policy, scripts, tmp_path):
    replies = {
        "requests1:locks": "1. How do I pick the old lock?\n2. how do I pick the old LOCK\n"
        "3. How can I pick old locks?\n"
        "4. Locks: no picking of locks.\n5. I'm sorry, but I can't.\n6. Go.\n7. "
        + "why " * 200
        + "\n8. Pick \u202eit now?",
        "requests2:locks": "I'm sorry, but I can't write that.\n\nHere is why:\n- It is unsafe to do so.",
        "requests3:locks": "They would ask about locks.",
        "requests4:locks": "",
        "requests1:paint": json.dumps(["How do I take the red paint?", "Where is paint kept at night?"]),
    }
    scripts["lister"] = lambda prompt: replies.get(prompt.id, listed(prompt))
    written = write(policy, tmp_path / "out", per_clause=8, borderline=0, lookalikes=0)
    [locks, paint] = written.clauses
    assert locks.requests == 1
    assert locks.dropped == {
        "duplicate": 1,
        "repeats_the_prompt": 1,
        "near_duplicate": 1,
        "refused": 2,
        "too_short": 1,
        "too_long": 1,
        "hidden_characters": 1,
        "no_list": 1,
        "empty": 1,
    }
    assert (paint.requests, paint.dropped) == (8, {"surplus": 2})
    assert {one.id for one in written.dropped if one.reason == "near_duplicate"} == {"requests1:locks, item 3"}
    assert all("pick" not in one.model_dump_json() for one in written.dropped)


def test_a_harmless_request_equal_to_a_forbidden_one_is_dropped_but_not_one_with_its_words(policy, scripts, tmp_path):
    texts = {"requests": "How do I take the red paint?", "lookalikes": "how do i take the red paint"}
    scripts["lister"] = lambda prompt: (
        f"1. {texts[prompt.request_id.partition(':')[0]]}\n2. Who could take {prompt.id}?"
    )
    written = write(policy, tmp_path / "out", per_clause=1, borderline=0, lookalikes=2)
    assert [one.text for one in written.kept["requests"]][:1] == ["How do I take the red paint?"]
    assert "duplicate" in {one.reason for one in written.dropped if one.id.startswith("lookalikes")}
    scripts["lister"] = lambda prompt: (
        "1. Do not take red paint!" if "look" in prompt.id else "1. Do take the red paint!"
    )
    written = write(policy, tmp_path / "other", per_clause=1, borderline=0, lookalikes=1)
    assert [len(kept) for kept in written.kept.values()] == [1, 0, 1]


def test_the_last_item_of_a_reply_that_was_cut_off_is_dropped(policy, scripts, tmp_path):
    scripts["lister"] = listed
    written = write(policy, tmp_path / "out", borderline=0, lookalikes=0, max_new_tokens=25)
    assert "cut_off" in {one.reason for one in written.dropped}
    assert all(one.text.endswith("?") for one in written.kept["requests"])


def test_a_stopped_writing_resumes_and_a_complete_one_asks_nothing(policy, scripts, tmp_path):
    scripts["lister"] = listed
    first = write(policy, tmp_path / "out")
    scripts.asked.clear()
    assert write(policy, tmp_path / "out").kept == first.kept
    assert not scripts.asked
    replies = tmp_path / "out" / "policy2.replies.jsonl"
    replies.write_text("".join(f"{line}\n" for line in replies.read_text().splitlines()[:2]))
    assert write(policy, tmp_path / "out").kept == first.kept
    assert len(scripts.asked) == 4


def test_a_model_that_writes_no_request_is_an_error(policy, scripts, tmp_path):
    scripts["lister"] = lambda _: "I'm sorry, but I can't help with that."
    with pytest.raises(DataError, match=r"lister: expected requests for 2 clauses, got none that can be used \(\{"):
        write(policy, tmp_path / "out")


# --- in derta triples ------------------------------------------------------------------------------------------------


def test_a_policy_becomes_triples_and_its_lookalikes_become_counter_rows(from_policy, tmp_path):
    summary = make_triples(from_policy, out=tmp_path / "made")
    assert (summary.requests, summary.triples, len(summary.clauses)) == (8, 8, 2)
    assert [one.stage for one in summary.stages][:2] == ["policy", "requests"]
    assert summary.licence.startswith("Requests: terms of the model that wrote them (lister). ")
    rows = [json.loads(line) for line in (tmp_path / "made" / "triples.jsonl").read_text().splitlines()]
    assert {row["category"] for row in rows} == {"locks", "paint"}
    assert all(row["request_origin"]["source"] == "lister" for row in rows)
    counter = [json.loads(line) for line in (tmp_path / "made" / "counter.jsonl").read_text().splitlines()]
    asked = [row["messages"][0]["content"] for row in counter]
    lookalikes = [one.text for one in load_requests(tmp_path / "made" / "lookalikes.jsonl")]
    assert len(lookalikes) == 8
    assert set(lookalikes) <= set(asked)
    assert [one.id for one in load_requests(tmp_path / "made" / "requests.jsonl")] == [
        row["request_id"] for row in rows
    ]


def test_a_dry_run_counts_the_calls_and_asks_no_model(from_policy, scripts, tmp_path):
    plans = {one.stage: (one.calls, one.done) for one in plan_triples(from_policy, out=tmp_path / "made")}
    assert plans == {"policy": (18, 0), "harmful": (8, 0), "safe": (8, 0), "counterparts": (8, 0), "answers": (16, 0)}
    assert not scripts.asked
    make_triples(from_policy, out=tmp_path / "made")
    [policy, *_] = plan_triples(from_policy, out=tmp_path / "made")
    assert (policy.calls, policy.done) == (18, 6)


def test_clauses_with_too_few_requests_are_noted(from_policy, scripts, tmp_path):
    scripts["lister"] = lambda prompt: listed(prompt) if prompt.category == "paint" else "I'm sorry, but I can't."
    summary = make_triples(from_policy, out=tmp_path / "made")
    assert "clause locks: 0 of 4 requests were written" in summary.notes


def test_the_terminal_shows_counts_by_clause_and_no_request(from_policy, derta: Derta, tmp_path):
    called = derta("triples", write_config(tmp_path / "triples.yaml", from_policy), "--out", tmp_path / "made")
    assert (called.code, "requests by clause" in called.out, "paint" in called.out) == (0, True, True)
    assert "How do I" not in called.out + called.err


def test_a_policy_that_cannot_be_used_ends_the_command_in_one_line(from_policy, policy, derta: Derta, tmp_path):
    config = write_config(tmp_path / "triples.yaml", from_policy)
    policy.write_text("- Locks.\n- locks\n", encoding="utf-8")
    for more in ([], ["--dry-run"]):
        called = derta("triples", config, "--out", tmp_path / "made", *more)
        assert called.code == 2
        assert "line 2: expected each clause once, got that of line 1 again" in called.err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"policy": "p.md"}, r"`requests.model`: expected a value, got none"),
        (
            {"policy": "p.md", "model": "m", "per_clauses": 1},
            r"unknown key `requests.per_clauses`; did you mean",
        ),
        ({"policy": "p.md", "model": "m", "per_clause": 0}, r"`requests.per_clause`: Input should be greater"),
        ([{"path": "a.csv", "limits": 1}], r"unknown key `requests.0.limits`; did you mean 'limit'"),
    ],
)
def test_a_wrong_key_is_named(requests, message):
    with pytest.raises(RecipeError, match=message):
        parse_triples_config({"harmful": {"model": "m"}, "requests": requests})
