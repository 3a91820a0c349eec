"""Refusal probability before each token of some replies, and of held-out harmful answers, for the report's heat map.

Position t has the probability that the model's next token, after the prompt as it was sent (with its prefill) and the
reply's tokens before t, is one that starts a refusal word. It is the model's own: a ban or a threshold of decoding
changes nothing. The results are kept in the model's folder and are made again if the reply or the model changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.chat import ChatFormat, Turn, encode_prompt
from derta.config import Recipe
from derta.engines.token_io import encode_turns
from derta.files import Appender, read_records, write_records
from derta.locks import lock
from derta.pipeline.evaluate import token_limits
from derta.pipeline.likelihoods import DECODING_KEYS, ScoredData, harmful_texts
from derta.pipeline.models import LazyEngine, shared_format
from derta.pipeline.resuming import Expected, read_keyed, read_results, supersede
from derta.protocols import Display
from derta.provenance import Producer, flat, hash_value, prompt_hash
from derta.records import Prompt, Reply, ReplyKey
from derta.results import Place, place_of
from derta.token_refusals import TokenRefusal

REPLIES, ANSWERS = "token_refusal.jsonl", "token_refusal.answers.jsonl"
BATCH = 32
"""Number of texts that are scored before they are written."""
DECIMALS = 6
_DEFINITION = "first tokens of refusal words"
"""What the probabilities measure: part of their producer, so that those of an earlier definition are made again."""


class Text(NamedTuple):
    """A text whose tokens are scored: a model's reply, or a held-out harmful answer to the prompt."""

    prompt: Prompt
    reply: Reply | None = None
    answer: str = ""

    @property
    def input_hash(self) -> str:
        """Hash of all that its probabilities depend on, besides the model."""
        tokens = self.answer if self.reply is None else self.reply.token_ids
        return hash_value([prompt_hash(self.prompt), tokens])

    def turn(self, chat: ChatFormat) -> Turn:
        """Return its token ids: those that the model generated, or those of the answer."""
        if self.reply is None:
            return encode_turns(chat, [self.prompt], [self.answer])[0]
        return Turn(encode_prompt(chat, self.prompt), [*(self.reply.token_ids or ())], [])

    def record(self, turn: Turn, probabilities: Sequence[float]) -> TokenRefusal:
        """Return its record: the probabilities before its tokens, without the one after the last."""
        values = tuple(round(min(1.0, one), DECIMALS) for one in probabilities[: len(turn.response_ids)])
        if self.reply is not None:
            return TokenRefusal(prompt_id=self.prompt.id, sample=self.reply.sample, probabilities=values)
        return TokenRefusal(
            prompt_id=self.prompt.id,
            probabilities=values,
            request=self.prompt.request,
            text=self.answer,
            token_starts=(0, *turn.response_ends[:-1])[: len(values)],
        )


class TokenScoring(NamedTuple):
    """The texts of one model whose tokens are scored, by the file of the results, and the producer of the scores."""

    files: Mapping[Path, Mapping[ReplyKey, Text]]
    producer: Producer

    @classmethod
    def of(
        cls, recipe: Recipe, data: ScoredData, prompts: Sequence[Prompt], *, producer: Producer, home: Path
    ) -> TokenScoring:
        """Return the scoring of a model whose replies in `home` are complete; of nothing without `profile_replies`."""
        if not measures_tokens(recipe):
            return cls({}, producer)
        replies = read_keyed(home / "replies.jsonl", Reply, prompts=prompts)
        chosen = [Text(one, replies[one.id, 0]) for one in first_prompts(prompts, recipe.profile_replies)]
        answers = [Text(prompt, answer=text) for prompt, text in harmful_texts(data.harmful[: recipe.profile_replies])]
        measured = {key: value for key, value in producer.items() if key not in DECODING_KEYS}
        return cls(
            {
                home / REPLIES: {(one.prompt.id, 0): one for one in chosen if one.reply and one.reply.token_ids},
                home / ANSWERS: {(one.prompt.id, 0): one for one in answers},
            },
            measured | flat({"refusal_words": recipe.model.refusal_words, "probability": _DEFINITION}),
        )

    def is_complete(self) -> bool:
        """Return whether all scores exist and are those that the model would give today."""
        for path, texts in self.files.items():
            expected = self._expected(texts)
            if expected.keys() - {one.key for one in _read(path) if _is_current(one, expected)}:
                return False
        return True

    def score(self, engine: LazyEngine, *, description: str, display: Display = Display()) -> None:
        """Score the texts without a score of today, a few at a time; others move to `*.superseded.jsonl`."""
        for path, texts in self.files.items():
            expected = self._expected(texts)
            supersede(path, TokenRefusal, expected)
            if texts or path.exists():
                _score_missing(engine, texts, path=path, expected=expected, description=description, display=display)

    def _expected(self, texts: Mapping[ReplyKey, Text]) -> dict[ReplyKey, Expected]:
        return {key: Expected(one.input_hash, self.producer) for key, one in texts.items()}


def _is_current(record: TokenRefusal, expected: Mapping[ReplyKey, Expected]) -> bool:
    return record.key in expected and expected[record.key].fault(record) is None


def _score_missing(
    engine: LazyEngine,
    texts: Mapping[ReplyKey, Text],
    *,
    path: Path,
    expected: Mapping[ReplyKey, Expected],
    description: str,
    display: Display,
) -> None:
    with lock(path):
        done = read_results(path, TokenRefusal, expected)
        missing = [text for key, text in texts.items() if key not in done]
        if not missing:
            return
        with Appender(path) as file, display.progress.task(description, total=len(texts)) as task:
            for some in (missing[start : start + BATCH] for start in range(0, len(missing), BATCH)):
                task.update(len(done))
                turns = [text.turn(engine.chat) for text in some]
                scores = engine.next_refusals([text.prompt for text in some], turns)
                for text, turn, row in zip(some, turns, scores, strict=True):
                    record = text.record(turn, row)
                    done[record.key] = expected[record.key].stamp(record)
                    file.add(done[record.key])
            task.update(len(done))
        write_records(path, [done[key] for key in texts])


def measures_tokens(recipe: Recipe) -> bool:
    """Return whether a recipe's tokens are scored: other engines than hf return no whole distributions."""
    return recipe.generate.engine == "hf" and recipe.profile_replies > 0


def first_prompts(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    """Return the first `count` prompts of each attack and data set."""
    seen: Counter[Place] = Counter()
    chosen: list[Prompt] = []
    for prompt in prompts:
        place = place_of(prompt)
        seen[place] += 1
        if seen[place] <= count:
            chosen.append(prompt)
    return chosen


def read_token_refusals(
    home: Path, prompts: Sequence[Prompt], replies: Sequence[Reply]
) -> list[tuple[float, ...] | None]:
    """Return the refusal probabilities of each reply of a model; None for a reply whose tokens have none."""
    stored = {one.key: one for one in _read(home / REPLIES)}
    found: list[tuple[float, ...] | None] = []
    for prompt, reply in zip(prompts, replies, strict=True):
        record = stored.get(reply.key)
        is_of_reply = record is not None and record.input_hash == Text(prompt, reply).input_hash
        found.append(record.probabilities if record is not None and is_of_reply else None)
    return found


def read_answer_refusals(home: Path) -> list[TokenRefusal]:
    """Return the refusal probabilities of a model on held-out harmful answers."""
    return list(_read(home / ANSWERS))


def _read(path: Path) -> Iterator[TokenRefusal]:
    return read_records(path, TokenRefusal, complete_lines=True) if path.exists() else iter(())


def token_notes(recipe: Recipe) -> list[str]:
    """Return a note for the report if the recipe wants refusal probabilities by token that its engine cannot give."""
    if recipe.profile_replies == 0 or measures_tokens(recipe):
        return []
    return [
        f"Refusal probabilities by token are not measured: the engine {recipe.generate.engine} returns no whole "
        "distribution of the next token; `generate.engine: hf` does."
    ]


def cost_note(
    recipe: Recipe, prompts: Sequence[Prompt], data: ScoredData, *, seconds_per_token: float | None
) -> str | None:
    """Format the cost of a model's refusal probabilities by token; None if there are none.

    Args:
        recipe: The recipe.
        prompts: The prompts of its evaluations.
        data: The held-out data, with the harmful answers.
        seconds_per_token: Seconds of one forward pass for each token; None if they are unknown.
    """
    chosen = first_prompts(prompts, recipe.profile_replies) if measures_tokens(recipe) else []
    answers = harmful_texts(data.harmful[: recipe.profile_replies]) if measures_tokens(recipe) else []
    if not chosen and not answers:
        return None
    chat, _ = shared_format(recipe)
    limits = token_limits(recipe, chosen)
    tokens = sum(len(encode_prompt(chat, one)) + limits[one.id] for one in chosen)
    turns = [Text(prompt, answer=text).turn(chat) for prompt, text in answers]
    tokens += sum(len(turn.prompt_ids) + len(turn.response_ids) for turn in turns)
    time = "" if seconds_per_token is None else f", about {max(1, round(tokens * seconds_per_token))} s"
    return (
        f"Refusal probabilities by token: {len(chosen)} replies and {len(answers)} harmful answers are read once more "
        f"by each model, at most {tokens:,} tokens{time} (profile_replies: {recipe.profile_replies})."
    )
