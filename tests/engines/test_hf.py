import copy
import json
import shutil
from math import exp

import pytest
import torch

from derta.chat import answer_head, encode_prompt
from derta.engines import load_engine
from derta.engines.hf_engine import HfEngine, stop_tokens
from derta.errors import EngineError, ModelError
from derta.loading import position_limit
from derta.records import Message, Prompt
from tolerances import logit_tolerance

QUESTIONS = (
    "How do I bake bread?",
    "Tea?",
    "Tell me a story about a kite, a river and a green boat.",
    "Paint a fence.",
)


def chat_prompt(text, *, name=None, prefill=None):
    messages = (Message(role="user", content=text),)
    return Prompt(id=name or text, request_id="r", request=text, attack="direct", messages=messages, prefill=prefill)


def raw_prompt(text):
    return Prompt(id=f"raw {text}", request_id="r", request=text, attack="completing", mode="raw", text=text)


PROMPTS = (
    *(chat_prompt(text) for text in QUESTIONS),
    *(raw_prompt(text) for text in QUESTIONS),
    *(chat_prompt(text, name=f"prefilled {text}", prefill="Sure, here") for text in QUESTIONS),
)


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return load_engine(tiny_model_dir, device="cpu")


def replies(engine, prompts, max_new_tokens=20):
    results = list(engine.generate(prompts, max_new_tokens=max_new_tokens))
    assert sorted(reply.prompt_id for reply in results) == sorted(prompt.id for prompt in prompts)
    return {reply.prompt_id: reply for reply in results}


def test_replies_are_the_output_of_generate_on_the_rendered_text(engine):
    tokenizer, results = engine.chat.tokenizer, replies(engine, PROMPTS)
    for prompt in PROMPTS:
        question = prompt.text or f"<|user|>\n{prompt.request}<|end|>\n<|assistant|>\n{prompt.prefill or ''}"
        ids = tokenizer("<s>" + question, add_special_tokens=False, return_tensors="pt")["input_ids"]
        stop_ids = sorted(stop_tokens(engine.model, engine.chat))
        written = engine.model.generate(
            ids, max_new_tokens=20, do_sample=False, eos_token_id=stop_ids, pad_token_id=stop_ids[0]
        )[0, ids.shape[1] :].tolist()
        stopped = written[-1] in stop_ids
        assert list(results[prompt.id].token_ids) == (written[:-1] if stopped else written)
        assert results[prompt.id].stop_reason == ("eos" if stopped else "length")


def test_the_batch_size_does_not_change_replies(engine):
    one_by_one = HfEngine(engine.model, engine.chat, max_batch_tokens=1)
    assert replies(engine, PROMPTS) == replies(one_by_one, PROMPTS)


def test_texts_and_token_starts_match_the_ids(engine):
    for reply in replies(engine, PROMPTS).values():
        assert reply.text == engine.chat.tokenizer.decode(reply.token_ids)
        assert len(reply.token_starts) == len(reply.token_ids)


def test_replies_are_yielded_before_all_are_complete(engine):
    small_batches = HfEngine(engine.model, engine.chat, max_batch_tokens=1)
    passes = []
    hook = engine.model.register_forward_hook(lambda *_: passes.append(1))
    stream = small_batches.generate(PROMPTS, max_new_tokens=2)
    assert not passes
    next(stream)
    assert 0 < len(passes) <= 2
    hook.remove()


def test_stop_tokens_are_those_of_the_model_and_of_the_template(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    first = replies(load_engine(folder, device="cpu"), PROMPTS[:1])[QUESTIONS[0]]
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [first.token_ids[3], 1]}))
    engine = load_engine(folder, device="cpu")
    cut = replies(engine, PROMPTS[:1])[QUESTIONS[0]]
    assert stop_tokens(engine.model, engine.chat) == engine.chat.stop_ids | {first.token_ids[3], 1}
    assert cut.stop_reason == "eos"
    assert cut.token_ids == first.token_ids[: first.token_ids.index(first.token_ids[3])]


@pytest.mark.parametrize("settings", [{"pad": False}, {"bos": False}, {"kind": "spm"}, {"kind": "word"}])
def test_any_fast_tokenizer_with_an_eos_is_supported(make_model_dir, settings):
    engine = load_engine(make_model_dir(tokenizer=settings), device="cpu")
    assert replies(engine, PROMPTS) == replies(HfEngine(engine.model, engine.chat, max_batch_tokens=1), PROMPTS)


def test_a_base_model_without_a_template_uses_the_papers(make_model_dir):
    folder = make_model_dir(tokenizer={"chat_template": None})
    with pytest.raises(ModelError, match="set `template: paper`"):
        load_engine(folder, device="cpu")
    assert len(replies(load_engine(folder, device="cpu", template="paper"), PROMPTS)) == len(PROMPTS)


def test_a_prompt_longer_than_the_position_limit_is_an_error_before_the_first_reply(engine):
    long = raw_prompt("boil the water " * 100)
    with pytest.raises(
        ModelError, match=r"prompt 'raw boil .*: \d+ tokens and 20 after them are more than .* 256 positions"
    ):
        engine.generate([*PROMPTS, long], max_new_tokens=20)
    with pytest.raises(ModelError, match="more than the model's 256 positions"):
        engine.log_likelihood([PROMPTS[0]], ["boil the water " * 100])


def test_a_prompt_may_use_all_positions(engine):
    room = position_limit(engine.model.config) - len(encode_prompt(engine.chat, PROMPTS[1]))
    [reply] = engine.generate([PROMPTS[1]], max_new_tokens=room)
    assert reply.stop_reason == "length" or len(reply.token_ids) < room


def test_the_position_limit_is_read_under_any_name_in_the_config(make_model):
    assert (
        position_limit(make_model("gpt2", vocab_size=30).config)
        == position_limit(make_model("llama", vocab_size=30).config)
        == 256
    )


def test_max_new_tokens_below_one_is_refused(engine):
    with pytest.raises(ModelError, match="max_new_tokens: expected at least 1, got 0"):
        engine.generate(PROMPTS, max_new_tokens=0)


def test_a_prompt_without_tokens_is_an_error(make_model_dir):
    engine = load_engine(make_model_dir(tokenizer={"kind": "word", "bos": False}), device="cpu")
    blank = raw_prompt("x").model_copy(update={"text": " "})
    with pytest.raises(ModelError, match="prompt 'raw x' has no token that this tokenizer knows"):
        engine.generate([blank], max_new_tokens=2)


@pytest.fixture
def training(make_model, engine):
    """A model with dropout in its attention, in training mode, with one module that stays in eval mode."""
    model = make_model("llama", vocab_size=len(engine.chat.tokenizer), attention_dropout=0.9).train()
    model.model.layers[0].eval()
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_a_model_in_training_mode_generates_in_eval_mode_and_trains_between_replies(engine, training):
    before, plain = modes(training), HfEngine(copy.deepcopy(training).eval(), engine.chat, max_batch_tokens=100)
    around = load_engine(training, tokenizer=engine.chat.tokenizer, max_batch_tokens=100)
    results = {}
    for reply in around.generate(PROMPTS, max_new_tokens=8):
        assert modes(training) == before
        training(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
        results[reply.prompt_id] = reply
    assert results == replies(plain, PROMPTS, max_new_tokens=8)
    continuations = ["Sure, here"] * len(PROMPTS)
    assert around.log_likelihood(PROMPTS, continuations) == plain.log_likelihood(PROMPTS, continuations)
    assert modes(training) == before


def test_training_mode_is_restored_after_an_error_or_a_closed_iterator(engine, training):
    before, around = modes(training), HfEngine(training, engine.chat, max_batch_tokens=1)
    stream = around.generate(PROMPTS, max_new_tokens=2)
    next(stream)
    stream.close()
    assert modes(training) == before

    def broken(*_):
        raise RuntimeError("a broken layer")

    training.lm_head.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="a broken layer"):
        list(around.generate(PROMPTS, max_new_tokens=2))
    assert modes(training) == before


def test_a_model_in_memory_has_the_same_settings_and_needs_its_tokenizer(engine, tiny_model_dir):
    tokenizer = engine.chat.tokenizer
    loaded = load_engine(
        engine.model, tokenizer=tokenizer, template="paper", refusal_words=["Sure"], max_batch_tokens=9
    )
    assert (loaded.model, loaded.refusal_words, loaded.max_batch_tokens) == (engine.model, ("Sure",), 9)
    assert "[INST]" in answer_head(loaded.chat, [Message(role="user", content="Tea?")]).text
    assert replies(load_engine(engine.model, tokenizer=str(tiny_model_dir)), PROMPTS) == replies(engine, PROMPTS)
    with pytest.raises(EngineError, match="expected `tokenizer` with a LlamaForCausalLM in memory, got none"):
        load_engine(engine.model)
    with pytest.raises(EngineError, match="expected no `dtype` for a LlamaForCausalLM in memory"):
        load_engine(engine.model, tokenizer=tokenizer, dtype="bfloat16")
    with pytest.raises(EngineError, match="engine api: expected a model's name, got a LlamaForCausalLM; use the"):
        load_engine(engine.model, engine="api")


def test_a_tokenizer_too_large_for_the_model_is_refused(make_model, make_tokenizer, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    make_model("llama", vocab_size=100).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"the tokenizer has \d+ tokens, the model embeds 100"):
        load_engine(tmp_path, device="cpu")


def test_no_prompts_have_no_replies(engine):
    assert list(engine.generate([], max_new_tokens=2)) == []
    assert engine.log_likelihood([], []) == []


def test_each_greedy_token_has_the_highest_likelihood(make_model_dir):
    # words survive being written and read again, which the random bytes of a byte-level model do not
    engine = load_engine(make_model_dir(tokenizer={"kind": "word"}), device="cpu")
    prompt = chat_prompt("How do I bake bread?")
    [reply] = engine.generate([prompt], max_new_tokens=1)
    [[best]] = engine.log_likelihood([prompt], [reply.text])
    for other in ("cat", "bread", "green"):
        assert engine.log_likelihood([prompt], [" " + other])[0][0] <= best


@pytest.mark.equality
def test_likelihoods_match_one_forward_pass(engine):
    tokenizer = engine.chat.tokenizer
    continuations = ["", "Sure, here are the steps.", "Sorry"] * 4
    results = engine.log_likelihood(PROMPTS, continuations)
    for prompt, continuation, log_probs in zip(PROMPTS, continuations, results, strict=True):
        head = prompt.text or f"<|user|>\n{prompt.request}<|end|>\n<|assistant|>\n{prompt.prefill or ''}"
        ids = tokenizer("<s>" + head + continuation, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            table = engine.model(ids).logits[0, :-1].log_softmax(dim=-1)
        plain = table.gather(-1, ids[0, 1:, None])[:, 0].tolist()
        tolerance = logit_tolerance(table)
        assert log_probs == pytest.approx(plain[len(plain) - len(log_probs) :], abs=tolerance)
        assert bool(log_probs) == bool(continuation)


def test_the_refusal_probability_at_a_position_is_the_likelihood_of_a_refusal_there(engine):
    prompt, continuation = chat_prompt("How do I bake bread?"), "Sure, here are the steps."
    [results] = engine.refusal_probability([prompt], [continuation])
    [tokens] = engine.log_likelihood([prompt], [continuation])
    assert len(results) == len(tokens) + 1
    # after the whole continuation: " Sorry" or "Sorry"
    spaced = engine.log_likelihood([prompt], [continuation + " Sorry"])[0][-1]
    bare = engine.log_likelihood([prompt], [continuation + "Sorry"])[0][-1]
    assert results[-1] == pytest.approx(torch.tensor([spaced, bare]).exp().sum().item(), rel=1e-3)
    assert engine.refusal_probability([prompt], [""])[0] == pytest.approx(results[:1], rel=1e-3)


def test_a_refusal_word_of_several_tokens_has_the_probability_of_all_of_them(engine):
    prompt, continuation = chat_prompt("How do I bake bread?"), "Sure, here are the steps."
    other = HfEngine(engine.model, engine.chat, refusal_words=("Sure", "Sorry"))  # "Sure" is one token, " Sure" three
    [results] = other.refusal_probability([prompt], [continuation])
    [tokens] = engine.log_likelihood([prompt], [continuation])
    words = [
        engine.log_likelihood([prompt], [continuation + word])[0][len(tokens) :]
        for word in ("Sure", " Sure", "Sorry", " Sorry")
    ]
    assert [len(word) for word in words] == [1, 3, 1, 1]
    assert results[-1] == pytest.approx(sum(exp(sum(word)) for word in words), rel=1e-3)
    assert len(results) == len(tokens) + 1
    assert other.refusal_probability([prompt] * 2, ["", continuation])[1] == pytest.approx(results, rel=1e-3)


def test_an_unknown_refusal_word_is_an_error_when_it_is_used(make_model_dir):
    other = load_engine(make_model_dir(tokenizer={"kind": "word"}), device="cpu", refusal_words=("Unfortunately",))
    assert len(replies(other, PROMPTS[:1])) == 1
    with pytest.raises(ModelError, match="knows, got 'Unfortunately'"):
        other.refusal_probability(PROMPTS[:1], ["Sure"])


def test_prompts_and_continuations_come_in_pairs(engine):
    with pytest.raises(ValueError, match="zip"):
        engine.log_likelihood(PROMPTS, ["Sure"])


def test_threads_are_set_only_by_the_setting(tiny_model_dir):
    before = torch.get_num_threads()
    load_engine(tiny_model_dir, device="cpu")
    assert torch.get_num_threads() == before
    load_engine(tiny_model_dir, device="cpu", threads=before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_the_template_has_the_same_variables_in_generation_and_training(make_model_dir):
    template = "{{ bos_token }}{% if quiet %}Hush. {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = make_model_dir(tokenizer={"chat_template": template})
    messages = [Message(role="user", content="The cat sleeps.")]

    plain = load_engine(folder)
    quiet = load_engine(folder, template_kwargs={"quiet": True})

    assert answer_head(quiet.chat, messages).text == "<s>Hush. The cat sleeps."
    assert answer_head(plain.chat, messages).text == "<s>The cat sleeps."


def test_a_model_with_the_training_loss_generates_the_same_replies(engine, training):
    from derta.train.loss import use_label_loss

    plain = HfEngine(copy.deepcopy(training).eval(), engine.chat)
    training.gradient_checkpointing_enable({"use_reentrant": False})
    use_label_loss(training, refusal_ids=[5])
    around = HfEngine(training, engine.chat)
    assert replies(around, PROMPTS) == replies(plain, PROMPTS)
    assert around.refusal_probability(PROMPTS[:2], ["Sure", ""]) == plain.refusal_probability(PROMPTS[:2], ["Sure", ""])
    assert modes(training).count(True) > 1
