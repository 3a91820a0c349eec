"""Methods that train on rows: vanilla safety tuning, DeRTa, and each of DeRTa's two parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from derta.chat import TemplateSupport
from derta.data.encoding import EncodedExample, encode_example
from derta.data.rows import Instance, cut_of, instances
from derta.data.triple_encoding import encode_triple
from derta.errors import ModelError
from derta.methods.ingredients import encode_completions, num_additional, take_counter
from derta.methods.method import Method

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from derta.chat import ChatFormat, RefusalTokens
    from derta.config import RowConfig
    from derta.data.mixture import TrainingSet


def row_method(
    name: str,
    description: str = "",
    *,
    harmful_prefix: bool = False,
    rto: bool = False,
    triples_per_unit: int = 1,
    defaults: Mapping[str, Any] | None = None,
) -> Method:
    """Return a method that trains on examples and safe responses, and with `rto` on refusing at each harmful token.

    With `harmful_prefix`, safe responses are also trained on after a prefix of the harmful response. `defaults` are the
    method's own values of settings, such as `completion_per_triple`.

    >>> row_method("derta", harmful_prefix=True, rto=True).name
    'derta'
    """
    dataset = partial(encode_rows, harmful_prefix=harmful_prefix, rto=rto)
    return Method(
        name=name,
        description=description,
        dataset=dataset,
        triples_per_unit=triples_per_unit,
        defaults=defaults or {},
    )


def encode_rows(
    data: TrainingSet,
    *,
    chat: ChatFormat,
    refusals: RefusalTokens,
    config: RowConfig,
    harmful_prefix: bool = False,
    rto: bool = False,
) -> Sequence[Instance]:
    """Return a training set, encoded as the instances of `data.rows`.

    Raises:
        ModelError: the chat template does not support a conversation; the message names it.
        DataError: the settings require counter or completion rows, and the data has nothing to make them from.
    """
    counter = take_counter(data, config)
    _check_conversations(data._replace(counter=counter), TemplateSupport(chat))
    examples, counters = (
        [encode_example(chat, one, assistant_turns=config.assistant_turns) for one in each]
        for each in (data.examples, counter)
    )
    for what, encoded in (("helpful", examples), ("counter", counters)):
        _log_cuts([row for rows in encoded for row in rows], what, max_length=config.max_length)
    benign = list(zip([*data.examples, *counter], [*examples, *counters], strict=True))
    follow_ups = config.follow_ups if config.earlier_turn_share else ()
    return instances(
        triples=[
            encode_triple(chat, triple, refusals=refusals, follow_ups=follow_ups, refuse_in=config.refuse_in)
            for triple in data.triples
        ],
        examples=[row for rows in examples for row in rows],
        counter=counters,
        completions=encode_completions(data, config=config, chat=chat, refusals=refusals, benign=benign),
        num_completions=num_additional(config.completion_per_triple, num_triples=len(data.triples)),
        harmful_prefix=harmful_prefix,
        rto=rto,
    )


def _log_cuts(examples: Sequence[EncodedExample], what: str, *, max_length: int) -> None:
    """Log what `max_length` removes from helpful or counter rows."""
    cuts = [cut for example in examples if (cut := cut_of(example, max_length=max_length))]
    if cuts:
        logger.warning(
            "max_length %d: %d of %d %s rows lose their closing token, and %d of their %d answers",
            max_length,
            len(cuts),
            len(examples),
            what,
            sum(cut.lost_answers for cut in cuts),
            sum(cut.answers for cut in cuts),
        )


def _check_conversations(data: TrainingSet, support: TemplateSupport) -> None:
    conversations = [(f"triple {one.id}", one.source, one.conversation, one.tools) for one in data.triples]
    benign = (*data.examples, *data.counter)
    conversations += [(f"example {one.id}", one.source, one.messages[:-1], one.tools) for one in benign]
    for name, source, messages, tools in conversations:
        if messages and (fault := support.fault(messages, tools)):
            raise ModelError(f"{name} ({source or 'no source'}): {fault}; or drop the row")


BASE = replace(row_method("base", "The recipe's model without training."), trains=False)
"""The recipe's model without training."""

ROW_METHODS = (
    row_method("vanilla", "Standard safety tuning: safe responses and helpful answers.", triples_per_unit=2),
    row_method("vanilla_half", "Vanilla on as many triples as DeRTa, instead of twice as many."),
    row_method("harmful_prefix", "Safe responses after a prefix of the harmful response.", harmful_prefix=True),
    row_method("rto", "Refusal at every position of the harmful response (reinforced transition).", rto=True),
    row_method(
        "derta", "The paper's method: harmful-prefix safe responses and RTO together.", harmful_prefix=True, rto=True
    ),
    row_method(
        "deep_alignment",
        "Half of the safe responses after 1 to 100 harmful tokens (Qi et al., 2024).",
        harmful_prefix=True,
        defaults={"prefix_share": 0.5, "max_prefix": 100},
    ),
    row_method(
        "balanced",
        "DeRTa with completion and counter rows, against over-refusal.",
        harmful_prefix=True,
        rto=True,
        defaults={"completion_per_triple": 2.5, "counter_per_triple": 2.0},
    ),
)
"""Methods of rows. `deep_alignment`: half of the safe responses follow 1 to 100 tokens of the harmful one, as in Qi et
al. 2024, "Safety Alignment Should Be Made More Than Just a Few Tokens Deep". `balanced`: DeRTa with completion and
counter rows, against over-refusal."""
