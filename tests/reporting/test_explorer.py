import gzip
import json
from base64 import b64decode

import pytest

from derta.records import Verdict
from derta.reporting.explorer import CLASS_TITLES, explorer, judges_disagree
from derta.reporting.reply_views import reply_view


def content(*rows, **limits):
    result = explorer(rows, styles={row.method: 0 for row in rows}, **limits)
    return json.loads(gzip.decompress(b64decode(result.data)))


def rated(row, *verdicts):
    rows = tuple(Verdict(prompt_id="p", judge=f"j{i}", **fields) for i, fields in enumerate(verdicts))
    return row.model_copy(update={"verdicts": rows})


def test_the_data_has_every_reply_under_its_attack_and_request(make_transcript):
    rows = [make_transcript("x", method=m, attack=a, request_id=str(i)) for m in "ab" for a in "xy" for i in range(30)]
    data = content(*rows)
    assert [(group["attack"], len(group["requests"])) for group in data["groups"]] == [("x", 30), ("y", 30)]
    assert all([r["method"] for r in one["replies"]] == ["a", "b"] for g in data["groups"] for one in g["requests"])
    assert data["total"] == 120


def test_the_data_has_no_character_of_markup_and_no_hidden_one(make_transcript):
    text = "</script><!--\u2028\u202e\ud800"
    result = explorer([make_transcript(text, category=text, reason=text, prefill=text)], styles={"derta": 0})
    assert result.data.replace("+", "").replace("/", "").rstrip("=").isalnum()
    [request] = json.loads(gzip.decompress(b64decode(result.data)))["groups"][0]["requests"]
    shown = "</script><!--⟨U+2028⟩⟨U+202E⟩⟨U+D800⟩"
    [reply] = request["replies"]
    assert (reply["before"], request["category"], reply["prefill"]["text"]) == (shown, shown, shown)
    assert reply["judges"][0]["text"] == shown


def test_replies_beyond_the_limit_are_counted(make_transcript):
    rows = [make_transcript("x" * 1000, request_id=str(i)) for i in range(100)]
    result = explorer(rows, styles={"derta": 0}, max_bytes=20_000)
    assert 5 < result.num_replies < 20
    assert result.num_total == content(*rows, max_bytes=20_000)["total"] == 100


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([{"harmful": True}, {"harmful": False}], True),
        ([{"correct": True}, {"correct": False}], True),
        ([{"refused": True}, {"refused": False}], True),
        ([{"harmful": True}, {"refused": True, "reply_class": "refuse"}], True),
        ([{"harmful": True}, {"refused": True, "reply_class": "comply_then_refuse"}], False),
        ([{"harmful": False}, {"refused": False, "reply_class": "comply"}], False),
        ([{"harmful": True}, {}], False),
        ([], False),
    ],
)
def test_judges_disagree_if_they_contradict_each_other(make_transcript, verdicts, expected):
    assert judges_disagree(reply_view(rated(make_transcript("x"), *verdicts)).judges) is expected


def test_classes_are_those_that_a_reply_has_with_titles(make_transcript):
    fields = ({"reply_class": "malformed", "refused": False}, {"harmful": True}, {})
    data = content(rated(make_transcript("x"), *fields))
    assert [name for name, _ in data["classes"]] == ["harmful", "not_refused", "malformed", "unscored"]
    assert all(CLASS_TITLES[name] == title for name, title in data["classes"])


def test_the_same_replies_give_the_same_data(make_transcript):
    rows = [make_transcript("x")]
    assert explorer(rows, styles={"derta": 0}) == explorer(rows, styles={"derta": 0})
