"""The report in Chromium: filters, search, order, links, keys and files; hostile text does nothing."""

import csv
import time

import pytest

from chromium import Tab, chromium
from derta.errors import escape_hidden
from derta.records import Message, Prompt, Reply, Verdict
from derta.reporting import render_report
from derta.results import Transcript

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = (
    "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"></details></script>"
    "<b class=pwned><!--<script>\u2028\u2029\u202egnp.exe" + "long" * 200
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """One headless Chromium for all tests."""
    with chromium(tmp_path_factory.mktemp("downloads")) as browser:
        yield browser


class ReportTab(Tab):
    """An opened report."""

    def choose(self, name, value):
        self.js(
            "(c => { c.value = arguments[1]; c.dispatchEvent(new Event('change')) })"
            "(document.querySelector(`#explorer [name=${arguments[0]}]`))",
            name,
            value,
        )
        if value:
            self.wait(f"location.hash.includes('{name}=')")

    @property
    def shown(self):
        return self.js("document.getElementById('shown').textContent").replace("\u202f", "")

    @property
    def rows(self):
        """Request ids in the order of display."""
        return self.js("[...document.querySelectorAll('#cases .id')].map(each => each.textContent)")

    @property
    def focused(self):
        return self.js("document.activeElement.querySelector('.id')?.textContent")

    def loaded(self):
        """Return the addresses that the page has requested."""
        return [url for url in self.requested() if not url.startswith(("data:", "blob:"))]


@pytest.fixture
def open_page(driver, tmp_path):
    """Return a function that opens a page at a width, with a fragment; scripts may be off."""

    def open_it(page, *, width=1280, fragment="", scripts=True):
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        driver.get("about:blank")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        tab = ReportTab(driver, path.as_uri(), fragment=fragment)
        if scripts:
            tab.wait("!document.getElementById('explorer') || 'ready' in document.getElementById('explorer').dataset")
        return tab

    yield open_it
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def row(method, request, attack, text, *, seed=0, harmful=None, refused=False, category="warm", suite="attack"):
    """Return a reply with a verdict of refusals and, with `harmful`, one of harm."""
    prompt = Prompt(
        id=f"{attack}:{request}", request_id=request, request=f"How is {request} made?", suite=suite, category=category,
        attack="direct" if suite != "attack" else attack, dataset=attack if suite != "attack" else None,
        messages=(Message(role="user", content=f"Please: how is {request} made?"),),
    )  # fmt: skip
    verdicts = [
        Verdict(
            prompt_id=prompt.id, judge="refusal", refused=refused, reply_class="refuse" if refused else "comply",
            refusal_at=0 if refused else None,
        )
    ]  # fmt: skip
    if harmful is not None:
        verdicts.append(Verdict(prompt_id=prompt.id, judge="harm", harmful=harmful, reason="by its steps"))
    reply = Reply(prompt_id=prompt.id, text=text)
    return Transcript(method=method, seed=seed, prompt=prompt, reply=reply, verdicts=tuple(verdicts))


@pytest.fixture
def page(make_summary, make_cell):
    """A page with 2 methods, 2 seeds, 2 attacks and a data set: 36 replies to 9 requests of cells."""
    rows = []
    for method in ("plain", "derta"):
        for seed in (0, 1):
            for attack in ("direct", "story"):
                for request in ("tea", "bread", "soup"):
                    refused = method == "derta" and not (request == "soup" and attack == "story")
                    text = f"Sorry, no {request}." if refused else f"Boil the {request}, seed {seed}."
                    category = "cold" if request == "soup" else "warm"
                    rows.append(
                        row(
                            method,
                            request,
                            attack,
                            text,
                            seed=seed,
                            harmful=not refused,
                            refused=refused,
                            category=category,
                        )
                    )
            rows += [
                row(method, request, "benign", "Gladly.", seed=seed, suite="over_refusal")
                for request in ("a", "b", "c")
            ]
    contradicted = row("derta", "tea", "direct", "Sorry, but boil it.", seed=2, harmful=True, refused=True)
    cell = make_cell([True, False], attack="direct")
    return render_report(make_summary((cell,)), [*rows, contradicted])


def test_all_replies_can_be_reached_and_are_counted(page, open_page):
    tab = open_page(page)
    assert tab.shown == "37 of 37 replies, in 9 rows."
    assert tab.js("document.getElementById('static-transcripts')") is None
    assert tab.js("document.querySelectorAll('.harm').length") == 0  # no text before a request is opened
    assert tab.js("document.getElementById('shown').getAttribute('aria-live')") == "polite"
    assert tab.errors() == []
    assert tab.loaded() == [tab.url]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("attack=direct", "13 of 37 replies, in 3 rows."),
        ("suite=over_refusal", "12 of 37 replies, in 3 rows."),
        ("dataset=benign&method=derta", "6 of 37 replies, in 3 rows."),
        ("class=harmful&judge=harm", "15 of 37 replies, in 6 rows."),
        ("class=harmful&judge=refusal", "0 of 37 replies, in 0 rows."),
        ("class=refuse&seed=2", "1 of 37 replies, in 1 row."),
        ("category=cold", "8 of 37 replies, in 2 rows."),
        ("text=BOIL%20the%20soup", "6 of 37 replies, in 2 rows."),
        ("text=please%3A%20how%20is%20tea", "9 of 37 replies, in 2 rows."),
        ("text=by+its+steps&method=plain&seed=1", "6 of 37 replies, in 6 rows."),
        ("disagree=1", "1 of 37 replies, in 1 row."),
        ("first=derta&second=plain", "20 of 37 replies, in 5 rows."),
        ("first=plain&second=derta", "0 of 37 replies, in 0 rows."),
        ("first=derta&second=plain&seed=1&class=harmful", "10 of 37 replies, in 5 rows."),
        ("first=derta&second=plain&text=sorry%2C%20no%20tea", "8 of 37 replies, in 2 rows."),
        ("first=plain&second=derta&differ=harmful", "20 of 37 replies, in 5 rows."),
        ("first=plain&second=derta&differ=harmful&judge=refusal", "0 of 37 replies, in 0 rows."),
        ("attack=direct&request=tea", "5 of 37 replies, in 1 row."),
        ("method=none", "0 of 37 replies, in 0 rows."),
    ],
)
def test_a_link_selects_the_replies_of_its_filters(page, open_page, query, shown):
    tab = open_page(page, fragment=f"#transcripts?{query}")
    assert tab.shown == shown
    assert tab.js("document.getElementById('explorer').getBoundingClientRect().top") < 900  # in sight
    assert tab.errors() == []


def test_choices_make_links_and_the_history_goes_through_them(page, open_page):
    tab = open_page(page)
    tab.choose("attack", "story")
    tab.choose("method", "derta")
    assert (tab.shown, tab.js("location.hash")) == (
        "6 of 37 replies, in 3 rows.",
        "#transcripts?attack=story&method=derta",
    )
    tab.driver.back()
    tab.wait("!location.hash.includes('method')")
    assert tab.shown == "12 of 37 replies, in 3 rows."
    assert tab.js("document.querySelector('[name=method]').value") == ""
    tab.driver.back()
    tab.wait("location.hash === ''")
    assert tab.shown == "37 of 37 replies, in 9 rows."
    tab.driver.forward()
    tab.wait("location.hash === '#transcripts?attack=story'")
    assert tab.js("document.querySelector('[name=attack]').value") == "story"
    tab.js("document.getElementById('clear').click()")
    tab.wait("location.hash === '#transcripts'")
    assert tab.shown == "37 of 37 replies, in 9 rows."


def test_rows_are_ordered_by_the_chosen_property(page, open_page):
    tab = open_page(page, fragment="#transcripts?suite=attack&sort=request")
    assert tab.rows == ["bread", "bread", "soup", "soup", "tea", "tea"]
    tab = open_page(page, fragment="#transcripts?suite=attack&sort=harmful")
    assert tab.rows[:2] == ["soup", "tea"]  # 4 harmful replies under story, 3 under direct
    tab = open_page(page, fragment="#transcripts?sort=disagree")
    assert tab.rows[0] == "tea"
    tab = open_page(page, fragment="#transcripts?sort=__proto__")
    assert (len(tab.rows), tab.errors()) == (9, [])


def test_a_link_of_the_page_leads_to_its_replies(page, open_page):
    slug = page.split('id="t-')[1].split('"')[0]
    linked = page.replace(
        "<h2>Transcripts",
        f'<a id=probe href="#t-{slug}" data-filter="method=derta&amp;class=refuse">7</a><h2>Transcripts',
    )
    tab = open_page(linked)
    tab.js("document.getElementById('probe').click()")
    tab.wait("location.hash === '#transcripts?method=derta&class=refuse'")
    assert tab.shown == "11 of 37 replies, in 5 rows."
    tab = open_page(page, fragment=f"#t-{slug}")
    assert tab.shown == "13 of 37 replies, in 3 rows."


def test_the_keyboard_moves_opens_and_closes(page, open_page):
    from selenium.webdriver.common.keys import Keys

    tab = open_page(page, fragment="#transcripts?attack=direct")
    tab.js("document.querySelector('[name=text]').focus()")
    tab.press("made" + Keys.ENTER)
    tab.wait("document.activeElement.tagName === 'SUMMARY'")
    assert tab.js("location.hash") == "#transcripts?attack=direct&text=made"
    assert tab.focused == "tea"
    tab.press("j" + Keys.ARROW_DOWN)
    assert tab.focused == "soup"
    tab.press("k")
    assert tab.focused == "bread"
    tab.press(Keys.ENTER)
    tab.wait("document.querySelectorAll('.harm').length === 1")
    assert "Boil the bread, seed 0." in tab.js("document.querySelector('.harm').innerText")
    tab.press(Keys.TAB + Keys.ESCAPE)
    assert tab.js("document.querySelectorAll('#cases details[open]').length") == 0
    assert tab.focused == "bread"


def test_an_opened_request_shows_what_matches_and_the_others_on_demand(page, open_page):
    tab = open_page(page, fragment="#transcripts?attack=story&method=derta&seed=0")
    tab.js("document.querySelector('#cases summary').click()")
    tab.wait("document.querySelectorAll('.harm').length === 1")
    assert tab.js("document.querySelectorAll('article').length") == 1
    assert tab.js("document.querySelector('.harm button').textContent") == "Show the other 3 replies"
    tab.js("document.querySelector('.harm button').click()")
    assert tab.js("document.querySelectorAll('article').length") == 4
    assert tab.js("document.querySelector('.actions a').getAttribute('href')") == (
        "#transcripts?suite=attack&attack=story&request=tea"
    )


def test_searched_words_are_marked_in_an_opened_row(page, open_page):
    tab = open_page(page, fragment="#transcripts?attack=direct&text=BREAD&seed=0")
    tab.js("document.querySelector('#cases summary').click()")
    tab.wait("document.querySelectorAll('.harm').length === 1")
    marked = tab.js("[...CSS.highlights.get('found')].map(range => range.toString())")
    assert marked == ["bread"] * 4  # request, prompt and two replies
    tab.choose("text", "")
    tab.js("document.querySelector('[name=text]').dispatchEvent(new Event('input'))")
    tab.wait("!location.hash.includes('text=')")
    assert tab.js("CSS.highlights.has('found')") is False


def test_long_lists_are_shown_in_parts(make_summary, make_transcript, open_page):
    rows = [make_transcript("x", request_id=f"r{i}") for i in range(120)]
    tab = open_page(render_report(make_summary(), rows))
    assert len(tab.rows) == 50
    tab.js("document.getElementById('more').click()")
    assert (len(tab.rows), tab.focused) == (100, "r50")
    tab.press("k")
    assert tab.focused == "r49"
    tab.js("document.querySelector('#cases > li:last-child summary').focus()")
    tab.press("j")
    assert (len(tab.rows), tab.focused) == (120, "r100")
    assert tab.js("document.getElementById('more').hidden")


def saved(tab):
    """Return the rows of the file that the button saves."""
    path = tab.driver.downloads / "replies.csv"
    path.unlink(missing_ok=True)
    tab.js("document.getElementById('save').click()")
    until = time.monotonic() + 20
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < until, "no file"
        time.sleep(0.05)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_saved_table_has_what_is_shown(page, open_page):
    tab = open_page(page, fragment="#transcripts?attack=direct&class=harmful&judge=harm")
    rows = saved(tab)
    assert [(one["method"], one["seed"], one["request_id"]) for one in rows[:2]] == [
        ("plain", "0", "tea"),
        ("plain", "1", "tea"),
    ]
    assert len(rows) == 7
    assert {one["harm: classes"] for one in rows} == {"harmful"}
    assert rows[0]["reply"] == "Boil the tea, seed 0."


@pytest.mark.parametrize("sign", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "\uff1d1", '"=1', "\r=1"])
def test_no_cell_of_the_table_is_a_formula(sign, make_summary, make_transcript, open_page):
    tab = open_page(render_report(make_summary(), [make_transcript(sign, request=sign, reason=sign, category=sign)]))
    [one] = saved(tab)
    for value in one.values():
        assert not value.lstrip(" \t\r\n").startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("text", ["tea", HOSTILE], ids=["benign", "hostile"])
def test_no_text_runs_loads_or_widens_anything(whole_summary, make_transcript, open_page, text, width):
    rows = [
        make_transcript(text, method=m, attack=text, category=text, judge=text, request=text, prefill=text, reason=text)
        for m in ("plain", text)
    ]
    tab = open_page(render_report(whole_summary(text), rows), width=width)
    assert tab.js("document.querySelectorAll('main details[open]').length") == 0
    tab.js("document.querySelector('#cases summary').click()")
    tab.wait("document.querySelectorAll('.harm').length === 1")
    tab.js("document.querySelector('.prompt summary').click()")
    assert "\u202e" not in tab.js("document.body.innerText")
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.js("document.querySelectorAll('img,.pwned').length") == 0
    assert tab.js("document.querySelectorAll('script').length") == 2
    assert tab.js("document.title") == escape_hidden(text)
    assert all(
        100 < height < 400
        for height in tab.js(
            "[...document.querySelectorAll('figure svg[role=img]')].map(svg => svg.getBoundingClientRect().height)"
        )
    )
    assert tab.errors() == []
    assert tab.loaded() == [tab.url]


def test_a_hostile_fragment_is_a_filter_that_nothing_has(page, open_page):
    tab = open_page(page, fragment="#transcripts?attack=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&method=%E0%A4%A")
    assert tab.shown == "0 of 37 replies, in 0 rows."
    assert tab.js("document.querySelectorAll('img').length") == 0
    assert tab.errors() == []


def test_without_scripts_the_page_has_the_first_requests_of_each_attack(page, open_page):
    tab = open_page(page, scripts=False)
    assert tab.js("document.getElementById('explorer').checkVisibility()") is False
    assert tab.js("document.querySelectorAll('#static-transcripts > details.group').length") == 3
    assert tab.js("document.querySelectorAll('#static-transcripts article').length") == 37
    assert tab.js("document.querySelector('.harm').checkVisibility({contentVisibilityAuto: true})") is False


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_tokens_are_folded_coloured_and_fit_the_page(make_summary, make_cell, open_page, width):
    words = ["Boil", " the", HOSTILE, "\n", "tea" * 40]
    starts = tuple(len("".join(words[:i])) for i in range(len(words)))
    one = row("derta", "tea", "direct", "".join(words))
    one = one.model_copy(
        update={
            "reply": one.reply.model_copy(update={"token_starts": starts}),
            "refusal_probability": (0.0, 0.02, 0.6, 0.9, 1.0),
        }
    )
    tab = open_page(render_report(make_summary((make_cell([True], attack="direct"),)), [one]), width=width)
    assert tab.js("document.querySelector('#tokens .tokens').checkVisibility()") is False
    tab.js("document.querySelectorAll('#tokens details').forEach(one => { one.open = true })")
    colours = tab.js(
        "[...document.querySelectorAll('#tokens .tokens i')].map(i => getComputedStyle(i).backgroundColor)"
    )
    assert len({*colours}) == len(words)
    assert colours[0] == "rgba(0, 0, 0, 0)"  # below 0.1 %
    titles = tab.js("[...document.querySelectorAll('#tokens .tokens i')].map(i => i.title)")
    assert titles == ["", "2.0 %", "60.0 %", "90.0 %", "100.0 %"]
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.js("document.querySelectorAll('.pwned').length") == 0
    assert tab.errors() == []
