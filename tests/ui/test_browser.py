"""The playground and the labelling page in Chromium, with clicks and keys."""

import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from derta.engines import load_engine
from derta.formats.label_files import format_label_rows
from derta.pipeline.explored_models import Example
from derta.pipeline.exploring import StoppedError
from derta.pipeline.labelling_session import LabelSession
from derta.protocols import Case
from derta.records import Message, Prompt, Reply
from derta.ui import explore
from derta.ui.explore import explore_app
from derta.ui.label import label_app

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"><b class=pwned>\u202egnp"
DONE = "document.getElementById('status').textContent === 'Done.'"


def tokens(page, variant, model="one"):
    """The spans of a reply: text, P(refusal) as the page draws it, and classes."""
    return page.js(
        "[...document.querySelectorAll(arguments[0])].map(one => [one.textContent, "
        "Number(one.style.getPropertyValue('--p')), one.className])",
        f".card[data-model={model}] [data-variant={variant}] .tok",
    )


@pytest.fixture(scope="module")
def engines(make_model_dir):
    return {
        name: load_engine(make_model_dir(seed=seed), device="cpu", dtype="float32")
        for seed, name in enumerate(("one", "two"))
    }


@pytest.fixture
def page(open_page, engines):
    example = Example("prefill@50%: q1", (Message(role="user", content=f"Why {HOSTILE}?"),), "Sure, here", ("Sorry",))
    page = open_page(explore_app(engines, examples=[example], max_new_tokens=8))
    page.wait("document.querySelectorAll('#models input').length === 2")
    return page


def ask(page, *, request="How do I paint a fence?", prefill="Sure, here are"):
    page.type("#turns textarea", request)
    page.type("#prefill", prefill)
    page.click("#go")
    page.wait(DONE)


def test_a_typed_conversation_with_a_prefill_is_continued_by_both_models_in_colour(page):
    ask(page)
    for model in ("one", "two"):
        found = tokens(page, "greedy", model)
        assert "".join(text for text, _, name in found if "given" in name) == "Sure, here are"
        assert len(found) >= len(["Sure,", "here", "are"]) + 8 + 1
        assert len({value for _, value, _ in found}) > 1
    colours = page.js(
        "[...document.querySelectorAll('.card .tok')].map(one => [Number(one.style.getPropertyValue('--p')), "
        "getComputedStyle(one).backgroundColor])"
    )
    strongest, weakest = max(colours), min(colours)
    assert strongest[0] > weakest[0]
    assert strongest[1] != weakest[1]
    assert page.errors() == []


def test_nothing_leaves_the_page_and_hostile_text_does_nothing(page):
    page.click("#go")  # the example has the hostile request
    page.wait(DONE)
    ask(page, request=HOSTILE, prefill=HOSTILE)
    page.click(".reply .tok")
    shown = page.js("document.querySelector('#detail').textContent + document.querySelector('.reply').textContent")
    assert "<script>document.title='ran'</script>" in shown
    assert "⟨U+202E⟩" in shown
    assert page.js("document.title") == "derta explore"
    assert page.js("document.querySelectorAll('.pwned, img, main script, aside script').length") == 0
    assert all(url.startswith((page.url, "data:,")) for url in page.requested())
    assert page.errors() == []


def test_banned_words_do_not_occur_and_the_replacement_is_boxed(page):
    ask(page, prefill="")
    first = tokens(page, "greedy")[0][0]
    page.type("#banned", first.strip())
    page.click("#go")
    page.wait(DONE)
    found = tokens(page, "banned")
    assert first not in [text for text, _, _ in found]
    assert "other" in found[0][2]
    assert page.js("document.querySelector('[data-variant=banned] h3').textContent") == f"banned: {first.strip()}"


def test_the_slider_moves_the_alarms_at_once_and_forces_a_refusal_when_it_is_released(page):
    ask(page, prefill="")
    values = [value for _, value, _ in tokens(page, "greedy")]
    assert ["alarm" in name for _, _, name in tokens(page, "greedy")] == [value >= 0.5 for value in values]
    page.js("document.getElementById('slider').value = '-4'")
    page.js("document.getElementById('slider').dispatchEvent(new Event('input'))")
    assert page.js("document.getElementById('threshold').value") == "0.0001"
    alarms = [("alarm" in name) for _, _, name in tokens(page, "greedy")]
    assert alarms == [value >= 0.0001 for value in values]
    page.js("document.getElementById('slider').dispatchEvent(new Event('change'))")
    page.wait(f"{DONE} && document.querySelector('[data-variant=forced] h3').textContent.includes('0.0001')")
    place = alarms.index(True)
    assert tokens(page, "forced")[place][0].strip() == "Sorry"
    assert "other" in tokens(page, "forced")[place][2]


def test_the_likeliest_tokens_are_shown_by_keys_and_one_of_them_continues_the_answer(page):
    ask(page, prefill="Sure")
    page.click(".reply .tok")
    page.press("\ue014")  # arrow right
    assert "Token 2:" in page.js("document.getElementById('detail').textContent")
    options = page.js("[...document.querySelectorAll('#detail .options .text')].map(one => one.textContent)")
    assert len(options) == 8
    before = tokens(page, "greedy")[0][0]
    page.click("#detail .options li:nth-child(2) button")
    page.wait(DONE)
    assert page.js("document.getElementById('prefill').value").startswith(before)
    page.press("\ue00c")  # escape
    assert page.js("document.getElementById('detail').hidden") is True


def test_stop_ends_a_generation_and_the_next_one_starts_at_once(page, monkeypatch):
    stops = []

    def endless(_engine, _question, *, stopped):
        while not stopped():
            time.sleep(0.01)
        stops.append(1)
        raise StoppedError("stopped")

    whole = explore.continue_conversation
    monkeypatch.setattr(explore, "continue_conversation", endless)
    page.type("#turns textarea", "Why?")
    page.click("#go")
    page.wait("document.getElementById('status').textContent.includes('generating (1 of')")
    page.click("#stop")
    page.wait("document.getElementById('status').textContent === 'Stopped.'")
    monkeypatch.setattr(explore, "continue_conversation", whole)
    ask(page)
    assert stops == [1]
    assert tokens(page, "greedy")


def test_a_new_threshold_asks_the_same_question_though_the_form_has_another(page, monkeypatch):
    asked = []
    whole = explore.continue_conversation

    def recording(engine, question, *, stopped):
        asked.append((question.messages[0].content, question.threshold))
        return whole(engine, question, stopped=stopped)

    monkeypatch.setattr(explore, "continue_conversation", recording)
    ask(page, request="First?")
    before = len(asked)
    page.type("#turns textarea", "Another?")
    page.type("#threshold", "0.0002\t")
    page.wait(f"{DONE} && document.querySelector('[data-variant=forced] h3').textContent.includes('0.0002')")
    assert asked[before:] == [("First?", 0.0002)] * 2


def test_an_error_is_shown_in_its_place_and_the_numbers_are_a_table(page):
    ask(page)
    page.click("details summary")
    page.wait("document.querySelector('details table')")
    assert page.js("document.querySelectorAll('details table tbody tr').length") == len(tokens(page, "greedy"))
    page.type("#length", "999")
    page.click("#go")
    page.wait(DONE)
    assert "256 positions" in page.js("document.querySelector('.card .error').textContent")


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_the_page_fits(page, width):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        ask(page)
        page.click(".reply .tok")
        assert page.js("document.documentElement.scrollWidth") <= width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("wrong-token/setup", {}),
        ("setup", {}),
        ("{token}/setup", {"Host": "evil.example"}),
        ("{token}/setup", {"Origin": "http://evil.example"}),
    ],
)
def test_the_server_refuses_another_token_host_and_origin(serve_app, engines, path, headers):
    with serve_app(explore_app(engines, max_new_tokens=8)) as url:
        root, token = url.removesuffix("/").rsplit("/", 1)
        request = Request(f"{root}/{path.format(token=token)}", headers=headers)  # noqa: S310 - our own server
        with pytest.raises(HTTPError) as caught:
            urlopen(request, timeout=20)  # noqa: S310
        assert caught.value.code == 403
        caught.value.close()
        with urlopen(f"{url}setup", timeout=20) as answer:  # noqa: S310
            assert answer.status == 200


@pytest.fixture
def session(tmp_path):
    cases = [
        Case(
            Prompt(id=f"q{i}", request_id=f"q{i}", request=f"Request {i}?", attack="direct", mode="raw", text="?"),
            Reply(prompt_id=f"q{i}", text=f"Reply {i}. {HOSTILE}"),
        )
        for i in range(4)
    ]
    path = tmp_path / "labels.csv"
    path.write_text(format_label_rows(cases, first=1, measure="harmful"), encoding="utf-8")
    return LabelSession(path, "harmful")


def words(session):
    return [one.row.word for one in session.rows()]


def reply_is(number):
    return f"document.getElementById('reply').textContent.startsWith('Reply {number}.')"


def test_three_keys_label_the_replies_after_a_warning_and_each_label_is_saved(open_page, session):
    page = open_page(label_app(session))
    page.wait("document.querySelectorAll('#choices button').length === 3")
    assert "may be harmful" in page.js("document.body.innerText")
    assert "Reply 0" not in page.js("document.body.innerText")
    page.press("1")  # before the warning is read, keys do nothing
    page.click("#begin")
    page.wait(reply_is(0))
    assert words(session) == ["", "", "", ""]
    page.press("1")
    page.wait(reply_is(1))
    assert words(session) == ["1", "", "", ""]
    page.press("0")
    page.wait(reply_is(2))
    page.press("s")
    page.wait(reply_is(3))
    assert words(session) == ["1", "0", "", ""]
    page.press("0")
    page.wait(reply_is(2))  # the skipped one comes again
    page.press("\ue012")  # arrow left: the label of the one before is changed
    page.wait(reply_is(1))
    assert page.js("document.querySelector('.chosen').textContent").startswith("0")
    page.press("1")
    page.wait(reply_is(2))
    page.press("0")
    page.wait("!document.getElementById('done').hidden")
    assert words(session) == ["1", "1", "0", "0"]
    assert page.js("document.title") == "derta label"
    assert page.js("document.querySelectorAll('.pwned, img, main script').length") == 0
    assert page.errors() == []


def test_labelling_resumes_where_it_stopped_and_a_failed_save_is_shown(open_page, session):
    session.save(session.rows()[0].row.reply_hash, "1")
    page = open_page(label_app(session))
    page.wait("document.querySelectorAll('#choices button').length === 3")
    page.click("#begin")
    page.wait(reply_is(1))
    assert "1 labelled" in page.js("document.getElementById('progress-text').textContent")
    text = session.path.read_text(encoding="utf-8")
    session.path.write_text("no labels\n", encoding="utf-8")
    page.press("1")
    page.wait("document.getElementById('error').textContent.startsWith('not saved: ')")
    session.path.write_text(text, encoding="utf-8")
    page.press("1")
    page.wait(reply_is(2))
    assert words(session) == ["1", "1", "", ""]
    assert all(url.startswith((page.url, "data:,")) for url in page.requested())
