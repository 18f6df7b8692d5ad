"""The page and the picture stand alone, show every run and column, and take any name."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from tests.unit.drift.histories import column, empty, report, run, two_months

from batchinfer.drift import chart_page, chart_svg, history_rows, number, share, summarise
from batchinfer.drift._axis import run_axis


class Page(HTMLParser):
    """The page's tags, headings and tips."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def of(self, style: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if attributes.get("class") == style]


def test_the_page_shows_each_run_of_each_column_and_marks_the_drifted() -> None:
    page = Page(chart_page(summarise(two_months())))
    assert page.texts["h3"] == ["p_late", "temp", "dest", "calm"]
    assert len(page.of("hit")) == 6 * (1 + 4)
    assert len(page.of("dot drifted")) == 1 + 4  # and one in the legend
    assert len(page.of("bar alarm")) == 3
    assert len(page.of("bar")) == 3
    tips = page.texts["title"]
    assert any("2013-07-10: temp\nPSI 14, limit 5, drifted" in tip for tip in tips)
    assert any("2013-07-10: alarm" in tip and "above the limit: temp, dest" in tip for tip in tips)
    assert any("2013-01-08: no alarm" in tip for tip in tips)


def test_the_page_loads_nothing() -> None:
    html = chart_page(summarise(two_months()))
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"url\(|@import|\bsrc=|\bhref=", html)
    assert "default-src 'none'" in html


def test_the_page_takes_names_that_are_markup() -> None:
    wicked = "<script>alert('x')</script>&\"$body ${title}"
    table = history_rows(run(0, ds=wicked), report({wicked: column(0.5)}))
    html = chart_page(summarise(table))
    assert Page(html).texts["h3"] == [wicked]
    assert html.count("<script>") == 1
    ET.fromstring(chart_svg(summarise(table)))


def test_the_page_and_the_picture_take_what_is_missing_or_huge() -> None:
    rows = [
        history_rows(
            run(0), report({"a": column(None, None, mean=None, null_rate=None, reference_null_rate=None)})
        ),
        history_rows(
            run(1), report({"a": column(1e300, 0.0, mean=-1e300, reference_mean=1e-12), "b": column(0.0)})
        ),
        history_rows(run(2), report({"b": column(0.0, 0.0)})),
    ]
    found = summarise(pa.concat_tables(rows))
    for text in (chart_page(found), chart_svg(found)):
        assert "nan" not in text.lower().replace("tenan", "")
        assert not re.search(r"\binf\b", text)
    Page(chart_page(found))
    ET.fromstring(chart_svg(found))


def test_a_history_without_runs_says_so() -> None:
    assert "No run has measured drift yet" in chart_page(summarise(empty()))
    assert "no run has measured drift yet" in chart_svg(summarise(empty()))


def test_a_long_history_shows_its_newest_runs() -> None:
    rows = [history_rows(run(n, part=str(n)), report({"a": column(0.1)})) for n in range(130)]
    page = Page(chart_page(summarise(pa.concat_tables(rows))))
    assert len(page.of("hit")) == 120 * 2
    assert any("the newest 120 of 130 runs, the latest 129" in text for text in page.texts["p"])


def test_the_picture_is_the_same_bytes_and_tells_january_from_july() -> None:
    svg = chart_svg(summarise(two_months()))
    assert svg == chart_svg(summarise(two_months().take(list(reversed(range(two_months().num_rows))))))
    texts = [e.text for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert "no alarm in 3 runs" in texts
    assert "alarm in all 3 runs" in texts
    assert texts.count("temp") == 1
    assert {"8 Jan", "10 Jul"} <= set(texts)


def test_days_that_are_missing_break_the_axis() -> None:
    axis = run_axis(summarise(two_months()).runs, 0, 700)
    assert axis.breaks == {3}
    assert [list(stretch) for stretch in axis.stretches()] == [[0, 1, 2], [3, 4, 5]]
    assert axis.middles[3] - axis.middles[2] == pytest.approx(2 * axis.slot)


def test_runs_are_named_by_what_tells_them_apart() -> None:
    def labels(*parameters: dict[str, str]) -> tuple[str, ...]:
        rows = [history_rows(run(n, **p), report({"a": column(0.1)})) for n, p in enumerate(parameters)]
        return run_axis(summarise(pa.concat_tables(rows)).runs, 0, 100).labels

    assert labels({"ds": "2026-01-31", "region": "eu"}, {"ds": "2026-02-01", "region": "eu"}) == (
        "31 Jan",
        "1 Feb",
    )
    assert labels({"hour": "1", "region": "eu"}, {"hour": "2", "region": "us"}) == ("1 eu", "2 us")
    assert labels({}, {}) == ("2026-02-01 04:00", "2026-02-01 04:01")
    assert labels({"region": "eu"}) == ("eu",)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.00012, "1e-04"),
        (0.1234, "0.123"),
        (14.36, "14.4"),
        (1023.7, "1,024"),
        (None, "none"),
    ],
)
def test_numbers_show_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_small_share_is_not_called_none() -> None:
    assert [share(v) for v in (0.0, 0.0001, 0.05, 1.0, None)] == ["0%", "<0.1%", "5.0%", "100%", "none"]
