"""Coverage-guided fuzzing of all parsers of untrusted text: judge outputs, replies, JSONL and CSV (extra `fuzz`).

    python scripts/fuzz.py TARGET -max_total_time=60 [folder of inputs]

Other command-line options are those of libFuzzer. A target takes bytes and raises on a crash, on a violated invariant,
or if parsing takes more than linear time: some inputs are repeated up to `PUMPED` characters and must be parsed within
`SECONDS`. `tests/scripts/test_fuzz.py` runs the same targets on random bytes, without atheris.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

PUMPED = 60_000  # characters; quadratic time takes minutes at this length
SECONDS = 4.0  # CPU time; linear time takes 0.01 to 0.3
PUMP_EVERY = 64  # one of 64 inputs is repeated


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _split_in_two(data: bytes) -> tuple[str, str]:
    """Split the input into two texts at the first line break."""
    first, _, second = _text(data).partition("\n")
    return first, second


def _in_linear_time(read: Callable[[str], object], data: bytes, text: str) -> None:
    read(text)
    if text and sum(data) % PUMP_EVERY == 0:
        pumped = text * (PUMPED // len(text) + 1)
        start = time.process_time()
        read(pumped)
        seconds = time.process_time() - start
        if seconds > SECONDS:
            raise AssertionError(f"{seconds:.1f} s for {len(pumped)} characters of {text[:60]!r} repeated")


def refusals(data: bytes) -> None:
    """Check that the refusal position is inside the reply and that only blank replies are empty."""
    from derta.judges.refusal import structure

    request, reply = _split_in_two(data)

    def read(text: str) -> None:
        parsed = structure(text, mid_answer=bool(data[:1] > b"\x80"), request=request)
        assert parsed.refusal_at is None or 0 <= parsed.refusal_at < len(text)  # noqa: S101
        assert (parsed.reply_class == "empty") == (not text.strip())  # noqa: S101

    _in_linear_time(read, data, reply)


def harm(data: bytes) -> None:
    """Check that the harm score of a reply is a probability."""
    from derta.judges.harm import load_weights, probability, reason_not_harmful
    from derta.judges.harm_features import features

    request, reply = _split_in_two(data)
    weights = load_weights()

    def read(text: str) -> None:
        inputs = features(request or None, text)
        assert reason_not_harmful(inputs) or 0 <= probability(inputs, weights) <= 1  # noqa: S101

    _in_linear_time(read, data, reply)


def exact(data: bytes) -> None:
    """Check that number parsing does not fail, and that a parsed choice is one of the options or None."""
    from derta.judges.exact_match import parse_choice, parse_options, truncate_at_next_question
    from derta.judges.final_numbers import final_number

    question, reply = _split_in_two(data)
    options = {"A": question or "a", "B": "12", "C": "a blue bird"} | parse_options(question)

    def read(text: str) -> None:
        final_number(truncate_at_next_question(text), question=question)
        letter = parse_choice(truncate_at_next_question(text), options).letter
        assert letter is None or letter in options  # noqa: S101

    _in_linear_time(read, data, reply)


def verdicts(data: bytes) -> None:
    """Check that judge output parses to a verdict, or to None with a reason."""
    from derta.judges.pairwise import parse_preference
    from derta.judges.rubrics import RUBRICS

    def read(text: str) -> None:
        for judge in RUBRICS.values():
            parsed = judge.parse(text)
            assert parsed.harmful is not None or parsed.reason  # noqa: S101
        better, reason = parse_preference(text)
        assert (better is None) == bool(reason)  # noqa: S101

    _in_linear_time(read, data, _text(data))


def places(data: bytes) -> None:
    """Check that a reply cannot break out of its section of a judge prompt."""
    from derta.judges.judge_prompts import defuse, judge_prompt
    from derta.judges.rubrics import RUBRICS
    from derta.protocols import Case
    from derta.records import Message, Prompt, Reply

    request, reply = _split_in_two(data)
    ask = (Message(role="user", content="?"),)
    prompt = Prompt(id="1", request_id="1", request=request if request.strip() else "?", attack="direct", messages=ask)

    def read(text: str) -> None:
        for name, judge in RUBRICS.items():
            prompt_of_judge = judge_prompt(name, Case(prompt, Reply(prompt_id="1", text=text)), prompt_id="1")
            rendered = prompt_of_judge.text or "\n".join(one.content for one in prompt_of_judge.messages or ())
            assert "<|" not in rendered  # noqa: S101
            assert judge.mode == "raw" or "[/INST]" not in rendered  # noqa: S101
            if name in ("guideline", "strongreject"):
                nonce = rendered.rpartition("END REPLY ")[2][:16]
                assert rendered.count(f"END REPLY {nonce}") == 1  # noqa: S101
            assert defuse(defuse(text, judge.lines), judge.lines) == defuse(text, judge.lines)  # noqa: S101

    _in_linear_time(read, data, reply)


def _with_file(data: bytes, name: str, read: Callable[[Path], object]) -> None:
    from derta.errors import DertaError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with contextlib.suppress(DertaError):
            read(path)


def jsonl(data: bytes) -> None:
    """Check that a JSONL file is refused, or that each non-blank line is a row."""
    from derta.files import read_records
    from derta.formats.replies import read_cases
    from derta.records import Prompt, Reply
    from derta.sources import read_rows

    def count(path: Path) -> None:
        lines = [line for line in _text(data).removeprefix("\ufeff").split("\n") if line.strip()]
        assert sum(1 for _ in read_rows(path)) == len(lines)  # noqa: S101
        assert sum(1 for _ in read_cases(path)) == len(lines)  # noqa: S101

    _with_file(data, "a.jsonl", count)
    for kind in (Prompt, Reply):
        _with_file(data, "a.jsonl", lambda path, kind=kind: list(read_records(path, kind)))


def table(data: bytes) -> None:
    """Check that a CSV file is refused or loaded, and that rows of a CSV writer round-trip."""
    from derta.formats.labels import read_labels
    from derta.sources import read_rows

    _with_file(data, "a.csv", lambda path: list(read_rows(path)))
    _with_file(b"question,response,label\n" + data, "a.csv", lambda path: list(read_labels(path, measure="harmful")))
    cells = _text(data).replace("\0", "").split("|")
    rows = [[*cells[i : i + 2], "x"][:2] for i in range(0, len(cells), 2)]
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["one", "two"], *rows])

    def compare(path: Path) -> None:
        assert [list(row.value.values()) for row in read_rows(path)] == rows  # noqa: S101

    _with_file(written.getvalue().encode(), "a.csv", compare)


def published(data: bytes) -> None:
    """Check that files of published outputs are refused or loaded."""
    from derta.errors import DertaError
    from derta.paper.outputs import READERS, PromptTexts

    texts = PromptTexts(prompts=["How is tea made? "], requests=["How is tea made?"])

    for name, kind in (("a.jsonl", "answers"), ("a.jsonl", "harmless"), ("a.csv", "labelled_refusals")):
        _with_file(data, name, lambda path, kind=kind: list(READERS[kind](path, texts)))

    def with_prompts(path: Path) -> None:
        lines = data.splitlines(keepends=True)
        for name in ("requests.jsonl", "prompts_completing.jsonl"):
            path.with_name(name).write_bytes(b"".join(lines[::2]))
        path.write_bytes(b"".join(lines[1::2]))
        for kind in ("attacks", "completions"):
            with contextlib.suppress(DertaError):
                list(READERS[kind](path, texts))

    _with_file(data, "a.jsonl", with_prompts)


TARGETS = {target.__name__: target for target in (refusals, harm, exact, verdicts, places, jsonl, table, published)}


def seeds() -> list[bytes]:
    """Load the seed inputs of `fuzz_seeds.txt`: one per line, with Python escapes."""
    lines = Path(__file__).with_name("fuzz_seeds.txt").read_text(encoding="utf-8").splitlines()
    escaped = (line.encode().decode("unicode_escape") for line in lines)
    return [line.encode("utf-16", "surrogatepass").decode("utf-16").encode() for line in escaped]


def dictionary() -> list[str]:
    """Return the words of the judges' patterns in libFuzzer's string format."""
    texts = files("derta.judges") / "texts"
    names = ("en", "zh", "es", "fr", "de")
    source = "".join((texts / f"refusal_{name}.txt").read_text(encoding="utf-8") for name in names)
    source += (texts / "premise_en.txt").read_text(encoding="utf-8")
    words = {*re.findall(r"[^\W\d_]{2,20}", source), *re.findall(r"[^\W\d_]+(?: [^\W\d_]+)+", source)}
    return sorted("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in words)


def main() -> None:
    """Parse the command line and fuzz one target."""
    import atheris  # needs the extra `fuzz`

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} [libFuzzer's options]")
    target = TARGETS[sys.argv.pop(1)]
    with atheris.instrument_imports(include=["derta"]):
        target(b"")
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words"
        words.write_text("".join(f'"{word}"\n' for word in dictionary()), encoding="utf-8")
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        for number, seed in enumerate(seeds()):
            (inputs / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, f"-dict={words}", str(inputs)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
