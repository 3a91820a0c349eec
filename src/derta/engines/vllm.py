"""Engine for vLLM in this process, on accelerators: derta renders and detokenizes, vLLM generates and scores.

Source: docs.vllm.ai, `vllm.LLM`, `SamplingParams`, `LoRARequest`; the tests check this interface with a strict fake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from derta.chat import ChatFormat, chat_format, encode_prompt, refusal_tokens
from derta.config import RowConfig
from derta.engines.token_io import (
    Row,
    check_prompts,
    check_scores,
    encode_turns,
    likelihood_row,
    refusal_probabilities,
    refusal_rows,
    reply_from_tokens,
)
from derta.errors import EngineError, ModelError, install_advice
from derta.loading import DTYPES, check_model_path, hub_source, load_tokenizer
from derta.records import REFUSAL_WORDS, Prompt, Reply
from derta.sampling import GREEDY, Sampling

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Valid values of vLLM's `max_lora_rank`."""
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """Wrapper of a `vllm.LLM` that receives token ids only; `lora` is the LoRA request of its adapter.

    vLLM returns when all prompts of a call are done, so each call has at most `chunk` prompts.
    """

    llm: Any
    chat: ChatFormat
    refusal_words: tuple[str, ...] = REFUSAL_WORDS
    lora: Any = None
    chunk: int = CHUNK

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield replies, a chunk at a time, up to a stop token of the model or of the template.

        Each sample is a request with its own seed. vLLM raises temperatures below 0.01 to it.

        Raises:
            ModelError: Before any reply, if a prompt is empty or leaves no room for `max_new_tokens`.
        """
        check_prompts(prompts, max_new_tokens=max_new_tokens)
        encoded = [encode_prompt(self.chat, prompt) for prompt in prompts]
        for prompt, token_ids in zip(prompts, encoded, strict=True):
            self._check_length(f"prompt {prompt.id!r}", token_ids, more=max_new_tokens)
        settings: dict[str, Any] = {
            "max_tokens": max_new_tokens,
            "stop_token_ids": sorted(self.chat.stop_ids),
            "detokenize": False,
        }
        rows = [(*each, sample) for each in zip(prompts, encoded, strict=True) for sample in sampling.numbers]
        return self._replies(rows, settings, sampling)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the log-probability (nats) of each token of each continuation, tokenized jointly with its prompt.

        Raises:
            EngineError: vLLM returns NaN.
        """
        return self._scores([likelihood_row(turn) for turn in encode_turns(self.chat, prompts, continuations)])

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the probability of a refusal word at each token of each continuation, and after the last.

        Each position and form of a word needs a separate row, as for a served model.

        Raises:
            ModelError: The tokenizer cannot encode a refusal word.
        """
        forms = refusal_tokens(self.chat, self.refusal_words).forms
        groups = [refusal_rows(turn, forms) for turn in encode_turns(self.chat, prompts, continuations)]
        scores = iter(self._scores([row for group in groups for row in group]))
        return [refusal_probabilities([next(scores) for _ in group], len(forms)) for group in groups]

    def _replies(
        self, rows: Sequence[tuple[Prompt, list[int], int]], settings: dict[str, Any], sampling: Sampling
    ) -> Iterator[Reply]:
        params_of = import_module("vllm").SamplingParams
        if sampling.is_greedy:
            params = params_of(temperature=0.0, **settings)
        else:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            params = [params_of(seed=sampling.reply_seed(prompt.id, number), **settings) for prompt, _, number in rows]
        outputs = self._outputs([token_ids for _, token_ids, _ in rows], params)
        for (prompt, token_ids, sample), output in zip(rows, outputs, strict=True):
            [generated] = output.outputs
            reply = reply_from_tokens(
                self.chat,
                prompt,
                generated.token_ids,
                finish_reason=generated.finish_reason,
                stop_reason=generated.stop_reason,
                prompt_tokens=len(token_ids),
            )
            yield reply.model_copy(update={"sample": sample, "seed": sampling.seed_of(prompt.id, sample)})

    def _scores(self, rows: Sequence[Row]) -> list[list[float]]:
        for number, row in enumerate(rows):
            self._check_length(f"row {number}", row.token_ids, more=1)
        params = import_module("vllm").SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False
        )
        outputs = self._outputs([row.token_ids for row in rows], params)
        return [
            check_scores(
                [output.prompt_logprobs[i][row.token_ids[i]].logprob for i in range(row.start, len(row.token_ids))],
                source="vLLM",
            )
            for row, output in zip(rows, outputs, strict=True)
        ]

    def _outputs(self, encoded: Sequence[list[int]], params: Any) -> Iterator[Any]:
        """Yield vLLM's outputs; `params` are those of all prompts, or a list with those of each."""
        for start in range(0, len(encoded), self.chunk):
            place = slice(start, start + self.chunk)
            batch = [{"prompt_token_ids": token_ids} for token_ids in encoded[place]]
            chosen = params[place] if isinstance(params, list) else params
            yield from self.llm.generate(batch, chosen, use_tqdm=False, lora_request=self.lora)

    def _check_length(self, name: str, token_ids: Sequence[int], *, more: int) -> None:
        limit = self.llm.llm_engine.model_config.max_model_len
        if not token_ids:
            raise ModelError(f"{name} has no token that this tokenizer knows; remove it")
        if len(token_ids) + more > limit:
            raise ModelError(
                f"{name}: {len(token_ids)} tokens and {more} after them are more than vLLM's limit of {limit}; shorten "
                "it, lower max_new_tokens, or set max_model_len"
            )


def load(
    model: str | Path,
    *,
    adapter: str | None = None,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    template_date: str = RowConfig.template_date,
    thinking: bool = True,
    dtype: str = "auto",
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    max_model_len: int | None = None,
    trust_remote_code: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> VllmEngine:
    """Load a model into vLLM.

    Args:
        model: Folder or hub id.
        adapter: Folder of a LoRA adapter; vLLM applies it unmerged.
        template: `auto`, `paper`, `paper_eval` or a Jinja file, as for `chat_format`.
        template_kwargs: Additional variables of the template.
        template_date: The date of a template that writes today's, as YYYY-MM-DD.
        thinking: Whether replies of a model that thinks begin with its thought, or after an empty one.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        refusal_words: Words that `refusal_probability` counts as the start of a refusal.
        tensor_parallel_size: Number of accelerators that share the model.
        gpu_memory_utilization: Fraction of each accelerator's memory that vLLM uses.
        max_model_len: Maximum tokens of prompt and reply; None is the model's limit.
        trust_remote_code: Run code that the model contains.
        settings: Other arguments of `vllm.LLM`, such as `quantization`.

    Raises:
        EngineError: vLLM is not installed.
        ModelError: The model or the adapter does not exist, the chat template is not usable, or vLLM cannot load it.
    """
    if find_spec("vllm") is None:
        raise EngineError(f"engine vllm: expected the package vllm, which is not installed; {install_advice('vllm')}")
    if dtype not in DTYPES:
        raise ModelError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    tokenizer = load_tokenizer(str(model), adapter=adapter, trust_remote_code=trust_remote_code)
    chat = chat_format(
        tokenizer, template=template, template_kwargs=template_kwargs, date=template_date, thinking=thinking
    )
    name, pinned = hub_source(str(model))
    chosen: dict[str, Any] = {
        "model": name,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_model_len": max_model_len,
        "trust_remote_code": trust_remote_code,
        **(settings or {}),
    }
    if revision := pinned.get("revision"):
        chosen |= {"revision": revision, "tokenizer_revision": revision}
    lora = None
    if adapter is not None:
        chosen |= {"enable_lora": True, "max_lora_rank": lora_rank(adapter)}
        lora = import_module("vllm.lora.request").LoRARequest("adapter", 1, adapter)
    return VllmEngine(_load(chosen), chat, refusal_words=tuple(refusal_words), lora=lora)


def _load(chosen: Mapping[str, Any]) -> Any:
    try:
        return import_module("vllm").LLM(**chosen)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{chosen['model']}: vLLM cannot load it ({first.strip()}); check the settings") from error


def lora_rank(adapter: str) -> int:
    """Return the smallest `max_lora_rank` of vLLM that fits the adapter.

    Raises:
        ModelError: The adapter does not exist, or its rank is too large.
    """
    check_model_path(adapter, needs="adapter_config.json")
    check_model_path(adapter, needs="adapter_model.safetensors")
    rank = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    fitting = [valid_rank for valid_rank in LORA_RANKS if valid_rank >= rank]
    if not fitting:
        raise ModelError(f"{adapter}: expected a LoRA rank of {LORA_RANKS[-1]} at most, got {rank}; merge it instead")
    return fitting[0]
