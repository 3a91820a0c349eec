"""Generation on each device: greedy decoding, banned tokens and likelihoods against Transformers' `generate`."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, NoBadWordsLogitsProcessor

from cuda_device import CUDA
from derta.chat import Turn
from derta.engines import load_engine
from derta.engines.decoding import BannedTokens, decode
from derta.engines.scoring import score
from derta.records import Message, Prompt
from tolerances import logit_tolerance

pytestmark = pytest.mark.equality

FAMILIES = ("llama", "gemma3", "qwen3", "mistral", "gpt2")
LENGTHS = (1, 3, 9, 20, 33, 5, 40, 2)  # beyond and within the sliding window of 16
STOP_IDS = frozenset(range(20))
REFUSALS = (7, 301)


@pytest.fixture(scope="module")
def prompts():
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 440, (length,), generator=rng).tolist() for length in LENGTHS]


def written_by(model, prompts, **settings):
    """Return the tokens of each prompt's reply, by our decoding of one ragged batch."""
    replies = decode(model, prompts, max_new_tokens=24, stop_ids=STOP_IDS, **settings)
    return [one.token_ids for one in sorted(replies)]


def generated(model, prompt, *processors):
    """Return the tokens of a prompt's reply by the stock `generate`, without the stop token."""
    input_ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=24, do_sample=False,
        eos_token_id=list(STOP_IDS), pad_token_id=0, logits_processor=LogitsProcessorList(processors),
    )  # fmt: skip
    tokens = output[0, len(prompt) :].tolist()
    return tokens[:-1] if tokens[-1] in STOP_IDS else tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ragged_batch_gets_the_tokens_of_generate(make_model, prompts, device, family):
    model = make_model(family, vocab_size=460).to(device)
    assert written_by(model, prompts) == [generated(model, prompt) for prompt in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_banned_tokens_are_those_of_transformers_bad_words(make_model, prompts, device, family):
    model = make_model(family, vocab_size=460).to(device)
    free = written_by(model, prompts)
    sequences = sorted(
        {tuple(reply[:1]) for reply in free if reply} | {tuple(reply[3:5]) for reply in free if reply[4:]}
    )
    found = written_by(model, prompts, banned=[BannedTokens(tuple(sequences))] * len(prompts))
    bans = NoBadWordsLogitsProcessor([list(one) for one in sequences])
    assert found == [generated(model, prompt, bans) for prompt in prompts]
    assert all(ours != reply for ours, reply in zip(found, free, strict=True) if reply)


class BestOfTopK(LogitsProcessor):
    """Keep the likeliest token that is not banned among the k likeliest; where all are banned, keep the likeliest."""

    def __init__(self, banned, k):
        self.banned, self.k = banned, k

    def __call__(self, input_ids, scores):
        ranked = scores[0].sort(descending=True).indices[: self.k].tolist()
        chosen = next((token for token in ranked if token not in self.banned), ranked[0])
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([chosen], device=scores.device), 0.0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_banned_tokens_give_way_to_the_next_rank_within_the_top_k(make_model, prompts, device, k):
    model = make_model("llama", vocab_size=460).to(device)
    free = written_by(model, prompts)
    banned = sorted({token for reply in free for token in reply} | set(range(0, 460, 2)))
    found = written_by(model, prompts, banned=[BannedTokens(tuple((one,) for one in banned), top_k=k)] * len(prompts))
    assert found == [generated(model, prompt, BestOfTopK(set(banned), k)) for prompt in prompts]
    assert (found == free) == (k == 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_and_refusal_probabilities_are_those_of_a_plain_pass(make_model, prompts, device, family):
    model = make_model(family, vocab_size=460).to(device)
    turns = [Turn(first, second, []) for first, second in zip(prompts, prompts[::-1], strict=True)]
    found = {scored.row: scored for scored in score(model, turns, refusal_ids=REFUSALS)}
    for row, turn in enumerate(turns):
        first = len(turn.prompt_ids) - 1
        with torch.no_grad():
            ids = torch.tensor([turn.prompt_ids + turn.response_ids], device=device)
            log_probs = model(ids, use_cache=False).logits[0].log_softmax(dim=-1)[first:]
        bound = logit_tolerance(log_probs) if device == "cpu" else 1e-3 * float(log_probs.abs().max())
        expected = [log_probs[i, token].item() for i, token in enumerate(turn.response_ids)]
        assert found[row].log_probs == pytest.approx(expected, abs=bound)
        refusing = log_probs[:, list(REFUSALS)].exp().sum(dim=-1).tolist()
        assert found[row].refusal_probs == pytest.approx(refusing, rel=bound)


@pytest.mark.parametrize("device", [CUDA])
def test_the_engine_replies_on_a_gpu_as_it_does_on_the_cpu(make_model_dir, device):
    path = make_model_dir()
    texts = ("How do I paint a fence?", "Tell me a story about a kite and a river.", "Tea")
    prompts = [
        Prompt(
            id=text, request_id=text, request=text, attack="direct", mode="chat", prefill=prefill,
            messages=(Message(role="user", content=text),),
        )
        for text, prefill in zip(texts, (None, "Sure, here", "Step 1:"), strict=True)
    ]  # fmt: skip
    cpu, gpu = (
        {reply.prompt_id: reply for reply in engine.generate(prompts, max_new_tokens=24)}
        for engine in (load_engine(path, dtype="float32", device=place) for place in ("cpu", device))
    )
    assert len(cpu) == len(prompts)
    assert gpu == cpu
