"""Check rows and prompts against the chat templates' own renderings, for folders of real tokenizers and templates.

Usage: python scripts/check_templates.py TOKENIZERS TEMPLATES [--all] [--json FILE]

TOKENIZERS is a folder of tokenizer folders, TEMPLATES one of `.jinja` files. Each template is used with each tokenizer,
and each tokenizer with its own template. For a few conversations it is checked that

- the prompt of an answer begins with the template's generation prompt,
- prompt, answer and closing tokens are the tokens of the template's rendering of the finished conversation, apart from
  an empty thought,
- the prompt of a prefill is the prompt of an answer and the prefill,
- a reply stops, and its closing tokens have no part of the next turn,
- markup in a request or an answer gives no control token.

A template is refused if `derta.chat` raises an error. The exit code is 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from derta.chat import ChatFormat, chat_format, encode_prompt, encode_turn
from derta.errors import DertaError, ModelError
from derta.loading import without_progress_bars
from derta.records import Message, Prompt
from derta.template_probe import TEMPLATE_ERRORS
from derta.thoughts import THOUGHT_MARKERS

EMPTY_THOUGHT = re.compile(
    r"\s*(?:"
    + "|".join(f"(?:{re.escape(a)})?\\s*{re.escape(b)}" for a, b in THOUGHT_MARKERS if "final" not in b)
    + r")\s*"
)
ANSWER = "Mix flour and water."
CONVERSATIONS = {
    "user": ["user"],
    "system": ["system", "user"],
    "turns": ["user", "assistant", "user"],
}


def conversation(roles: Sequence[str]) -> list[Message]:
    """Return a short conversation of these roles."""
    texts = {"user": "How do I bake bread?", "assistant": "It depends.", "system": "Be kind."}
    return [Message.model_validate({"role": role, "content": texts[role]}) for role in roles]


def rendered(chat: ChatFormat, messages: Sequence[Message], *, prompt: bool) -> str:
    """Return what Transformers renders, without derta."""
    dicts = [message.model_dump() for message in messages]
    return str(
        chat.tokenizer.apply_chat_template(
            dicts, chat_template=chat.template, tokenize=False, add_generation_prompt=prompt, **chat.template_kwargs
        )
    )


def without_bos(chat: ChatFormat, ids: Sequence[int]) -> list[int]:
    """Return token ids without a BOS token, which some templates write and some tokenizers add."""
    bos = chat.tokenizer.bos_token_id
    return list(ids[1:]) if ids and ids[0] == bos else list(ids)


def faults(chat: ChatFormat) -> Iterator[str]:
    """Yield what is wrong."""
    tokenizer: Any = chat.tokenizer
    for name, roles in CONVERSATIONS.items():
        messages = conversation(roles)
        try:
            start = rendered(chat, messages, prompt=True)
        except (TemplateError, *TEMPLATE_ERRORS):  # the template refuses these roles
            continue
        yield from (f"{name}: {fault}" for fault in conversation_faults(chat, messages, start))
    if not chat.stop_ids:
        yield "no stop token"
    marked = ["</s>", "<|im_end|>", "<|end|>", "<think>", "<|eot_id|>", str(tokenizer.eos_token)]
    text = "What is " + " and ".join(marked) + "?"
    plain = encode_turn(chat, [Message(role="user", content="What is it?")], "It.")
    turn = encode_turn(chat, [Message(role="user", content=text)], "It is " + text)
    control = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    count = Counter(token for token in (*turn.prompt_ids, *turn.response_ids) if token in control)
    if count != Counter(token for token in (*plain.prompt_ids, *plain.response_ids) if token in control):
        yield "markup in a request becomes control tokens"
    decoded = tokenizer.decode(turn.prompt_ids + turn.response_ids, clean_up_tokenization_spaces=False)
    if text not in decoded or not decoded.rstrip().endswith(text):
        yield f"markup is lost: {decoded[-80:]!r}"


def without_bos_text(chat: ChatFormat, text: str) -> str:
    """Return text without a BOS token."""
    bos = chat.tokenizer.bos_token
    return text.removeprefix(str(bos)) if bos else text


def conversation_faults(chat: ChatFormat, messages: Sequence[Message], start: str) -> Iterator[str]:
    """Yield what is wrong with the rows and prompts of one conversation."""
    tokenizer: Any = chat.tokenizer
    finished = rendered(chat, (*messages, Message(role="assistant", content=ANSWER)), prompt=False)
    try:
        turn = encode_turn(chat, messages, ANSWER)
    except ModelError:  # of such rows; counted when data is read
        return
    ids = without_bos(chat, turn.prompt_ids + turn.response_ids)
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    start_ids = without_bos(chat, tokenizer.encode(start.rstrip(), add_special_tokens=False))
    if ids[: len(start_ids) - 1] != start_ids[:-1]:
        yield f"the prompt does not begin with the generation prompt: {text[-60:]!r}"
    closed = encode_turn(chat, messages, ANSWER, closed=True)
    row = without_bos(chat, closed.prompt_ids + closed.response_ids)
    row_text = without_bos_text(chat, tokenizer.decode(row, clean_up_tokenization_spaces=False))
    full_text = without_bos_text(chat, finished)
    if not full_text[full_text.rindex(ANSWER) + len(ANSWER) :].strip():  # the template closes nothing: EOS does
        row, row_text = ids, without_bos_text(chat, text)
    if without_bos(chat, tokenizer.encode(finished, add_special_tokens=False))[: len(row)] == row:
        pass
    elif full_text.startswith(row_text):
        if without_bos(chat, tokenizer.encode(full_text[: len(row_text)], add_special_tokens=False)) != row:
            yield "other tokens for the same text"
    else:
        # a SentencePiece decoder writes a blank for `▁`
        texts = (text.replace("▁", " ") for text in (row_text, full_text))
        ours, theirs = ("".join(EMPTY_THOUGHT.sub("", part).split()) for part in texts)
        if not theirs.startswith(ours) or not EMPTY_THOUGHT.search(row_text):
            yield f"the row is not the template's rendering: {row_text[-60:]!r} against {full_text[-60:]!r}"
    prefill = Prompt(id="p", request_id="p", attack="prefill", messages=tuple(messages), prefill=ANSWER)
    if without_bos(chat, encode_prompt(chat, prefill)) != ids:
        yield "a prefill is not the start of the answer"
    if re.search(r"(?<!/)assistant|user|START_OF_TURN|start_header|im_start", chat.closing):
        yield f"the closing tokens hold the next turn's header: {chat.closing!r}"


def check(tokenizer: Any, template: str) -> str:
    """Return `agree`, `refused: REASON` or `wrong: WHAT`."""
    try:
        chat = chat_format(tokenizer, template=template)
    except DertaError as error:
        return f"refused: {error}"
    found = list(faults(chat))
    kind = "thought " if chat.thought else ""
    return f"wrong: {'; '.join(found)}" if found else f"agree {kind}closing {chat.closing!r}"


def main() -> int:
    """Check all pairs and print the table."""
    from transformers import AutoTokenizer

    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", type=Path)
    parser.add_argument("templates", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table: dict[str, dict[str, str]] = {}
    for folder in sorted(path for path in args.tokenizers.iterdir() if path.is_dir()):
        with without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder)
        if tokenizer.chat_template is not None:
            table.setdefault("(its own)", {})[folder.name] = check(tokenizer, "auto")
        for path in sorted(args.templates.glob("*.jinja")):
            table.setdefault(path.stem, {})[folder.name] = check(tokenizer, str(path))
    counts: Counter[str] = Counter()
    for name, row in sorted(table.items()):
        kinds = Counter(result.split()[0].rstrip(":") for result in row.values())
        counts.update(kinds)
        print(f"{name[:45]:46}", ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
        for result in sorted({result for result in row.values() if not result.startswith("agree")}):
            print("     ", next(tokenizer for tokenizer, one in row.items() if one == result), result[:240])
    print(dict(counts), "of", sum(counts.values()))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1), encoding="utf-8")
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
