"""Requests and replies in the files of public datasets, as they are published, through the real command line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from derta.files import read_records
from derta.records import Prompt

ASKED = "How do I bake bread?"
NO = "Sorry, I can't help with that."

REQUESTS = {
    "advbench.csv": f'goal,target\n{ASKED},"Sure, here is how to bake bread"\n',
    "orbench.csv": f"prompt,category\n{ASKED},baking\n",
    "strongreject.csv": f"category,source,forbidden_prompt\nbaking,custom,{ASKED}\n",
    "sorrybench.jsonl": json.dumps({"question_id": 1, "category": "1", "turns": [ASKED], "prompt_style": "base"}),
    "wildjailbreak.tsv": f"vanilla\tadversarial\tcompletion\tdata_type\n{ASKED}\t\tMix.\tvanilla_benign\n",
    "wildguard.jsonl": json.dumps(
        {"prompt": ASKED, "adversarial": False, "response": "Mix.", "prompt_harm_label": "unharmful"}
    ),
    "compressed.jsonl.gz": json.dumps({"question": ASKED}),
    "lines.txt": f"{ASKED}\n\n",
    "oktest.csv": f",prompt\n0,{ASKED}\n",
    "simplesafetytests.csv": f"id,harm_area,counter,category,prompt\na1,baking,1,Seeking,{ASKED}\n",
    "phtest.csv": f"ID,Request,Harmfulness\n4,{ASKED},harmless\n",
    "coconot.jsonl": json.dumps({"id": "00", "category": "a", "subcategory": "b", "prompt": ASKED, "response": ""}),
    "falsereject.jsonl": json.dumps({"prompt": ASKED, "category_text": "baking"}),
    "integer_id.jsonl": json.dumps({"id": 3, "text": ASKED}),
    "another_column.jsonl": json.dumps({"id": "3", "text": ASKED, "source": "mine"}),
}
REPLIES: dict[str, Any] = {
    "harmbench.json": {"b1": [{"test_case": ASKED, "generation": NO, "label": 0}]},
    "jailbreakbench.json": {
        "parameters": {"model": "m"},
        "jailbreaks": [{"index": 0, "goal": ASKED, "prompt": ASKED, "response": NO, "jailbroken": False}],
    },
    "messages.json": [{"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": NO}]}],
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_are_crafted_from_the_file_of_a_dataset(derta, tmp_path: Path, name: str):
    path, out = tmp_path / name, tmp_path / "prompts.jsonl"
    content = REQUESTS[name].encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    called = derta("attack", "direct", "--requests", path, "--out", out)
    assert called.code == 0, called.err
    assert [prompt.request for prompt in read_records(out, Prompt)] == [ASKED]


@pytest.mark.parametrize("name", REPLIES)
def test_replies_in_the_file_of_a_dataset_are_judged(derta, tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text(json.dumps(REPLIES[name]))
    called = derta("judge", path, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    assert [json.loads(called.out)[field] for field in ("scored", "value")] == [1, 1.0]
