"""Elements: what is text stays text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rapids_slr.reports.markup import Html, el, join
from tests.reports.conftest import Page


def test_text_is_escaped_and_html_is_kept():
    inner = el("b", "1 < 2 & so on")
    assert inner == "<b>1 &lt; 2 &amp; so on</b>"
    assert el("p", inner, None, [" and ", 3, 0.5]) == f"<p>{inner} and 30.5</p>"


def test_attributes_are_named_as_in_html():
    assert el("i", class_="a b", aria_label='"x"', title=None) == '<i class="a b" aria-label="&quot;x&quot;"></i>'
    assert el("rect", x=1.23456, stroke_width=2.0) == '<rect x="1.23" stroke-width="2"></rect>'
    assert el("img", src="data:,", alt="") == '<img src="data:," alt="">'


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), st.text(max_size=20))
def test_no_text_opens_a_tag(text, other):
    page = Page(join([el("p", text, title=other), Html("<br>")]))
    assert [tag for tag, _ in page.tags] == ["p", "br"]
