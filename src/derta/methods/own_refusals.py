"""Preference stage on the model's own refusals: DPO that prefers the helpful answer of a benign request to its refusal.

The pairs come from `pipeline.own_refusals`, which prompts the initial model with the counter examples. Triples, with
the safe response over the harmful one, are trained on next to them: what is to be unlearned is the refusal of benign
requests, not refusing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field as Limit

from derta.chat import ChatFormat, RefusalTokens
from derta.data.mixture import TrainingSet
from derta.data.preferences import EncodedPair, encode_preference, triple_pair
from derta.data.triple_encoding import encode_triple
from derta.methods.dpo import DpoConfig
from derta.train.config import DertaConfig

Starts = tuple[Annotated[int, Limit(ge=0)], ...]


@dataclass
class OwnRefusalsConfig(DpoConfig):
    """Configuration of the preference stage; other fields and defaults are those of `DpoConfig`.

    Attributes:
        counter_examples: Number of counter examples whose requests the initial model answers, drawn by the seed; all,
            if there are fewer.
        answer_starts: Contexts of each request: the model answers after the first k tokens of the helpful answer; 0 is
            the request alone. An answer that ends before k has no such context.
        reply_tokens: Maximum length of these replies in tokens.
        triples_per_pair: Number of triples for each pair of an own refusal.
    """

    counter_examples: Annotated[int, Limit(ge=1)] = 400
    answer_starts: Annotated[Starts, Limit(min_length=1)] = (0, 5, 20)
    reply_tokens: Annotated[int, Limit(ge=1)] = 64
    triples_per_pair: Annotated[float, Limit(ge=0)] = 1.0


def config_class() -> type[DertaConfig]:
    """Return the config class of the preference stage."""
    return OwnRefusalsConfig


def encode_own_pairs(
    data: TrainingSet, *, chat: ChatFormat, refusals: RefusalTokens, config: OwnRefusalsConfig
) -> list[EncodedPair]:
    """Return the pairs of own refusals, which are the preferences of `data`, and of triples.

    Each pair of an own refusal y_l and the helpful answer y_w to a benign x, after a start a_<k of y_w, has DPO's loss
    −log σ(β log π(y_w|x, a_<k)/π₀(y_w|x, a_<k) − β log π(y_l|x, a_<k)/π₀(y_l|x, a_<k)); of a triple, y_w is the safe
    response and y_l the harmful one.

    Source: Rafailov et al., Direct Preference Optimization, arXiv 2305.18290, Eq. 7.
    """
    own = [encode_preference(chat, one) for one in data.preferences]
    count = round(len(own) * config.triples_per_pair)
    return [*own, *(triple_pair(encode_triple(chat, one, refusals=refusals)) for one in data.triples[:count])]
