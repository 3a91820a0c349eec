import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Lfm2Config, Lfm2ForCausalLM, Phi3Config, Phi3ForCausalLM

from derta.engines import load_engine, prefix_cache
from derta.engines.batching import forward, pad
from derta.engines.decoding import decode
from derta.engines.hf_engine import HfEngine
from derta.engines.prefix_cache import PASS_TOKENS, find_prefixes, prefill, shared_prefixes, supports_prefix_cache
from derta.records import Message, Prompt
from tolerances import logit_tolerance

pytestmark = pytest.mark.equality

VOCAB = 460


def draw(rng, length):
    return torch.randint(0, 440, (length,), generator=rng).tolist()


@pytest.fixture(scope="module")
def rows():
    """Two families behind a long and a short prefix, both beyond the window of 16, and strangers among them."""
    rng = torch.Generator().manual_seed(3)
    long, short = draw(rng, 90), draw(rng, 70)
    tails = [draw(rng, length) for length in (1, 30, 4, 12, 7, 2)]
    families = [[*long, *tails[0]], [*short, *tails[1]], [*long, *tails[2]], [*short, *tails[3]], [*long, *tails[4]]]
    return [draw(rng, 25), *families, draw(rng, 3), [*short, *tails[5]], draw(rng, 100)]


def plain(model, rows):
    whole = pad(rows, side="left", device=model.device)
    return forward(model, **whole._asdict(), cache=None, logits_to_keep=1), whole.mask


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3", "mistral", "gpt2"])
def test_prefixes_and_chunks_produce_the_cache_of_one_batch(make_model, rows, kind, chunk, monkeypatch):
    monkeypatch.setattr(prefix_cache, "chunk_tokens", lambda device: chunk)
    model = make_model(kind, vocab_size=VOCAB)
    prefixes = find_prefixes(model, rows)
    assert [prefix and len(prefix.token_ids) for prefix in prefixes] == [None, 90, 70, 90, 70, 90, None, 70, None]
    with torch.inference_mode():
        expected, mask = plain(model, rows)
        results = prefill(model, rows, prefixes)
    assert torch.equal(results.mask, mask)
    tolerance = logit_tolerance(expected.logits)
    torch.testing.assert_close(results.logits, expected.logits[:, -1], atol=tolerance, rtol=0)
    for mine, theirs in zip(results.cache.layers, expected.past_key_values.layers, strict=True):
        assert type(mine) is type(theirs)
        assert mine.get_seq_length() == theirs.get_seq_length()
        real = mask[:, -mine.keys.shape[2] :].bool()
        for name in ("keys", "values"):
            actual, reference = getattr(mine, name).transpose(1, 2)[real], getattr(theirs, name).transpose(1, 2)[real]
            torch.testing.assert_close(actual, reference, atol=logit_tolerance(reference), rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_replies_do_not_depend_on_sharing_a_prefix(make_model, rows, kind):
    model = make_model(kind, vocab_size=VOCAB)
    separate = sorted(decode(model, rows, max_new_tokens=20, stop_ids={1}))
    prefixes = find_prefixes(model, rows)
    assert sorted(decode(model, rows, max_new_tokens=20, stop_ids={1}, prefixes=prefixes)) == separate


def test_a_shared_prefix_is_computed_once_over_all_batches(tiny_model_dir, monkeypatch):
    engine = load_engine(tiny_model_dir, device="cpu")
    system = "You are a gardener. Answer in short words. " * 4
    prompts = [
        Prompt(
            id=str(i),
            request_id=str(i),
            request=text,
            attack="direct",
            messages=(Message(role="system", content=system), Message(role="user", content=text)),
        )
        for i, text in enumerate(("Tea?", "How do I bake bread?", "Paint a fence.", "A boat?"))
    ]
    read = []
    hook = engine.model.register_forward_pre_hook(
        lambda _module, _args, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    one_row_batches = HfEngine(engine.model, engine.chat, max_batch_tokens=1)
    assert len(list(one_row_batches.generate(prompts, max_new_tokens=1))) == len(prompts)
    hook.remove()
    whole = len(engine.chat.tokenizer(system).input_ids)
    assert read[0] > 0.9 * whole
    assert sum(read) < 2 * whole
    likelihoods = one_row_batches.log_likelihood(prompts, ["Boil the water"] * 4)
    monkeypatch.setattr("derta.engines.hf_engine.find_prefixes", lambda _model, rows: [None] * len(rows))
    for shared, separate in zip(likelihoods, engine.log_likelihood(prompts, ["Boil the water"] * 4), strict=True):
        assert shared == pytest.approx(separate, abs=logit_tolerance(torch.tensor(separate)))


def test_a_model_with_other_states_shares_no_prefix_and_is_prefilled_in_one_batch(rows):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Lfm2Config(vocab_size=VOCAB, **shape, num_key_value_heads=1, layer_types=["conv", "full_attention"])
    model = Lfm2ForCausalLM(config).eval()
    assert not supports_prefix_cache(model)
    assert find_prefixes(model, rows) == [None] * len(rows)
    with torch.inference_mode():
        torch.testing.assert_close(prefill(model, rows).logits, plain(model, rows)[0].logits[:, -1])


def test_a_model_with_dynamic_rope_shares_no_prefix(rows):
    angles = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    lengths = {"max_position_embeddings": 256, "original_max_position_embeddings": 32}
    config = Phi3Config(vocab_size=VOCAB, **shape, **lengths, pad_token_id=0, rope_parameters=angles)
    model = Phi3ForCausalLM(config).eval()
    assert not supports_prefix_cache(model)
    with torch.inference_mode():
        torch.testing.assert_close(prefill(model, rows).logits, plain(model, rows)[0].logits[:, -1])


def test_a_model_with_an_adapter_shares_the_same_prefixes(make_model, rows):
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(make_model("llama", vocab_size=VOCAB), adapter).eval()
    with torch.inference_mode():
        results, expected = prefill(model, rows, find_prefixes(model, rows)).logits, plain(model, rows)[0].logits[:, -1]
        torch.testing.assert_close(results, expected, atol=logit_tolerance(expected), rtol=0)


# which prefixes are shared

TEXT = list(range(200))


def saved(groups):
    return sum((len(group.rows) - 1) * group.length - PASS_TOKENS for group in groups)


@given(rows=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12).map(lambda row: row * 20), max_size=12))
def test_rows_of_a_group_share_their_prefix_and_continue_and_no_row_is_in_two_groups(rows):
    groups = shared_prefixes(rows)
    members = [row for group in groups for row in group.rows]
    assert len(members) == len(set(members))
    for group in groups:
        assert len({tuple(rows[row][: group.length]) for row in group.rows}) == 1
        assert all(len(rows[row]) > group.length for row in group.rows)
        assert (len(group.rows) - 1) * group.length > PASS_TOKENS


def test_the_deeper_groups_are_chosen_if_they_save_more():
    first, second = TEXT[:20] + TEXT[100:], TEXT[:120]
    rows = [[*first, 1], [*second, 1], [*first, 2], [*second, 2], [*second, 3]]
    assert sorted(shared_prefixes(rows)) == [((0, 2), 120), ((1, 3, 4), 120)]


def test_the_shallow_group_is_chosen_if_it_saves_more():
    rows = [[*TEXT[:150], *tail] for tail in ([1, 1, 1], [1, 1, 2], [2, 1], [2, 2], [3, 9])]
    [group] = shared_prefixes(rows)
    assert (sorted(group.rows), group.length) == ([0, 1, 2, 3, 4], 150)


def test_nested_prefixes_share_the_one_that_saves_most():
    rows = [TEXT[:n] for n in (50, 100, 150, 200)]
    # 50: 3 * 49, 100: 2 * 99, 150: 149 and nothing of the first two
    assert shared_prefixes(rows) == [((1, 2, 3), 99)]


def test_equal_prompts_share_all_but_their_last_token():
    assert shared_prefixes([TEXT, TEXT, TEXT]) == [((0, 1, 2), 199)]


def test_a_prefix_that_saves_less_than_a_pass_is_not_shared():
    assert shared_prefixes([[*TEXT[:64], 1], [*TEXT[:64], 2]]) == []
    assert shared_prefixes([]) == shared_prefixes([TEXT]) == []
    assert saved(shared_prefixes([[*TEXT[:65], 1], [*TEXT[:65], 2]])) == 1
