"""vLLM needs an accelerator and is not run here: stand-ins have the documented interfaces of its logits processors."""

import pytest
import torch
from vllm_processors import config, install, run_first, run_second, states

from derta.engines import load_engine, vllm_threshold
from derta.engines.decoding import decode
from derta.engines.threshold import RefusalForcing
from derta.errors import EngineError, ModelError
from derta.provenance import model_hash
from derta.thresholds import RefusalThreshold

PROMPTS = [[5, 6, 7], [9, 30, 31, 32], [40, 41], [3]]
ENDS = set(range(12))
LIMIT = 45


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load_engine(tiny_model_dir, device="cpu", dtype="float32").model


@pytest.fixture(params=[(), ((2, 0.5), (20, 0.01))])
def threshold(request, model, tiny_model_dir, tmp_path, monkeypatch):
    """A threshold that many positions reach, of three tokens that the random model likes."""
    install(monkeypatch.setitem)
    vllm_threshold._processor.cache_clear()
    plain = sorted(decode(model, PROMPTS, max_new_tokens=LIMIT, stop_ids=ENDS))
    token_ids = tuple({row.token_ids[3] for row in plain if len(row.token_ids) > 3})
    made = RefusalThreshold(
        threshold=0.02, later=request.param, token_ids=token_ids, model={"model": model_hash(tiny_model_dir)},
        false_alarm=0.1, alarms=0, cases=9, replies=9, low=0, high=0.3, logit_bias=0, bias_alarms=0,
    )  # fmt: skip
    made.write(tmp_path / "threshold.json")
    monkeypatch.setenv("DERTA_REFUSAL_THRESHOLD", str(tmp_path / "threshold.json"))
    yield made
    vllm_threshold._processor.cache_clear()


@pytest.fixture
def expected(model, threshold):
    forcing = RefusalForcing(threshold.token_ids, threshold.threshold, threshold.later)
    forced, plain = (
        {row.row: row.token_ids for row in decode(model, PROMPTS, max_new_tokens=LIMIT, stop_ids=ENDS, forcing=one)}
        for one in (forcing, None)
    )
    assert sum(forced[row] != plain[row] for row in forced) >= 2
    return [forced[row] for row in range(len(PROMPTS))]


@pytest.fixture
def step(model):
    def logits(texts):
        with torch.no_grad():
            return torch.stack([model(torch.tensor([text])).logits[0, -1] for text in texts])

    return logits


def without_end(outputs):
    return [row[:-1] if row[-1] in ENDS else row for row in outputs]


def test_the_first_interface_gives_the_tokens_of_our_engine(tiny_model_dir, step, expected):
    kind = vllm_threshold.RefusalThresholdV1
    processor = kind(config(tiny_model_dir), torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    assert without_end(run_first(processor, step, PROMPTS, limit=LIMIT, ends=ENDS)) == expected


def test_the_second_interface_gives_the_tokens_of_our_engine(tiny_model_dir, step, expected):
    buffers = states(len(PROMPTS), 64)
    processor = vllm_threshold.RefusalThresholdV2(config(tiny_model_dir), buffers)
    outputs = run_second(processor, step, PROMPTS, buffers=buffers, limit=LIMIT, ends=ENDS)
    assert without_end(outputs) == expected


def test_the_classes_are_subclasses_that_vllm_finds_by_name(threshold):
    from vllm_processors import FirstInterface, SecondInterface

    assert issubclass(vllm_threshold.RefusalThresholdV1, FirstInterface)
    assert issubclass(vllm_threshold.RefusalThresholdV2, SecondInterface)
    assert vllm_threshold.RefusalThresholdV1 is vllm_threshold.RefusalThresholdV1
    with pytest.raises(AttributeError, match="RefusalThresholdV3"):
        _ = vllm_threshold.RefusalThresholdV3


def test_a_server_without_a_threshold_or_of_another_model_does_not_start(
    tiny_model_dir, make_model_dir, threshold, monkeypatch
):
    kind = vllm_threshold.RefusalThresholdV2
    with pytest.raises(ModelError, match="got that of another model"):
        kind(config(make_model_dir(seed=7)), None)
    speculative = config(tiny_model_dir)
    speculative.speculative_config = object()
    with pytest.raises(EngineError, match="without speculative decoding"):
        kind(speculative, None)
    monkeypatch.delenv("DERTA_REFUSAL_THRESHOLD")
    with pytest.raises(EngineError, match="DERTA_REFUSAL_THRESHOLD: expected the path"):
        kind(config(tiny_model_dir), None)
