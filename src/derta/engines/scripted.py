"""Engine with scripted replies, for tests and for searches with a known optimum."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from derta.errors import ModelError
from derta.records import Prompt, Reply
from derta.sampling import GREEDY, Sampling

_WORD = re.compile(r"\s*\S+")
LogProb = Callable[[Prompt, str, str], float]
Script = str | Sequence[str]
"""A reply, or one for each sample."""
RefusalProb = Callable[[Prompt, str], float]


def _even(_prompt: Prompt, _before: str, _word: str) -> float:
    return -1.0


def _never(_prompt: Prompt, _before: str) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class ScriptedModel:
    """Engine that returns scripted replies without a model; its tokens are words with the white space before them.

    >>> model = ScriptedModel({"p1": "Sorry, I cannot."})
    >>> prompt = Prompt(id="p1", request_id="r1", request="?", attack="direct", mode="raw", text="?")
    >>> [reply] = model.generate([prompt], max_new_tokens=2)
    >>> reply.text, reply.token_starts, reply.stop_reason
    ('Sorry, I', (0, 6), 'length')

    Args:
        replies: Reply by prompt id, or a function of the prompt. A list of replies has one for each sample, in turn.
        log_prob: Function that returns a word's log-probability from the prompt, the continuation before the word, and
            the word; by default always -1.
        refusal_prob: Function that returns the refusal probability from the prompt and the continuation so far; by
            default always 0.
    """

    replies: Mapping[str, Script] | Callable[[Prompt], Script]
    log_prob: LogProb = _even
    refusal_prob: RefusalProb = _never

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield the scripted replies, truncated to `max_new_tokens` words.

        Raises:
            ModelError: The script has no reply to a prompt.
        """
        for prompt, sample in ((prompt, sample) for prompt in prompts for sample in sampling.numbers):
            words = _WORD.findall(self._reply(prompt, sample))
            tokens = words[:max_new_tokens]
            yield Reply(
                prompt_id=prompt.id,
                sample=sample,
                seed=sampling.seed_of(prompt.id, sample),
                text="".join(tokens),
                stop_reason="length" if len(words) >= max_new_tokens else "eos",
                token_ids=tuple(crc32(word.encode()) for word in tokens),
                token_starts=tuple(len("".join(tokens[:i])) for i in range(len(tokens))),
            )

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the value of `log_prob` for each word of each continuation."""
        return [
            [self.log_prob(prompt, text[: word.start()], word.group()) for word in _WORD.finditer(text)]
            for prompt, text in zip(prompts, continuations, strict=True)
        ]

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the value of `refusal_prob` before each word of each continuation, and after the last."""
        return [
            [self.refusal_prob(prompt, text[:end]) for end in (0, *(word.end() for word in _WORD.finditer(text)))]
            for prompt, text in zip(prompts, continuations, strict=True)
        ]

    def _reply(self, prompt: Prompt, sample: int) -> str:
        if isinstance(self.replies, Mapping):
            if prompt.id not in self.replies:
                raise ModelError(f"expected a scripted reply to prompt {prompt.id!r}, got none; add one to the script")
            found = self.replies[prompt.id]
        else:
            found = self.replies(prompt)
        return found if isinstance(found, str) else found[sample % len(found)]
