"""What a client has of a cut stream, how the rest is asked for, and how it is joined: without any network."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.resume_ask import ways
from gateway.resume_sent import ARGUMENTS, NAME, Sent, Transcript
from gateway.resume_splice import Disagrees, Splice
from gateway.sse import DONE, data_of, split_events
from geniehive.resources import Operation
from tests.gateway.misbehaving import event

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
LONG = "It was a dark and stormy night; the rain fell in torrents."
texts = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12)


def chat(number, *, finish=None, index=0, usage=None, **delta):
    """An event of the `number`th engine."""
    made = {"id": f"c{number}", "created": number, "model": f"m{number}", "object": "chat.completion.chunk"}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return event({**made, "choices": [choice], **({} if usage is None else {"usage": usage})})


def call(number, arguments, *, name=None, index=0, **more):
    function = {"arguments": arguments, **({} if name is None else {"name": name})}
    first = {} if name is None else {"id": f"call-{number}", "type": "function"}
    return chat(number, tool_calls=[{"index": index, **first, "function": function}], **more)


def usage(number, asked, said):
    told = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    return event({"id": f"c{number}", "choices": [], "usage": told})


def stream(number, pieces, finish="stop"):
    return [chat(number, role="assistant", content=""), *(chat(number, content=each) for each in pieces)] + (
        [chat(number, finish=finish)] if finish else []
    )


def sent(*events, hides=True, limit=10**6):
    transcript = Transcript(limit, hides=hides)
    for each in events:
        transcript.keep(each)
    return transcript.sent()


def join(had, *events, goes_on=None, note=b""):
    splice = Splice(had, goes_on=goes_on, note=note)
    return b"".join(splice(each) for each in events)


def datas(block):
    return [json.loads(data) for each in split_events(block) if (data := data_of(each)) not in {None, b"[DONE]"}]


def deltas(block, index=0):
    return [each["delta"] for data in datas(block) for each in data["choices"] if each["index"] == index]


def content(block, key="content"):
    return "".join(each.get(key) or "" for each in deltas(block))


@given(pieces=texts, again=st.randoms(use_true_random=False), cut=st.integers(0, 12))
def test_the_same_answer_in_other_pieces_goes_on_exactly_where_it_was_cut(pieces, again, cut):
    whole, begun = "".join(pieces), pieces[:cut]
    others, at = [], 0
    while at < len(whole):
        size = again.randint(1, 5)
        others.append(whole[at : at + size])
        at += size
    before = [chat(1, role="assistant", content=""), *(chat(1, content=each) for each in begun)]
    rest = join(sent(*before), *stream(2, others), DONE)
    assert "".join(begun) + content(rest) == whole
    assert rest.count(b'"finish_reason":"stop"') == 1
    assert rest.endswith(DONE)
    assert b"role" not in rest
    assert {(each["id"], each["created"], each["model"]) for each in datas(rest)} == {("c1", 1, "m1")}


@given(pieces=texts, cut=st.integers(1, 12), other=st.text(min_size=1, max_size=30))
def test_nothing_of_an_answer_that_differs_ever_passes(pieces, cut, other):
    begun = "".join(pieces[:cut])
    splice = Splice(sent(*stream(1, pieces[:cut], None)), goes_on=None, note=b"")
    passed = b""
    try:
        for each in (chat(2, content=other), chat(2, finish="stop")):
            passed += splice(each)
    except Disagrees:
        assert begun != other
        assert content(passed) == "" or other.startswith(begun)
    else:
        assert begun + content(passed) == other


def test_a_shorter_answer_is_a_disagreement_even_if_all_of_it_agrees():
    with pytest.raises(Disagrees, match="shorter"):
        join(sent(*stream(1, ["hello"], None)), *stream(2, ["hell"]))


def test_an_answer_that_goes_on_from_what_it_was_given_is_joined_with_its_usage_put_right():
    had = sent(*stream(1, ["one ", "two "], None))
    asked = json.loads(ways(Operation.CHAT, "vllm", json.dumps({**ASK, "max_tokens": 10}).encode(), had)[0].body)
    assert asked["messages"] == [*ASK["messages"], {"role": "assistant", "content": "one two"}]
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
    assert asked["max_tokens"] == 8
    rest = join(had, *stream(2, [" three", " four"]), usage(2, 22, 2), DONE, goes_on="one two", note=b": resumed\n\n")
    assert rest.startswith(b": resumed\n\ndata: ")
    assert content(rest) == "three four"
    assert datas(rest)[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}


def test_an_engine_that_does_not_go_on_with_the_space_that_was_sent_disagrees():
    with pytest.raises(Disagrees):
        join(sent(*stream(1, ["one "], None)), *stream(2, ["two"]), goes_on="one")


def test_an_engine_that_repeats_what_it_goes_on_from_is_understood():
    had = sent(*stream(1, [LONG, " "], None))
    assert content(join(had, *stream(2, [LONG + " But", " not"]), goes_on=LONG)) == "But not"


def test_where_a_repetition_cannot_be_told_from_an_answer_nothing_passes():
    with pytest.raises(Disagrees, match="cannot be told"):
        join(sent(*stream(1, ["ha"], None)), *stream(2, ["ha", "ha"]), goes_on="ha")


def test_an_engine_that_begins_to_reason_instead_of_going_on_is_refused():
    with pytest.raises(Disagrees, match="reason"):
        join(sent(*stream(1, ["so"], None)), chat(2, reasoning_content="hm"), goes_on="so")


def test_hidden_reasoning_need_not_agree_and_shown_reasoning_must():
    before = [chat(1, reasoning_content="hm"), chat(1, content="a")]
    after = [chat(2, reasoning_content="well"), chat(2, content="ab"), chat(2, finish="stop")]
    assert content(join(sent(*before), *after)) == "b"
    with pytest.raises(Disagrees):
        join(sent(*before, hides=False), *after)
    same = [chat(2, reasoning_content="h"), chat(2, reasoning_content="m"), *after[1:]]
    assert content(join(sent(*before, hides=False), *same)) == "b"


def test_more_reasoning_after_the_answer_had_begun_is_a_disagreement():
    before = [chat(1, reasoning_content="hm"), chat(1, content="a")]
    with pytest.raises(Disagrees, match="leaves out"):
        join(sent(*before, hides=False), chat(2, reasoning_content="hmm"), chat(2, content="ab"))


def test_a_tool_call_goes_on_under_the_id_that_the_client_knows():
    had = sent(call(1, "", name="weather", role="assistant"), call(1, '{"ci'))
    assert had.choices[0].text((NAME, 0)) == "weather"
    assert had.choices[0].text((ARGUMENTS, 0)) == '{"ci'
    again = [call(2, "", name="weather", role="assistant"), call(2, '{"city":'), call(2, '"Rome"}')]
    rest = join(had, *again, call(2, "{}", name="time", index=1), chat(2, finish="tool_calls"))
    calls = [each for delta in deltas(rest) for each in delta.get("tool_calls", ())]
    assert calls == [
        {"index": 0, "function": {"arguments": 'ty":'}},
        {"index": 0, "function": {"arguments": '"Rome"}'}},
        {"index": 1, "id": "call-2", "type": "function", "function": {"arguments": "{}", "name": "time"}},
    ]


@pytest.mark.parametrize("again", [call(2, "", name="time"), call(2, '{"x', name="weather"), chat(2, content="It is")])
def test_another_tool_call_or_none_is_a_disagreement(again):
    had = sent(call(1, "", name="weather"), call(1, '{"ci'))
    with pytest.raises(Disagrees):
        join(had, again, chat(2, finish="stop"))


def test_each_of_several_choices_must_agree_and_a_finished_one_stays_finished():
    had = sent(chat(1, content="a"), chat(1, content="x", index=1), chat(1, index=1, finish="stop"))
    again = [chat(2, content="ab"), chat(2, content="x", index=1), chat(2, index=1, finish="stop")]
    rest = join(had, *again, chat(2, finish="stop"))
    assert content(rest) == "b"
    assert deltas(rest, 1) == []
    assert rest.count(b'"finish_reason":"stop"') == 1
    with pytest.raises(Disagrees, match="goes on"):
        join(sent(chat(1, content="x"), chat(1, finish="stop")), chat(2, content="xy"))


def test_probabilities_are_never_those_of_half_a_token():
    def told(number, text):
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}
        return event({"id": f"c{number}", "choices": [choice]})

    assert content(join(sent(told(1, "ab")), told(2, "a"), told(2, "b"), told(2, "c"))) == "c"
    with pytest.raises(Disagrees, match="probabilities"):
        join(sent(told(1, "ab")), told(2, "abc"))


def test_a_completion_goes_on_behind_its_prompt():
    def text(number, piece, finish=None):
        choice = {"index": 0, "text": piece, "logprobs": None, "finish_reason": finish}
        return event({"id": f"c{number}", "choices": [choice]})

    had = sent(text(1, "one "), text(1, "two "))
    body = json.dumps({"model": "m", "prompt": "Count: ", "max_tokens": 5}).encode()
    better, repeat = ways(Operation.COMPLETION, "llamacpp", body, had)
    assert json.loads(better.body) == {"model": "m", "prompt": "Count: one two ", "max_tokens": 3}
    assert repeat.body == body
    rest = join(had, text(2, "three"), text(2, "", "stop"), goes_on=better.goes_on)
    assert "".join(each["choices"][0]["text"] for each in datas(rest)) == "three"
    again = join(sent(text(1, "one ")), text(2, "one t"), text(2, "wo", "length"))
    assert "".join(each["choices"][0]["text"] for each in datas(again)) == "two"


NO_PREFILL = {
    "another engine": ({}, "ollama"),
    "tools": ({"tools": [{"type": "function"}]}, "vllm"),
    "a schema": ({"response_format": {"type": "json_schema"}}, "vllm"),
    "a grammar": ({"grammar": 'root ::= "x"'}, "llamacpp"),
    "several choices": ({"n": 2}, "vllm"),
    "thinking": ({"chat_template_kwargs": {"enable_thinking": True}}, "llamacpp"),
    "a limit that is reached": ({"max_tokens": 1}, "vllm"),
    "a prefill of the client's own": ({"messages": [{"role": "assistant", "content": "So"}]}, "llamacpp"),
    "no messages": ({"messages": "hi"}, "vllm"),
}


@pytest.mark.parametrize(("fields", "protocol"), NO_PREFILL.values(), ids=NO_PREFILL)
def test_what_cannot_be_continued_is_only_repeated(fields, protocol):
    body = json.dumps({**ASK, **fields}).encode()
    found = ways(Operation.CHAT, protocol, body, sent(*stream(1, ["hello"], None)))
    assert [each.how for each in found] == ["repeat"]
    assert found[0].body == body


@pytest.mark.parametrize(
    "events",
    [
        [chat(1, content="<think>hm")],
        [chat(1, reasoning_content="hm"), chat(1, content="a")],
        [chat(1, content="  ")],
        [call(1, "", name="weather")],
        [chat(1, refusal="no")],
        [chat(1, content="a"), chat(1, content="b", index=1)],
    ],
)
def test_only_an_answer_of_mere_text_is_continued(events):
    assert [each.how for each in ways(Operation.CHAT, "vllm", json.dumps(ASK).encode(), sent(*events))] == ["repeat"]


@pytest.mark.parametrize(
    "odd",
    [
        b"data: [1]\n\n",
        event({"choices": [{"delta": {"audio": {"data": "x"}}}]}),
        event({"choices": [{"delta": {"function_call": {"name": "f"}}}]}),
        event({"choices": [{"delta": {"tool_calls": [{"index": 0, "type": "custom", "custom": {}}]}}]}),
        event({"choices": [{"delta": {"content": ["a"]}}]}),
        event({"choices": [{"index": "x", "delta": {"content": "a"}}]}),
        event({"type": "response.output_text.delta", "delta": "a"}),
    ],
)
def test_what_is_not_understood_is_not_resumed(odd):
    assert sent(odd) is None
    with pytest.raises(Disagrees):
        join(sent(*stream(1, ["a"], None)), odd)


def test_a_transcript_is_bounded_in_text_and_in_bytes():
    transcript = Transcript(10_000, hides=True)
    for _ in range(9_000):
        transcript.keep(chat(1, content="x"))
        assert transcript._size <= 70_000
    assert transcript.sent().size == 9_000
    assert transcript.sent().tokens == 9_000
    for _ in range(2_000):
        transcript.keep(chat(1, content="x"))
    assert transcript.sent() is None
    assert transcript._size < 200_000


@given(pieces=texts, spaced=st.booleans(), key=st.sampled_from(["content", "reasoning_content"]), hides=st.booleans())
def test_events_that_are_alike_are_read_as_those_that_are_not(pieces, spaced, key, hides):
    events = [chat(1, role="assistant", content=""), *(chat(1, **{key: each}) for each in pieces), chat(1, content="x")]
    if spaced:
        events = [b"data: " + json.dumps(json.loads(data_of(each))).encode() + b"\n\n" for each in events]
    whole, single = sent(*events, hides=hides), Sent(hides=hides)
    for each in events:
        single._frame = None
        single.absorb(each)
    for found in (whole, single):
        assert found.choices[0].text((key, 0)) == (
            "" if hides and key != "content" else "".join(pieces) + ("x" if key == "content" else "")
        )
    assert (whole.tokens, whole.size, whole.thought) == (single.tokens, single.size, single.thought)


def test_many_events_that_are_alike_are_read_at_once_and_one_that_is_not_is_not_missed():
    transcript, whole = Transcript(10**6, hides=True), ""
    for number in range(2000):
        text = 'a "quoted" word\n' if number == 1500 else f"é{number} "
        transcript.keep(chat(1, content=text))
        whole += text
    assert transcript.sent().choices[0].text(("content", 0)) == whole
    assert transcript.sent().tokens == 2000


def test_a_stream_that_is_cut_twice_goes_on_from_both():
    had = sent(*stream(1, ["one "], None))
    join(had, *stream(2, ["one ", "two "], None))
    assert had.choices[0].text(("content", 0)) == "one two "
    assert content(join(had, *stream(3, ["one two three"]))) == "three"


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_break_it(junk):
    found = Sent(hides=True)
    found.absorb(junk)
    with suppress(Disagrees):
        Splice(found, goes_on=None, note=b"")(junk)
    ways(Operation.CHAT, "vllm", junk, found)
    ways(Operation.COMPLETION, "vllm", msgspec.json.encode({"prompt": "x"}), found)
