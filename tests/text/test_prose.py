"""The held-out text: prose, deterministic, and long enough."""

from __future__ import annotations

from tilepress.evaluate import held_out_english


def test_it_is_prose_without_markup_and_the_same_each_time() -> None:
    text = held_out_english()
    paragraphs = text.split("\n\n")
    assert text == held_out_english()
    assert len(text) > 100_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert all("\n" not in paragraph and len(paragraph.split()) >= 12 for paragraph in paragraphs)
    assert ">>>" not in text
    assert "::=" not in text
    assert "****" not in text
    assert "Assert statements are a convenient way to insert debugging assertions into a program" in text
