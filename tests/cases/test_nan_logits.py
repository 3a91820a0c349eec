"""A model whose logits are NaN or infinite gives no reply and no score, but an error that names the prompt."""

import json

import pytest
import torch

from derta.attacks import pair
from derta.chat import chat_format
from derta.engines.hf_engine import HfEngine
from derta.engines.openai_answers import TextAnswer, scores_from_answer
from derta.engines.scripted import ScriptedModel
from derta.engines.token_io import Row
from derta.errors import EngineError
from derta.records import Message, Prompt, Request
from small_run import write_jsonl

WORDS = ("bread", "tea", "kite")


def ask(word, name=None):
    messages = (Message(role="user", content=f"Where is the {word}?"),)
    return Prompt(id=name or word, request_id="r", request=word, attack="direct", messages=messages)


PROMPTS = [ask(word) for word in WORDS]


@pytest.fixture
def engine(make_model, tiny_tokenizer):
    return HfEngine(make_model("llama", vocab_size=len(tiny_tokenizer)), chat_format(tiny_tokenizer))


def break_word(engine, word, value):
    """Make the embedding of a token that only one word has NaN or infinite: only prompts with it are affected."""
    encode = engine.chat.tokenizer.encode
    rest = {token for prompt in PROMPTS if prompt.id != word for token in encode(prompt.messages[0].content)}
    token = next(token for token in encode(f"Where is the {word}?") if token not in rest)
    with torch.no_grad():
        engine.model.get_input_embeddings().weight[token, 0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_replies_stop_at_the_prompt_whose_logits_are_not_finite(engine, value):
    break_word(engine, "kite", value)
    with pytest.raises(EngineError, match="prompt 'kite': expected finite logits, got NaN or infinity in float32"):
        list(engine.generate(PROMPTS, max_new_tokens=4))
    assert len(list(engine.generate(PROMPTS[:2], max_new_tokens=4))) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("measure", ["log_likelihood", "refusal_probability"])
def test_scores_stop_at_the_prompt_whose_logits_are_not_finite(engine, measure, value):
    break_word(engine, "kite", value)
    with pytest.raises(EngineError, match="prompt 'kite': expected finite logits"):
        getattr(engine, measure)(PROMPTS, ["Sure."] * 3)
    assert len(getattr(engine, measure)(PROMPTS[:2], ["Sure."] * 2)) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_stop_at_a_continuation_whose_logits_are_not_finite(engine, value):
    break_word(engine, "kite", value)
    with pytest.raises(EngineError, match="prompt 'tea': expected finite logits"):
        engine.log_likelihood(PROMPTS[:2], ["Sure.", "Where is the kite?"])


def test_an_infinite_logit_of_the_head_gives_no_score(engine):
    """exp(logit - inf) is 0, which would be a refusal probability of 0 %."""
    with torch.no_grad():
        engine.model.lm_head.weight[7:9, 0] = torch.tensor([float("inf"), float("-inf")])  # one of them is inf
    with pytest.raises(EngineError, match="expected finite logits"):
        engine.refusal_probability(PROMPTS, [""] * 3)


def test_logits_of_minus_infinity_are_valid_because_models_mask_tokens_so(engine):
    head = torch.nn.Linear(64, engine.model.config.vocab_size)
    head.weight, head.bias.data[7] = engine.model.lm_head.weight, float("-inf")
    engine.model.lm_head = head
    assert all(7 not in reply.token_ids for reply in engine.generate(PROMPTS, max_new_tokens=4))
    assert all(0 <= p <= 1 for row in engine.refusal_probability(PROMPTS, ["Sure."] * 3) for p in row)


def test_an_overflow_in_float16_names_the_remedy(engine):
    with torch.no_grad():
        for layer in engine.model.model.layers:
            layer.mlp.down_proj.weight.mul_(1e6)
    assert len(list(engine.generate(PROMPTS, max_new_tokens=2))) == 3
    engine.model.half()
    with pytest.raises(EngineError, match="in float16; float16 overflows in this model; set dtype to bfloat16"):
        list(engine.generate(PROMPTS, max_new_tokens=2))


def test_generate_ends_with_one_line_and_writes_no_reply(derta, tmp_path, engine):
    break_word(engine, "kite", float("nan"))
    model = tmp_path / "model"
    engine.model.save_pretrained(model)
    engine.chat.tokenizer.save_pretrained(model)
    rows = [{"id": word, "text": f"Where is the {word}?"} for word in WORDS]
    requests = write_jsonl(tmp_path / "requests.jsonl", rows)
    assert derta("attack", "direct", "--requests", requests, "--out", tmp_path / "prompts.jsonl").code == 0
    result = derta(
        "generate", tmp_path / "prompts.jsonl", "--model", model, "--out", tmp_path / "r.jsonl", "--max-new-tokens", 4
    )
    assert result.code == 2, result
    assert "expected finite logits" in result.err
    assert "kite" in result.err
    assert "Traceback" not in result.err
    replies = (tmp_path / "r.jsonl").read_text() if (tmp_path / "r.jsonl").exists() else ""
    assert all("kite" not in json.loads(line)["prompt_id"] for line in replies.splitlines())


def test_a_search_stops_at_a_target_whose_logits_are_not_finite(engine):
    """The error is not that of a prompt that the target cannot process, which a search skips."""
    break_word(engine, "kite", float("nan"))
    drafts = iter(f'{{"improvement": "", "prompt": "Where is the {word}?"}}' for word in WORDS)
    attacker = ScriptedModel(lambda prompt: next(drafts))
    search = pair(streams=3, depth=1, max_new_tokens=2).search(
        [Request(id="7", text="Why?")], target=engine, attacker=attacker, judge=lambda prompt, reply: False
    )
    with pytest.raises(EngineError, match="expected finite logits"):
        list(search)


@pytest.mark.parametrize("value", ["NaN", "null"])
def test_a_server_that_returns_no_number_for_a_token_gives_no_score(value):
    logprobs = f'{{"token_logprobs": [null, -0.5, {value}, -1.0]}}'
    answer = TextAnswer.model_validate_json(f'{{"choices": [{{"text": "", "logprobs": {logprobs}}}]}}')
    with pytest.raises(EngineError, match="the server returned NaN or none for 1 of 2"):
        scores_from_answer(Row([1, 2, 3], 1), answer)
