"""What agents change at each turn, made steady; what users say is never touched."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from geniehive.routing.steady import BILLING, CLOCK, TOOLS, steady

BILLED = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch={};"
AGENT = "You are an agent."


def messages(*texts):
    return [{"role": "system" if at == 0 else "user", "content": text} for at, text in enumerate(texts)]


def clocked(text):
    found = steady({"messages": messages(text, "hi")})
    return found.put["messages"][0]["content"] if found.put else text


def test_claude_codes_billing_block_goes_and_the_rest_stays():
    rest = {"type": "text", "text": AGENT, "cache_control": {"type": "ephemeral"}}
    bodies = [{"system": [{"type": "text", "text": BILLED.format(mark)}, rest]} for mark in ("fa690", "0aaa9")]
    one, two = map(steady, bodies)
    assert one.put == two.put == {"system": [rest]}
    assert one.done.what == (BILLING,)
    assert one.done.kept_bytes == len(AGENT)


def test_a_billing_line_in_front_of_a_text_goes_as_well():
    assert steady({"system": BILLED.format("x") + "\n" + AGENT}).put == {"system": AGENT}
    assert clocked(BILLED.format("x") + "\n" + AGENT) == AGENT


def test_the_time_of_day_goes_and_the_date_stays():
    assert clocked("Current time: 2026-11-23 08:12:44") == "Current time: 2026-11-23"
    assert (
        clocked("The current date and time is 2026-11-23T08:12:44Z.\nBe.")
        == "The current date and time is 2026-11-23.\nBe."
    )
    assert clocked("Today is Monday, 2026-11-23, 08:12 UTC") == "Today is Monday, 2026-11-23"
    assert clocked("Now: 2026-11-23 at 8:12 PM +01:00 there").startswith("Now: 2026-11-23")
    assert clocked("Be brief.\nCurrent time: 08:12:44 (UTC)\nBe kind.") == "Be brief.\n\nBe kind."


def test_times_that_are_not_now_stay():
    for text in (
        "The shop opens at 08:00.",
        "Logs begin 2026-11-23 08:12:44.",
        "Current date: 2026-11-23",
        "Ratio 3:20",
    ):
        assert clocked(text) == text


def test_tools_come_in_the_order_of_their_names_in_every_dialect():
    flat = [{"name": name, "input_schema": {}} for name in "ba"]
    nested = [{"type": "function", "function": {"name": name}} for name in "ba"]
    for tools in (flat, nested):
        found = steady({"tools": tools, "messages": messages(AGENT, "hi")})
        assert found.put == {"tools": tools[::-1]}
        assert found.done.what == (TOOLS,)
        assert found.done.kept_bytes > len(AGENT)
    assert steady({"tools": flat[::-1]}).done is None


def test_what_the_user_says_is_never_touched():
    said = "Current time: 2026-11-23 08:12:44\n" + BILLED.format("x")
    for fields in (
        {"messages": [{"role": "user", "content": said}]},
        {"input": said},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": said}]}]},
    ):
        assert steady(fields) == ({}, None)


def test_responses_have_their_instructions_and_developer_messages_steadied():
    said = "Current time: 2026-11-23 08:12"
    developer = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": said}]}
    found = steady({"instructions": said, "input": [developer, {"role": "user", "content": "hi"}]})
    assert found.put["instructions"] == "Current time: 2026-11-23"
    assert found.put["input"][0]["content"][0]["text"] == "Current time: 2026-11-23"
    assert found.put["input"][1] == {"role": "user", "content": "hi"}
    assert found.done.what == (CLOCK,)


TEXTS = st.text(st.sampled_from("ab12:- \n.é") | st.characters(codec="utf-8"), max_size=40)


BLOCKS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=3)
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXTS}), max_size=3)
TOOLS_GIVEN = st.lists(st.fixed_dictionaries({"name": TEXTS}), max_size=3)


@given(st.fixed_dictionaries({}, optional={"system": TEXTS | BLOCKS, "messages": TURNS, "tools": TOOLS_GIVEN}))
def test_once_is_enough_and_nothing_given_is_changed(fields):
    before = copy.deepcopy(fields)
    found = steady(fields)
    assert fields == before
    assert steady({**fields, **found.put}) == ({}, None)
