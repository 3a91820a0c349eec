import json
import logging

import pytest

from derta.errors import DataError
from derta.files import write_records
from derta.formats import export
from derta.formats.cases import read_judged_cases
from derta.formats.replies import read_cases
from derta.formats.shards import blocks, is_sharded, read_layout, shard_path, shard_paths, verdict_paths, writing_shards
from derta.records import Prompt, Reply, Verdict


def prompt(number):
    return Prompt(id=f"p{number}", request_id=f"p{number}", request="Who?", attack="direct", mode="raw", text="Who?")


def reply(number):
    return Reply(prompt_id=f"p{number}", text=f"About {number}")


@pytest.fixture
def folder(tmp_path):
    """Five prompts, in shards of two, and a reply to each."""
    out = tmp_path / "out"
    write_records(tmp_path / "prompts.jsonl", map(prompt, range(5)))
    with writing_shards(out, 2):
        for number, block in enumerate(blocks(map(reply, (1, 0, 2, 3, 4)), 2)):
            write_records(shard_path(out, "replies", number), block)
    return out


def ids(path, **settings):
    return [case.prompt.id for case in read_cases(path, **settings)]


def test_a_folder_of_shards_is_read_like_one_file(folder):
    assert is_sharded(folder)
    assert read_layout(folder) == 2
    assert ids(folder) == ["p1", "p0", "p2", "p3", "p4"]
    assert ids(folder, prompts_path=folder.parent / "prompts.jsonl") == ids(folder)


def test_shards_are_in_order_of_their_numbers(tmp_path):
    for number in (100_000, 2, 99_999):
        shard_path(tmp_path, "replies", number).touch()
    for name in ("replies-1.jsonl", "replies-00001.superseded.jsonl", "replies-x.jsonl"):
        (tmp_path / name).touch()
    names = ["replies-00002.jsonl", "replies-99999.jsonl", "replies-100000.jsonl"]
    assert [path.name for path in shard_paths(tmp_path, "replies")] == names


def test_prompts_without_a_reply_are_counted_and_a_torn_line_is_left_out(folder, caplog):
    path = shard_path(folder, "replies", 2)
    path.write_text(path.read_text()[:-3])
    with caplog.at_level(logging.WARNING):
        assert ids(folder) == ["p1", "p0", "p2", "p3"]
    assert "1 of 5 prompts have no reply here" in caplog.text


@pytest.mark.parametrize(
    ("number", "records", "message"),
    [
        (0, [reply(0), reply(0)], r"replies-00000.jsonl: got prompt id 'p0' twice"),
        (0, [reply(2)], r"replies-00000.jsonl: got prompt id 'p2' which its part of .*prompts.jsonl has not"),
        (
            3,
            [reply(7)],
            r"replies-00003.jsonl: .*prompts.jsonl has no prompts for it; pass the right file by --prompts",
        ),
    ],
    ids=["twice", "other", "more"],
)
def test_replies_that_are_not_those_of_their_prompts_are_refused(number, records, message, folder):
    write_records(shard_path(folder, "replies", number), records)
    with pytest.raises(DataError, match=message):
        ids(folder)


def test_a_layout_that_is_none_and_a_folder_without_replies_are_refused(folder):
    for path in shard_paths(folder, "replies"):
        path.unlink()
    with pytest.raises(DataError, match="expected replies, got none"):
        ids(folder)
    (folder / "shards.json").write_text('{"rows": 0}')
    with pytest.raises(DataError, match=r"shards.json: rows: Input should be greater than or equal to 1, got 0"):
        ids(folder)


def test_shards_of_verdicts_in_the_folder_are_exported(folder, tmp_path):
    for number, block in enumerate(blocks(range(5), 2)):
        verdicts = [Verdict(prompt_id=f"p{i}", judge="harm", harmful=i == 3) for i in block]
        write_records(shard_path(folder, "verdicts.harm", number), verdicts)
    assert {judge: len(paths) for judge, paths in verdict_paths(folder).items()} == {"harm": 3}
    cases = read_judged_cases(folder)
    assert [case.prompt.id for case in cases if case.outcome("harm", "harmful")] == ["p3"]
    [path] = export(folder, tmp_path / "mine.json", format="harmbench", judges=["harm"])
    assert sum(len(rows) for rows in json.loads(path.read_text()).values()) == 5
    with pytest.raises(DataError, match=r"expected verdicts.refusal.jsonl in its folder, found none"):
        read_judged_cases(folder, judges=["refusal"])
