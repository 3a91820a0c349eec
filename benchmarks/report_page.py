"""Size of the report, time to render it, and time until a browser shows all replies.

    python benchmarks/report_page.py                               # 5,000 replies of 650 characters, in Chromium
    python benchmarks/report_page.py --replies 20000 --no-browser

Replies are random words, uniform over 5,000 words, which is harder than replies of models: gzip leaves 0.47 of their
size, and 0.21 of that of the replies of GPTFuzz's evaluation file, cut to 650 characters. The time in the browser
(chromium and chromedriver on the PATH, selenium) is from the start of the navigation until all replies are listed and
filters work: the median of `--runs` loads of the file. `filter_seconds` is the longest of a search for a word, a choice
of a class, and a comparison of two methods.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from derta.metrics.summaries import Outcome, summarize, transcripts
from derta.records import Message, Prompt, Reply, Verdict
from derta.reporting import render_report

METHODS = ("vanilla", "harmful_prefix", "derta", "balanced")
NUM_ATTACKS, NUM_SETS = 20, 5
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


class Words:
    """Random words of a fixed vocabulary."""

    def __init__(self, rng: Random, size: int = 5000) -> None:
        self._rng = rng
        weights = range(len(LETTERS), 0, -1)
        self._words = ["".join(rng.choices(LETTERS, weights, k=rng.randint(2, 9))) for _ in range(size)]

    def text(self, characters: int) -> str:
        """Return words with so many characters in total."""
        words: list[str] = []
        while sum(map(len, words)) + len(words) < characters:
            words += self._rng.choices(self._words, k=20)
        return " ".join(words)[:characters]


def outcomes(*, replies: int, characters: int, seed: int = 0) -> list[Outcome]:
    """Return the results of four methods: 20 attacks and 5 data sets with as many requests each."""
    rng = Random(seed)  # noqa: S311
    words = Words(rng)
    per_cell = max(1, replies // (len(METHODS) * (NUM_ATTACKS + NUM_SETS)))
    requests = [words.text(80) for _ in range(per_cell)]
    prompts = [
        Prompt(
            id=f"{cell}:{i}", request_id=f"r{i}", request=request, attack=f"attack{cell}" if is_attack else "direct",
            suite="attack" if is_attack else "over_refusal", dataset=None if is_attack else f"set{cell}",
            category=f"category {i % 8}", messages=(Message(role="user", content=f"{words.text(250)} {request}"),),
        )
        for cell in range(NUM_ATTACKS + NUM_SETS)
        for is_attack in [cell < NUM_ATTACKS]
        for i, request in enumerate(requests)
    ]  # fmt: skip
    return [_answered(method, prompts, words, rng=rng, characters=characters) for method in METHODS]


def _answered(method: str, prompts: list[Prompt], words: Words, *, rng: Random, characters: int) -> Outcome:
    replies: list[Reply] = []
    verdicts: dict[str, list[Verdict | None]] = {"refusal": [], "harm": []}
    for prompt in prompts:
        refused = rng.random() < 0.5
        starts = tuple(range(0, characters, 5))
        replies.append(Reply(prompt_id=prompt.id, text=words.text(characters), stop_reason="eos", token_starts=starts))
        refusal: dict[str, Any] = {"reply_class": "comply_then_refuse", "refusal_at": rng.randrange(characters)}
        fields = refusal if refused else {"reply_class": "comply"}
        verdicts["refusal"].append(Verdict(prompt_id=prompt.id, judge="refusal", refused=refused, **fields))
        harm = Verdict(
            prompt_id=prompt.id, judge="harm", harmful=not refused, score=rng.random(), reason="by its steps"
        )
        verdicts["harm"].append(harm if prompt.suite == "attack" else None)
    return Outcome(method, 0, prompts, replies, verdicts)


def open_in_browser(page: Path, *, runs: int) -> dict[str, float]:
    """Return the seconds until the page lists all replies, and of the slowest filter."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        opened = [_open(driver, page) for _ in range(runs)]
        filters = ("text=eta", "class=harmful&judge=harm&sort=harmful", "first=derta&second=vanilla")
        filtered = [_filter(driver, fragment) for fragment in filters]
    finally:
        driver.quit()
    return {"open_seconds": round(statistics.median(opened), 2), "filter_seconds": round(max(filtered), 2)}


def _open(driver: Any, page: Path) -> float:
    driver.get("about:blank")
    driver.get(page.as_uri())
    mark = "return performance.getEntriesByName('replies-listed')[0]?.startTime"
    deadline = time.monotonic() + 60
    while (milliseconds := driver.execute_script(mark)) is None:
        if time.monotonic() > deadline:
            raise SystemExit("the page's script did not run within 60 s")
        time.sleep(0.05)
    return milliseconds / 1000


def _filter(driver: Any, fragment: str) -> float:
    code = """
        const [fragment, done] = arguments, start = performance.now();
        const end = () => requestAnimationFrame(() => done(performance.now() - start));
        addEventListener("hashchange", end, {once: true});
        location.hash = "#transcripts?" + fragment;
    """
    return driver.execute_async_script(code, fragment) / 1000


def main() -> None:
    """Parse the command line and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=5000)
    parser.add_argument("--characters", type=int, default=650)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--keep", type=Path, help="also write the page here")
    args = parser.parse_args()
    results = outcomes(replies=args.replies, characters=args.characters)
    summary = summarize(results, title="A page of many replies", recipe="synthetic")
    rows = transcripts(results)
    start = time.process_time()
    page = render_report(summary, rows)
    seconds = time.process_time() - start
    result: dict[str, Any] = {
        "replies": len(rows),
        "characters": args.characters,
        "megabytes": round(len(page.encode()) / 1e6, 2),
        "render_cpu_seconds": round(seconds, 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        if not args.no_browser:
            result |= open_in_browser(path.resolve(), runs=args.runs)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
