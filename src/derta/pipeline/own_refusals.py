"""Preference stage on the model's own refusals: its pairs are generated, then trained on.

The initial model answers the requests of counter examples, alone and after the first tokens of the helpful answer. Each
reply that refuses, wholly or in part, or is malformed is the rejected side of a pair with the helpful answer.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.chat import ChatFormat
from derta.config import Recipe
from derta.data.mixture import TrainingSet
from derta.data.preferences import Preference
from derta.data.preparation import PreparedData, format_counts
from derta.errors import DataError, RecipeError
from derta.files import read_records, write_records
from derta.messages import in_context
from derta.methods import Method
from derta.pipeline.asking import answer_of, ask, outcomes
from derta.pipeline.models import check_init_from, load_format, recipe_config, train_method
from derta.protocols import Display
from derta.records import Example, Prompt, Reply
from derta.run_folder import finish_folder

REJECTED = ("refused", "malformed")
"""Outcomes of replies that are the rejected side of a pair."""


class Context(NamedTuple):
    """A prompt of a counter example, and the rest of the helpful answer after its prefill."""

    prompt: Prompt
    answer: str
    example: Example


def train_on_own_refusals(
    recipe: Recipe,
    *,
    method: Method,
    seed: int,
    prepared: PreparedData,
    out: Path,
    init_from: Path | None = None,
    display: Display = Display(),
) -> Path:
    """Train one method's model on its initial model's own refusals, and return its folder.

    The pairs are kept in `<out>.own_refusals.jsonl`, and the replies with their provenance in
    `<out>.own_refusals.replies.jsonl`. If the initial model refuses nothing, there is nothing to train: the model is a
    copy of it, and this is logged.

    Raises:
        DataError: no counter example has a context of `answer_starts`.
        RecipeError: the method has no initial model.
    """
    data = None
    if not out.exists():
        check_init_from(method, init_from)
        if init_from is None:
            raise RecipeError(f"{method.name}: expected `init_from`, the method whose refusals it unlearns, got none")
        data = own_training_set(
            recipe, method=method, seed=seed, prepared=prepared, out=out, init_from=init_from, display=display
        )
        if data is None:
            return out
    return train_method(
        recipe,
        method=method,
        seed=seed,
        prepared=prepared,
        out=out,
        init_from=init_from,
        data=data,
        display=display,
    )


def own_training_set(
    recipe: Recipe,
    *,
    method: Method,
    seed: int,
    prepared: PreparedData,
    out: Path,
    init_from: Path,
    display: Display = Display(),
) -> TrainingSet | None:
    """Return the training set with the pairs of the initial model's own refusals.

    None if it refuses nothing: there is nothing to train, and the model in `out` is a copy of it.

    Raises:
        DataError: as in `find_pairs`.
    """
    data = prepared.training_set(triples_per_unit=method.triples_per_unit, seed=seed)
    pairs = find_pairs(recipe, method=method, seed=seed, data=data, out=out, init_from=init_from, display=display)
    if not pairs:
        copy_model(init_from, out)
        return None
    return data._replace(preferences=pairs)


def find_pairs(
    recipe: Recipe,
    *,
    method: Method,
    seed: int,
    data: TrainingSet,
    out: Path,
    init_from: Path,
    display: Display = Display(),
) -> list[Preference]:
    """Return the pairs of the initial model's own refusals; replies that are there already are not generated again.

    Raises:
        DataError: no counter example has a context of `answer_starts`.
    """
    config: Any = recipe_config(recipe, method, seed=seed, output_dir=out)
    drawn = data.counter[: config.counter_examples]  # in a seeded order
    chat = load_format(recipe).chat
    contexts = [one for example in drawn for one in _contexts(chat, example, starts=config.answer_starts)]
    if not contexts:
        raise DataError(
            f"{method.name}: expected counter examples with a request and an answer, got none of {len(drawn)}; use "
            "other data, or add 0 to `answer_starts`"
        )
    path = out.with_name(f"{out.name}.own_refusals.jsonl")
    prompts = [one.prompt for one in contexts]
    replies = ask(
        recipe,
        init_from,
        prompts,
        path=path.with_name(f"{path.stem}.replies.jsonl"),
        max_new_tokens=config.reply_tokens,
        description=f"{method.name} seed {seed}: replies to counter examples",
        display=display,
    )
    judged = outcomes(recipe, prompts, replies)
    judged_replies = zip(contexts, replies, judged, strict=True)
    pairs = [_pair(context, reply) for context, reply, outcome in judged_replies if outcome in REJECTED]
    if not path.exists() or list(read_records(path, Preference)) != pairs:
        write_records(path, pairs)
    after = "" if pairs else "; there is nothing to train, so the model is a copy of its initial model"
    display.logger.info(
        "%s seed %d: replies of the initial model to %d prompts of %d counter examples: %s; %d pairs%s",
        method.name,
        seed,
        len(prompts),
        len(drawn),
        format_counts(Counter(judged)),
        len(pairs),
        after,
    )
    return pairs


def _contexts(chat: ChatFormat, example: Example, *, starts: Sequence[int]) -> Iterator[Context]:
    """Yield the prompts of a counter example: its request alone, and after the first tokens of its answer."""
    if example.text is not None or example.messages[-2].role != "user":
        return
    messages, answer = example.messages[:-1], example.messages[-1].content.strip()
    offsets = chat.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for count in dict.fromkeys(starts):
        end = 0 if count == 0 else int(offsets[count - 1][1]) if count < len(offsets) else len(answer)
        if not answer[end:].strip() or (count and not answer[:end].strip()):
            continue
        prompt = Prompt(
            id=f"counter@{count}t:{example.id}",
            request_id=example.id,
            request=in_context(messages),
            suite="over_refusal",
            attack="prefill" if count else "direct",
            messages=messages,
            prefill=answer[:end] or None,
            tools=example.tools,
        )
        yield Context(prompt, answer[end:], example)


def _pair(context: Context, reply: Reply) -> Preference:
    *messages, request = context.example.messages[:-1]
    text = reply.text.rstrip() if context.prompt.prefill else answer_of(reply)
    return Preference(
        query=request.content,
        chosen=context.answer,
        rejected=text,
        source=context.example.source,
        messages=tuple(messages),
        tools=context.prompt.tools,
        prefill=context.prompt.prefill,
        rejected_ends=reply.stop_reason != "length",
    )


def copy_model(model: Path, out: Path) -> None:
    """Copy a model's folder; the copy appears when it is complete."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    finish_folder(partial, out)
