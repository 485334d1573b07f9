"""What the console draws: pictures that hold what they were given, whatever that is, as text."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from guardrail.console import plots
from guardrail.console.prose import rendered
from guardrail.console.svg import Drawing, element

HOSTILE = "</title><script>alert(1)</script>\"'&"
WORDS = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=40)


@given(WORDS)
def test_text_and_attributes_come_out_as_they_went_in(words: str) -> None:
    found = ET.fromstring(element("text", words, element("tspan", words), class_=words, text_anchor="end"))
    assert ((found.text or ""), found[0].text or "", found.get("class"), found.get("text-anchor")) == (words, words, words, "end")


def test_a_picture_says_what_it_shows() -> None:
    drawing = Drawing("name", HOSTILE, HOSTILE)
    drawing.text(1, 2.345, HOSTILE)
    found = ET.fromstring(drawing.markup())
    assert [child.text for child in found] == [HOSTILE] * 3
    assert found.get("aria-labelledby") == "name-title name-desc"
    assert found[2].get("y") == "2.35"


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20), st.floats(0, 1))
def test_every_bar_lies_within_its_picture(counts: list[int], threshold: float) -> None:
    series = {"pass": counts, "block": counts[::-1]}
    starts = [float(each) for each in range(len(counts))]
    for drawn in (
        plots.histogram("a", "b", counts, {"threshold": threshold}),
        plots.histogram("a", "b", counts, {"threshold of prompts": threshold, "threshold of answers": 1 - threshold}),
        plots.traffic("a", "b", starts, series),
        plots.score_bar("a", "b", threshold, threshold),
        plots.waterfall("a", "b", [("what", threshold, count / 7) for count in counts]),
        plots.latency("a", "b", starts, {"p50": [None if count % 2 else count / 3 for count in counts]}),
    ):
        found = ET.fromstring(drawn)
        _, _, width, height = map(float, str(found.get("viewBox")).split())
        for bar in found.iter("rect"):
            x, y = float(bar.attrib["x"]), float(bar.attrib["y"])
            assert -0.01 <= x <= x + float(bar.attrib["width"]) <= width + 0.01
            assert -0.01 <= y <= y + float(bar.attrib["height"]) <= height + 1.01


@pytest.mark.parametrize(("value", "most"), [(0, 1), (1, 1), (1.2, 2), (3, 4), (4.5, 5), (7, 10), (99, 100), (101, 200), (0.3, 1)])
def test_a_scale_ends_at_a_round_number(value: float, most: float) -> None:
    assert plots.ceiling(value) == most


def test_a_policys_markdown_brings_no_markup_of_its_own() -> None:
    drawn = rendered(
        "# Policy\n\n<b onclick=x>&</b> <script>1</script>\n\n[a](javascript:alert(1)) ![i](http://e.example/i.png)\n\n- **Bold**: text"
    )
    assert isinstance(drawn, Markup)
    assert "<h2>Policy</h2>" in drawn
    assert "<strong>Bold</strong>" in drawn
    assert "<b" not in drawn
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert 'href="javascript' not in drawn
