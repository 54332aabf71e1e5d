from __future__ import annotations

from services.llm.offline.elements import MOST_ELEMENTS, elements


def test_elements_have_a_tag_a_name_a_text_and_a_place() -> None:
    text = '前<资料 名称="上一章">\n雨停了。\n</资料>后<任务>\n续写\n</任务>'
    first, second = elements(text)
    assert (first.tag, first.name, first.text) == ("资料", "上一章", "雨停了。")
    assert (second.tag, second.name, second.text) == ("任务", "", "续写")
    assert text[first.start : first.end] == '<资料 名称="上一章">\n雨停了。\n</资料>'
    assert text[second.start : second.end].endswith("</任务>")


def test_of_one_inside_another_the_outer_one_counts_and_one_without_an_end_is_none() -> None:
    assert [one.text for one in elements("<甲><乙>内</乙></甲>")] == ["<乙>内</乙>"]
    assert [one.tag for one in elements("<甲>开<乙>内</乙>")] == ["乙"]


def test_no_more_than_a_bounded_number_is_looked_for() -> None:
    assert len(list(elements("<a>x</a>" * (MOST_ELEMENTS + 5)))) == MOST_ELEMENTS
