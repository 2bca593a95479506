"""The page of gates: without a browser, and as Chromium draws it."""

from __future__ import annotations

import json
import random

import pytest

from engram.pictures.gate_page import gates_html
from engram.pictures.page import THEMES, marked
from support import readings
from support.chromium import needs_chromium
from support.contrast import contrast, lowest, over
from support.markup import Markup

VIEWS = [
    {"what": what, "layer": layer, "stream": stream, "stretch": stretch}
    for what, layer, stream, stretch in (
        ("gate", "", "", False),
        ("gate", "", "", True),
        ("gate", "6", "", False),
        ("gate", "1", "2", True),
        ("norm", "", "", False),
        ("norm", "6", "3", False),
        ("change", "", "", False),
    )
]


def mixed(seed=0):
    """A reading with every hostile token among ordinary ones, in a random order."""
    texts = [*readings.HOSTILE, *readings.cut(readings.TEXT)]
    random.Random(seed).shuffle(texts)
    return readings.gates(texts, stats=True, telling=8)


def choose(tab, view):
    """Set the controls, and wait until the tokens are drawn again."""
    tab.evaluate(
        f"(view => {{ for (const id in view) {{ const it = document.getElementById(id);"
        f"it.type === 'checkbox' ? it.checked = view[id] : it.value = view[id]; }}"
        "document.getElementById('what').dispatchEvent(new Event('change')) })"
        f"({json.dumps(view)})"
    )
    tab.rest()


def bars(tab, position):
    """Opacity of each bar under a token, from the top."""
    image = tab.evaluate(
        f"getComputedStyle(document.querySelectorAll('#tokens bdi')[{position}], '::after')"
        ".backgroundImage"
    )
    stops = image.split("rgb")[1:]
    shown = [it for it in stops if not it.startswith("a(0, 0, 0, 0)")]
    # Each bar is two stops: "rgba(r, g, b, a) from, rgba(r, g, b, a) to"; without a, it is 1.
    return [float(it[2:].split(")")[0].split(",")[3]) if it[0] == "a" else 1.0 for it in shown][::2]


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_every_shade(theme):
    colors = THEMES[theme]
    for hue in ("heat", "cool"):
        shades = [over(colors[hue], level / 255, colors["paper"]) for level in range(256)]
        assert min(contrast(colors["ink"], shade) for shade in shades) >= 4.5
        # In greyscale, too, more is further from the paper.
        steps = [contrast(colors["paper"], shade) for shade in shades]
        assert steps == sorted(steps)
        assert steps[-1] > 2.5
    for text in ("soft", "accent", "ink", "focus"):
        for ground in ("paper", "panel"):
            assert contrast(colors[text], colors[ground]) >= 4.5


def test_all_tokens_are_there_without_a_browser():
    reading = readings.gates()
    page = gates_html(reading)
    found = Markup(page)
    expected = [marked(token["text"]) for token in reading["tokens"]]
    assert found.bdis[: len(expected)] == expected
    assert "·Great" in expected
    assert "⏎" in expected
    assert found.tags.count("br") == 2
    assert "://" not in page
    assert [it.get("type") for it in found.scripts] == ["application/json", None]
    assert len(json.loads(found.data)["tokens"]) == len(expected)


def test_the_page_says_the_mean_change_and_the_command():
    reading = readings.gates()
    counted = [it for it in reading["tokens"] if it["loss"] is not None]
    change = sum(it["loss_off"] - it["loss"] for it in counted) / len(counted)
    command = 'engram gates smollm2-memory "Only Alexander ..." --html gates.html'
    text = Markup(gates_html(reading, command=command)).text
    assert f"{change:.3f} lower than with it off" in text
    assert command in text
    assert "8 gates at each of 77 tokens" in text


def test_hostile_text_stays_text():
    reading = readings.gates(list(readings.HOSTILE), telling=8)
    reading |= {"target": "<b>x</b>"}
    page = gates_html(reading, command="engram gates '<script>'")
    page.encode()  # half surrogates are shown by their number
    found = Markup(page)
    assert {"img", "b"}.isdisjoint(found.tags)
    assert found.tags.count("script") == 2
    assert "<img src=x onerror=alert(1)>".replace(" ", "·") in found.bdis
    for letter in "\u202e\u200f\u2066\x1b\x07\x00\u2028":
        assert letter not in page
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩" in found.bdis
    assert found.bdis[readings.HOSTILE.index("")] == "∅"
    assert found.bdis[readings.HOSTILE.index("\u0301")] == "◌\u0301"
    assert "</" not in found.data


def test_a_text_from_right_to_left_begins_at_the_right():
    assert 'dir="rtl"' in gates_html(readings.gates(["1 ", "שלום", " abc"]))
    assert 'dir="ltr"' in gates_html(readings.gates(["1 ", "abc", "שלום"]))
    assert 'dir="ltr"' in gates_html(readings.gates(["1", "\n"]))


def test_a_list_of_telling_ngrams_alone_is_a_page():
    reading = {**readings.gates(telling=5), "tokens": []}
    found = Markup(gates_html(reading))
    assert found.scripts == []
    assert found.tags.count("tr") == 12
    assert marked(reading["telling"][0]["text"]) in found.bdis


def test_one_token_one_gate():
    reading = readings.gates(["a"], layers=(0,), streams=1, orders=())
    Markup(gates_html(reading))
    reading["tokens"][0]["gates"][0] |= {"gate": None, "write_norm": None}
    Markup(gates_html(reading))
    reading["tokens"][0]["gates"] = []
    Markup(gates_html(reading))


@needs_chromium
def test_all_gates_are_shown_and_none_is_picked(show):
    reading = readings.gates()
    tab = show(gates_html(reading))
    told = tab.evaluate("document.getElementById('told').textContent")
    assert "over 8 of 8, none picked" in told
    assert "layer 1, stream 0, 1, 2, 3; layer 6, stream 0, 1, 2, 3" in told
    for position in (0, 4, 30):
        gates = [it["gate"] for it in reading["tokens"][position]["gates"]]
        assert bars(tab, position) == pytest.approx(gates, abs=0.006)
        color = tab.evaluate(
            f"getComputedStyle(document.querySelectorAll('#tokens bdi')[{position}])"
            ".backgroundColor"
        )
        shown = float(color[5:-1].split(",")[3])
        assert shown == pytest.approx(sum(gates) / len(gates), abs=0.006)


@needs_chromium
def test_a_gate_a_norm_and_the_change_of_the_loss_can_be_chosen(show):
    reading = readings.gates()
    tab = show(gates_html(reading))
    token = reading["tokens"][4]
    (gate,) = [it for it in token["gates"] if (it["layer_id"], it["stream"]) == (6, 2)]
    choose(tab, {"what": "gate", "layer": "6", "stream": "2"})
    assert bars(tab, 4) == pytest.approx([gate["gate"]], abs=0.006)
    choose(tab, {"what": "norm", "layer": "1", "stream": ""})
    norms = sorted(
        it["write_norm"]
        for read in reading["tokens"]
        for it in read["gates"]
        if it["layer_id"] == 1
    )
    top = norms[int(0.99 * (len(norms) - 1))]
    here = [min(1, it["write_norm"] / top) for it in token["gates"] if it["layer_id"] == 1]
    assert bars(tab, 4) == pytest.approx(here, abs=0.006)
    choose(tab, {"what": "change", "layer": "", "stream": ""})
    assert bars(tab, 4) == []
    kinds = tab.evaluate("[...document.querySelectorAll('#tokens bdi')].map(it => it.className)")
    for read, kind in zip(reading["tokens"], kinds, strict=True):
        change = 0 if read["loss"] is None else read["loss"] - read["loss_off"]
        assert kind in ("", "helps" if change < 0 else "harms")
    assert {"helps", "harms"} <= set(kinds)
    assert tab.evaluate("document.getElementById('layer').disabled")


@needs_chromium
def test_small_norms_are_more_than_zero(show):
    reading = readings.gates()
    for read in reading["tokens"]:
        for gate in read["gates"]:
            gate["write_norm"] *= 1e-3
    tab = show(gates_html(reading))
    choose(tab, {"what": "norm", "layer": "", "stream": ""})
    ticks = tab.evaluate("[...document.querySelectorAll('.ramp b')].map(it => it.textContent)")
    assert ticks[0] == "0.000"
    assert len(set(ticks)) == 5
    assert float(ticks[2]) == pytest.approx(float(ticks[4]) / 2, rel=0.01)
    tab.hover("#tokens bdi:nth-of-type(5)")
    tab.wait_for("document.querySelector('#more table')")
    norms = tab.evaluate(
        "[...document.querySelector('#more table').tBodies[0].rows]"
        ".map(it => +it.cells[3].innerText)"
    )
    expected = [gate["write_norm"] for gate in reading["tokens"][4]["gates"]]
    assert norms == pytest.approx(expected, rel=0.01)


@needs_chromium
def test_the_mouse_shows_the_ngrams_of_a_token(show):
    reading = readings.gates(stats=True)
    tab = show(gates_html(reading))
    tab.hover("#tokens bdi:nth-of-type(5)")
    tab.wait_for("document.querySelector('#more table')")
    token, panel = reading["tokens"][4], tab.evaluate("document.getElementById('panel').innerText")
    assert token["text"] == " Great"
    assert "2-gram ·the·Great" in panel
    assert f"id {token['id']}" in panel
    assert f"Loss {token['loss']:.3f}, with the memory off {token['loss_off']:.3f}" in panel
    for gram in token["ngrams"]:
        for rows in gram["rows"]:
            assert all(str(row) in panel for row in rows["rows"])
    for gate in token["gates"]:
        assert f"{gate['gate']:.3f}" in panel
        assert f"{gate['write_norm']:.3f}" in panel
    head = reading["collisions"]["layers"][0]["heads"][0]
    row = token["ngrams"][0]["rows"][0]["rows"][0]
    shared = head["collisions"] / head["distinct_ngrams"]
    assert f"{row}\t{head['load']:.0%}\t{shared:.0%}" in panel
    assert "stats.json" in panel
    assert tab.evaluate("document.getElementById('now').getAttribute('aria-live')") == "polite"


@needs_chromium
def test_the_keyboard_walks_through_the_tokens(show):
    reading = readings.gates()
    tab = show(gates_html(reading))
    focused = "[...document.querySelectorAll('#tokens bdi')].indexOf(document.activeElement)"
    for _ in range(12):
        tab.press("Tab")
        if tab.evaluate(focused) >= 0:
            break
    assert tab.evaluate(focused) == 0
    assert "Only" in tab.evaluate("document.getElementById('now').textContent")
    tab.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert tab.evaluate(focused) == 2
    name = tab.evaluate("document.getElementById('more').innerText")
    assert "".join(marked(it["text"]) for it in reading["tokens"][1:3]) in name
    tab.press("End")
    assert tab.evaluate(focused) == len(reading["tokens"]) - 1
    tab.press("ArrowRight")
    assert tab.evaluate(focused) == len(reading["tokens"]) - 1
    tab.press("Home")
    tops = "[...document.querySelectorAll('#tokens bdi')].map(it => it.offsetTop)"
    lines = tab.evaluate(tops)
    tab.press("ArrowDown")
    assert lines[tab.evaluate(focused)] == sorted(set(lines))[1]
    tab.press("ArrowUp")
    assert tab.evaluate(focused) == 0
    # One of the tokens is in the order of tabs, the rest are not.
    tabs = "[...document.querySelectorAll('#tokens bdi')].filter(it => it.tabIndex === 0).length"
    assert tab.evaluate(tabs) == 1
    tab.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "panel"


@needs_chromium
def test_arrow_keys_follow_the_direction_of_the_text(show):
    tab = show(gates_html(readings.gates(["שלום", " עולם", " טוב"])))
    tab.evaluate("document.querySelector('#tokens bdi').focus()")
    tab.press("ArrowLeft")
    assert "עולם" in tab.evaluate("document.getElementById('now').textContent")
    left, right = tab.evaluate(
        "[...document.querySelectorAll('#tokens bdi')].slice(0, 2).map(it => it.offsetLeft)"
    )
    assert left > right


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_every_view_of_hostile_texts_can_be_read(show, scheme, width):
    tab = show(gates_html(mixed()), width, scheme)
    tab.evaluate("document.querySelector('details').open = true")
    tab.wait_for("document.querySelector('details table')")
    tab.evaluate("document.querySelectorAll('#tokens bdi')[7].focus()")
    for view in VIEWS:
        choose(tab, view)
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws the tokens far away, too
        value, text, count = lowest(tab)
        assert value >= 4.5, (view, text)
        assert count > 2 * len(readings.HOSTILE)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, view
    assert tab.evaluate("document.querySelectorAll('img, #tokens script').length") == 0
    last = len(readings.cut(readings.TEXT)) + len(readings.HOSTILE)
    for position in range(last):
        tab.evaluate(f"document.querySelectorAll('#tokens bdi')[{position}].focus()")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert f"Token {last} of {last}" in tab.evaluate("document.getElementById('now').textContent")


@needs_chromium
def test_paper_is_light_and_shows_every_token(show):
    tab = show(gates_html(mixed()), scheme="dark")
    tab.look(scheme="dark", media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.getElementById('panel')).display") == "none"
    assert lowest(tab)[0] >= 4.5


@needs_chromium
def test_without_scripts_there_are_tokens_and_tables(show):
    reading = readings.gates(telling=3)
    tab = show(gates_html(reading), scripts=False)
    assert not tab.evaluate("document.querySelector('.choice').checkVisibility()")
    assert not tab.evaluate("document.getElementById('panel').checkVisibility()")
    alpha = tab.evaluate(
        "getComputedStyle(document.querySelectorAll('#tokens bdi')[4]).backgroundColor"
    )
    gates = [it["gate"] for it in reading["tokens"][4]["gates"]]
    assert float(alpha[5:-1].split(",")[3]) == pytest.approx(sum(gates) / 8, abs=0.006)
    assert tab.evaluate("document.querySelectorAll('details tbody tr').length") == len(
        reading["tokens"]
    )


@needs_chromium
def test_a_long_text_costs_what_is_seen_of_it(show):
    words = readings.cut(readings.TEXT)
    reading = readings.gates((words * (10_000 // len(words) + 1))[:10_000])
    tab = show(gates_html(reading))
    painted = tab.evaluate(
        "[...document.querySelectorAll('#tokens bdi')].filter(it => it.style.getPropertyValue("
        "'--bars')).length"
    )
    assert 0 < painted < 5_000
    tab.evaluate("scrollTo(0, document.body.scrollHeight / 4)")
    tab.wait_for(
        "[...document.querySelectorAll('#tokens bdi')].filter(it => it.style.getPropertyValue("
        f"'--bars')).length > {painted}"
    )
    tab.evaluate("document.querySelectorAll('#tokens bdi')[9999].focus()")
    assert "Token 10000 of 10000" in tab.evaluate("document.getElementById('now').textContent")
