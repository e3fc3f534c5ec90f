from __future__ import annotations

import io
import wave

import pytest

from geniehive.benchmarks.workloads import Chat, Clip, Embed, builtin, chosen, tone
from geniehive.errors import NotFound
from geniehive.resources import Operation


def test_there_is_a_workload_for_each_thing_that_is_measured():
    every = builtin()
    assert {"chat.short_reasoning", "chat.concise_support", "chat.long_prompt", "chat.streaming"} <= every.keys()
    assert {each.operation for each in every.values()} == {
        Operation.CHAT,
        Operation.EMBEDDINGS,
        Operation.TRANSCRIPTION,
    }
    for name, each in every.items():
        assert name == each.name
        assert name.startswith(each.operation.value)
        kind = {Operation.CHAT: Chat, Operation.EMBEDDINGS: Embed, Operation.TRANSCRIPTION: Clip}[each.operation]
        assert each.cases
        assert all(isinstance(case, kind) for case in (*each.cases, each.warmup))


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("chat.short_reasoning", ["9", "5", "5", "Clara", "391", "Saturday", "80", "42"]),
        (
            "chat.concise_support",
            [
                "3 to 5 working days.",
                "Yes, returns are free within 30 days with the receipt.",
                "Yes, tools have a warranty of 2 years.",
                "No: we are open Monday to Saturday.",
                "It costs 4.90 euros.",
                "Write to help@birch.example.",
            ],
        ),
        ("chat.long_prompt", ["amber-417", "cobalt-962", "The code is ivory-305.", "umber-748"]),
        (
            "chat.streaming",
            [" ".join(map(str, range(a, b + 1))) for a, b in ((1, 60), (101, 160), (201, 260), (31, 90))],
        ),
    ],
)
def test_the_right_answer_is_right_and_noise_is_not(name, answers):
    cases = builtin()[name].cases
    assert [case.judge(answer) for case, answer in zip(cases, answers, strict=True)] == [1.0] * len(cases)
    assert all(case.judge("the the of and walrus") < 1 for case in cases)


def test_no_long_prompt_begins_as_another_does():
    prompts = [case.user for case in builtin()["chat.long_prompt"].cases]
    assert len({prompt[:20] for prompt in prompts}) == len(prompts)
    assert all(2500 < len(prompt.split()) < 4000 for prompt in prompts)


def test_a_tone_is_a_wav_file_of_its_length():
    with wave.open(io.BytesIO(tone(0.5))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 16_000, 8_000)


def test_workloads_are_chosen_by_name_or_by_what_their_names_begin_with():
    assert [each.name for each in chosen(["chat.streaming"])] == ["chat.streaming"]
    assert [each.name for each in chosen(["embeddings.", "embeddings.similarity"])] == ["embeddings.similarity"]
    assert len(chosen(["chat."])) == 4
    with pytest.raises(NotFound, match=r"no workload 'chat'; there are: chat\.short_reasoning"):
        chosen(["chat"])
