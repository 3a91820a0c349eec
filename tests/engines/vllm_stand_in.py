"""A module `vllm` that takes what vLLM documents and nothing else, and answers from a Hugging Face engine's model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The settings that we may use, of vLLM's."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True


class LoRARequest(NamedTuple):
    """As vLLM's, by place."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class Logprob(NamedTuple):
    """As vLLM's."""

    logprob: float


class LLM:
    """As `vllm.LLM`: replies and prompt log-probabilities from token ids."""

    created: list[dict[str, Any]] = []  # noqa: RUF012 - what each one was created with
    engine: Any = None
    limit = 256

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        trust_remote_code: bool = False,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        quantization: str | None = None,
    ) -> None:
        LLM.created.append({name: value for name, value in locals().items() if name != "self"})
        if quantization == "impossible":
            raise ValueError("no such quantization\nand more")
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len or LLM.limit))
        self.calls: list[tuple[int, Any, Any]] = []

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: SamplingParams | list[SamplingParams],
        *,
        use_tqdm: bool,
        lora_request: Any,
    ) -> list[Any]:
        """All answers at once, in the order of the prompts."""
        assert not use_tqdm
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        assert all(set(prompt) == {"prompt_token_ids"} for prompt in prompts)
        self.calls.append((len(prompts), sampling_params, lora_request))
        return [self._answer(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, each, strict=True)]

    def _answer(self, token_ids: list[int], params: SamplingParams) -> Any:
        from derta.engines.decoding import decode
        from derta.engines.sampling import Draws

        own_eos = 1
        stop_ids = {own_eos, *(params.stop_token_ids or [])}
        draws = Draws(params.temperature, params.top_p, (params.seed or 0,)) if params.temperature else None
        limit = params.max_tokens
        [written] = decode(LLM.engine.model, [token_ids], max_new_tokens=limit, stop_ids=stop_ids, draws=draws)
        stopped = written.stop_reason == "eos"
        output = SimpleNamespace(
            token_ids=(*written.token_ids, *([min(params.stop_token_ids or [own_eos])] if stopped else [])),
            finish_reason="stop" if stopped else "length",
            stop_reason=None,
        )
        return SimpleNamespace(outputs=[output], prompt_logprobs=self._log_probs(token_ids, params))

    def _log_probs(self, token_ids: list[int], params: SamplingParams) -> Any:
        import torch

        if params.prompt_logprobs is None:
            return None
        with torch.no_grad():
            table = LLM.engine.model(torch.tensor([token_ids])).logits[0].log_softmax(dim=-1)
        rows: list[Any] = [None]
        for place, token in enumerate(token_ids[1:]):
            best = table[place].topk(params.prompt_logprobs)
            row = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)) | {
                token: table[place, token].item()
            }
            rows.append({key: Logprob(value) for key, value in row.items()})
        return rows


@contextmanager
def installed(engine: Any, set_module: Callable[[Any, str, Any], None]) -> Generator[type[LLM]]:
    """Have `import vllm` find the stand-in; `set_module` is `monkeypatch.setitem`."""
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    for module in (vllm, lora, request):
        module.__spec__ = ModuleSpec(module.__name__, None)
        set_module(sys.modules, module.__name__, module)
    vllm.LLM, vllm.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest  # type: ignore[attr-defined]
    LLM.engine, LLM.created = engine, []
    yield LLM
