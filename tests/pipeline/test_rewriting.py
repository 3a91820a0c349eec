"""Safe responses that a model rewrites: which, what is kept and counted, and what a run and the audit make of them."""

import json

import pytest

from derta.config import load_recipe
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, EngineError, RecipeError, RunError
from derta.files import read_records
from derta.pipeline import judge as judging
from derta.pipeline.audit import audit_recipe
from derta.pipeline.data import prepare_data
from derta.pipeline.estimate import estimate
from derta.pipeline.method import train_one
from derta.pipeline.rewriting import find_pending, rewrite_prompt
from derta.pipeline.run import run
from derta.records import Message, Reply, Triple
from small_run import write_jsonl

GOOD = "Sorry, I won't help with that, because the paint is unsafe. I can help you find a painter."
REPLIES = {
    "a kite": "Here is how to do it: boil the water, wait, and paint it.",
    "a boat": "",
    "a story": "Unfortunately, I can't help with that.",
    "a river": "Sorry, " + "I won't help. " * 200,
}


@pytest.fixture
def asked(monkeypatch):
    """The prompts that the rewriter has answered."""
    seen = []

    def load(path, **_):
        def answer(prompt):
            seen.append(prompt.messages[0].content)
            return next((text for thing, text in REPLIES.items() if f"paint {thing}?" in seen[-1]), GOOD)

        return ScriptedModel(answer)

    monkeypatch.setattr(judging, "load_engine", load)
    return seen


@pytest.fixture
def rewriting(recipe, tmp_path, tiny_model_dir):
    """The small recipe with advice in place of all refusals but those of bread and tea."""
    rows = [json.loads(line) for line in (tmp_path / "triples.jsonl").read_text().splitlines()]
    for row in rows[2:]:
        row["safe"] = "Please ask somebody who has learned to paint."
    write_jsonl(tmp_path / "triples.jsonl", rows)
    rewriter = {"model": str(tiny_model_dir), "settings": {"dtype": "float32"}, "max_new_tokens": 60}
    small = {"data.num_triples": 1, "data.num_helpful": 1, "data.held_out_requests": 1, "profile_answers": 0}
    changes = {"data.policy": "rewrite", "data.rewriter": rewriter, "methods": ["derta"], **small}
    return lambda **more: load_recipe(recipe, overrides={**changes, **more})


def test_responses_that_do_not_refuse_are_rewritten_and_those_that_fail_are_counted(rewriting, tmp_path, asked):
    prepared = prepare_data(rewriting(), distilled=tmp_path / "out" / "distilled")
    assert prepared.changed_triples == {"safe_rewritten": 2}
    assert prepared.dropped_triples == {
        "rewrite_not_a_refusal_comply": 1,
        "rewrite_empty": 1,
        "rewrite_no_refusal_word": 1,
        "rewrite_cut_off": 1,
    }
    safe = {one.safe for one in prepared.triples}
    assert safe <= {GOOD, "Sorry, I cannot help with bread.", "Sorry, I cannot help with tea."}
    assert len(asked) == 6
    assert all("Please ask somebody" in text and '"Sorry"' in text for text in asked)
    stored = list(read_records(tmp_path / "out" / "distilled.safe.jsonl", Triple))
    assert [one.safe for one in stored] == [GOOD, GOOD]


def test_a_stopped_rewriting_resumes_and_a_complete_one_asks_nothing(rewriting, tmp_path, asked):
    recipe, start = rewriting(), tmp_path / "distilled"
    first = prepare_data(recipe, distilled=start)
    replies = tmp_path / "distilled.safe.replies.jsonl"
    assert all(one.producer["model"] and one.input_hash for one in read_records(replies, Reply))
    asked.clear()
    assert prepare_data(recipe, distilled=start) == first
    assert not asked
    replies.write_text("".join(f"{line}\n" for line in replies.read_text().splitlines()[:4]))
    assert prepare_data(recipe, distilled=start).identity() == first.identity()
    assert len(asked) == 2


def test_a_run_trains_on_rewritten_responses_and_another_rewriter_is_another_recipe(rewriting, tmp_path, asked):
    folder = tmp_path / "run"
    summary = run(rewriting(evaluate=[]), out=folder)
    assert "2 safe_rewritten" in " ".join(summary.notes)
    asked.clear()
    other = {"data.rewriter.settings": {"dtype": "bfloat16"}, "evaluate": []}
    with pytest.raises(RunError, match=r"another recipe \(differs in data.rewriter.settings.dtype\)"):
        run(rewriting(**other), out=folder)
    assert not asked
    faster = {"data.rewriter.settings": {"dtype": "float32", "max_batch_tokens": 64}, "evaluate": []}
    assert run(rewriting(**faster), out=folder) == summary
    assert not asked


def test_one_method_alone_is_trained_on_rewritten_responses(rewriting, tmp_path, asked):
    train_one(rewriting(), method="derta", out=tmp_path / "model")
    assert len(asked) == 6
    assert (tmp_path / "model.distilled.safe.replies.jsonl").is_file()


def test_an_estimate_and_the_audit_ask_no_model(rewriting, asked):
    recipe = rewriting()
    assert estimate(recipe)[0].method == "derta"
    audit = audit_recipe(recipe)
    found = {row.policy: (row.remaining, row.remaining_without_refusal, row.changed) for row in audit.policies}
    assert found["rewrite"] == (8, 0, {"safe_to_rewrite": 6})
    assert [row.policy for row in audit.policies if row.chosen] == ["rewrite"]
    assert not asked


def test_what_preparation_drops_anyway_is_not_rewritten():
    answered = Triple(query="How do I paint?", safe="Ask a painter.", harmful="Boil it.")
    same = answered.model_copy(update={"safe": "Boil it."})
    evaluated = answered.model_copy(update={"query": "How do I boil?"})
    apology = answered.model_copy(update={"safe": "I'm sorry to hear that. " + "Then paint one side of it. " * 40})
    own = answered.model_copy(update={"safe": "Declined: I can't help with painting."})
    triples = [answered, answered, same, evaluated, apology, own]
    pending = find_pending(triples, requests=["how do i boil"], words=["Declined"])
    assert list(pending.values()) == [answered, apology]


def test_the_prompt_has_the_earlier_turns_and_no_text_of_a_triple_is_a_placeholder():
    earlier = (Message(role="user", content="I have a fence."), Message(role="assistant", content="Nice."))
    triple = Triple(query="{response} {word}?", safe="Ask {request}.", harmful="Boil it.", messages=earlier)
    [message] = rewrite_prompt(triple, word="Sorry").messages
    assert message.role == "user"
    assert "I have a fence." in message.content
    assert "{response} {word}?" in message.content
    assert message.content.endswith("Ask {request}.")


def test_a_rewriter_that_never_refuses_is_an_error(rewriting, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "load_engine", lambda *_, **__: ScriptedModel(lambda _: "Yes: boil it, then paint."))
    with pytest.raises(
        DataError, match=r"rewritten responses that refuse, got none of 6 \(\{'rewrite_not_a_refusal_com"
    ):
        prepare_data(rewriting(), distilled=tmp_path / "distilled")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.rewriter": None}, r"`data`: expected a `rewriter` with `policy: rewrite`, got none"),
        ({"data.policy": "drop"}, r"`data`: expected no `rewriter` with `policy: drop`, got one; remove it"),
        ({"data.rewriter.max_tokens": 9}, r"unknown key `data.rewriter.max_tokens`; did you mean 'max_new_tokens'"),
    ],
)
def test_a_policy_without_its_model_and_a_model_without_its_policy_are_one_line(rewriting, changes, message):
    with pytest.raises(RecipeError, match=message):
        rewriting(**changes)


def test_a_key_is_sent_only_to_a_server_that_the_user_allows(rewriting, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    served = {"model": "one", "engine": "api", "settings": {"endpoints": "https://example.org/v1"}}
    recipe = rewriting(**{"data.rewriter": served})
    with pytest.raises(EngineError, match=r"example.org"):
        train_one(recipe, method="derta", out=tmp_path / "model")
    with pytest.raises(EngineError, match=r"example.org"):
        run(recipe, out=tmp_path / "run")
