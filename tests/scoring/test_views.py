"""Which text a view is."""

from tamis.scoring.views import text

MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": " one "},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]


def test_views_leave_out_what_rows_share() -> None:
    assert text(MESSAGES, "user") == "one\n\nthree"
    assert text(MESSAGES, "answer") == "two\n\nfour"
    assert text(MESSAGES, "all") == "one\n\ntwo\n\nthree\n\nfour"
    assert text(MESSAGES[:1], "all") == ""


def test_context_puts_it_in() -> None:
    found = text(MESSAGES, "all", context=True, tools=[{"name": "f"}])
    expected = ['[{"name":"f"}]', "be kind", "one", '[{"function":{"name":"f"}}]', "42"]
    assert found.split("\n\n") == [*expected, "two", "three", "four"]
    assert '"function"' not in text(MESSAGES, "user", context=True)
