import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.records import Prompt, Reply, Verdict
from derta.reporting import render_report
from derta.reporting.reply_views import REPLY_CHARS
from derta.reporting.transcripts import transcript_browser
from derta.results import Transcript


def test_methods_are_side_by_side_under_attack_and_request(make_transcript):
    rows = [
        make_transcript("x", method=m, request_id=r, attack=a)
        for m in ("vanilla", "derta")
        for a in ("direct", "story")
        for r in ("1", "2")
    ]
    view = transcript_browser(rows)
    assert [(g.label.base, [q.id for q in g.requests]) for g in view.groups] == [
        ("direct", ["1", "2"]),
        ("story", ["1", "2"]),
    ]
    assert all([r.method for r in q.replies] == ["vanilla", "derta"] for g in view.groups for q in g.requests)


@pytest.mark.parametrize("at", [-5, -1, 12, 10**9])
def test_a_refusal_position_outside_the_reply_is_reported_and_not_marked(make_transcript, at):
    reply = transcript_browser([make_transcript("Sorry, no.", refusal_at=at)]).groups[0].requests[0].replies[0]
    assert (reply.before, reply.after) == ("Sorry, no.", None)
    assert reply.position is not None
    assert "outside the reply" in reply.position


def test_a_refusal_after_the_truncation_is_reported_by_its_position(make_transcript):
    text = "a" * (2 * REPLY_CHARS)
    reply = transcript_browser([make_transcript(text, refusal_at=REPLY_CHARS + 7)]).groups[0].requests[0].replies[0]
    assert reply.after is None
    assert reply.num_omitted == REPLY_CHARS
    assert reply.position == "refusal starts at character 4\u202f008"


@given(text=st.text(), at=st.integers())
def test_any_split_keeps_the_whole_text(text, at):
    prompt = Prompt(id="p", request_id="r", request="?", attack="direct", mode="raw", text="?")
    verdict = Verdict(prompt_id="p", judge="j", refusal_at=at)
    row = Transcript(method="m", seed=None, prompt=prompt, reply=Reply(prompt_id="p", text=text), verdicts=(verdict,))
    reply = transcript_browser([row]).groups[0].requests[0].replies[0]
    assert reply.before + (reply.after or "") == text[:REPLY_CHARS]


def test_a_refusal_position_is_also_in_tokens_if_the_reply_has_token_offsets(make_transcript):
    # tokens begin at 0, 3 and 7: character 7 (the eighth) is the third token's first
    row = make_transcript("Sure. Sorry", refusal_at=7, token_starts=(0, 3, 7))
    reply = transcript_browser([row]).groups[0].requests[0].replies[0]
    assert reply.position == "refusal starts at character 8, token 3"


def test_transcripts_over_the_limit_are_counted_and_every_attack_has_its_share(make_transcript):
    rows = [make_transcript("x", request_id=str(i), attack=a) for a in ("direct", "story") for i in range(10)]
    view = transcript_browser(rows, max_transcripts=6)
    assert (view.num_displayed, view.num_total) == (6, 20)
    assert [(len(g.requests), g.num_requests) for g in view.groups] == [(3, 10), (3, 10)]


def test_the_size_limit_counts_escaped_text(make_transcript):
    rows = [make_transcript('"\x00' * 2000, request_id=str(i)) for i in range(100)]
    assert transcript_browser(rows, max_bytes=300_000).num_displayed < 10


def test_one_request_is_displayed_whatever_the_limit(make_transcript):
    assert transcript_browser([make_transcript("x" * 9000)], max_bytes=10).num_displayed == 1


def test_prompts_that_differ_between_methods_name_their_receivers(make_transcript):
    rows = [make_transcript("x", method=m, request=r) for m, r in (("a", "one"), ("b", "two"))]
    prompts = transcript_browser(rows).groups[0].requests[0].prompts
    assert [p.receivers for p in prompts] == [("a",), ("b",)]
    assert transcript_browser(rows[:1]).groups[0].requests[0].prompts[0].receivers == ()


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "unscored"),
        ([{}], "unscored"),
        ([{"reply_class": "comply", "refused": False}, {"harmful": False}], "not harmful"),
        ([{"harmful": False}, {"harmful": True}], "harmful"),
        ([{"reply_class": "comply_then_refuse"}], "answers, then refuses"),
        ([{"correct": False}], "wrong"),
        ([{"refused": True}], "refused"),
    ],
)
def test_a_collapsed_reply_has_its_most_severe_verdict(make_transcript, verdicts, expected):
    row = make_transcript("x")
    rated = tuple(Verdict(prompt_id="p", judge=f"j{i}", **fields) for i, fields in enumerate(verdicts))
    view = transcript_browser([row.model_copy(update={"verdicts": rated})])
    assert view.groups[0].requests[0].replies[0].outcome.text == expected


def test_samples_of_a_prompt_are_in_order_and_numbered(make_transcript, make_summary):
    row = make_transcript("One.")
    again = row.model_copy(update={"reply": row.reply.model_copy(update={"sample": 1, "text": "Two."})})
    replies = transcript_browser([again, row]).groups[0].requests[0].replies
    assert [(reply.sample, reply.before) for reply in replies] == [(0, "One."), (1, "Two.")]
    page = render_report(make_summary(), [again, row])
    assert "sample 1" in page
    assert "sample 0" not in page


def test_a_judge_s_score_is_next_to_its_verdict(make_transcript):
    row = make_transcript("One.")
    scored = row.model_copy(update={"verdicts": (row.verdicts[0].model_copy(update={"score": 0.375}),)})
    [judge] = transcript_browser([scored]).groups[0].requests[0].replies[0].judges
    assert [chip.text for chip in judge.chips] == ["not harmful", "score 0.38"]
