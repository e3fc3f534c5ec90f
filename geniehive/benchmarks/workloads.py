"""[pure] The built-in workloads: small, fixed sets of requests, the same for every model.

Names begin with the operation. They stay what they are once published, since samples of different
months are compared; a changed set gets a new name.
"""

from __future__ import annotations

import array
import io
import math
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from geniehive.benchmarks import judge
from geniehive.errors import NotFound
from geniehive.resources import Operation


@dataclass(frozen=True, kw_only=True)
class Chat:
    """One question. `judge` rates the answer; the answer is streamed, so that its first token can be timed."""

    user: str
    judge: partial[float]
    system: str = ""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Three texts, of which `near` means the same as `anchor` and `far` does not."""

    anchor: str
    near: str
    far: str


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A recording, as a WAV file; `said` is what is said in it, empty where that is not known."""

    wav: bytes
    said: str = ""


Case = Chat | Embed | Clip


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A set of requests of one operation; a run takes them in turn."""

    name: str
    operation: Operation
    about: str
    cases: Sequence[Case]
    max_tokens: int = 128
    """Most tokens that a chat answer may have."""

    @property
    def warmup(self) -> Case:
        """What is asked before anything counts: it loads the model, and leaves no case's prompt in a cache."""
        first = self.cases[0]
        return (
            Chat(user="Say OK.", judge=partial(judge.facts, needed=(), most_words=9))
            if isinstance(first, Chat)
            else first
        )


_REASONING = "Think briefly if you must, then give the answer alone on the last line."
_PUZZLES: Final = (
    ("A farmer has 17 sheep. All but 9 run away. How many sheep are left?", "9"),
    ("A bat and a ball cost 110 cents. The bat costs 100 cents more than the ball. How many cents is the ball?", "5"),
    ("Five machines make five parts in five minutes. How many minutes do 100 machines need for 100 parts?", "5"),
    ("Anna is taller than Ben, and Ben is taller than Clara. Who is the shortest of the three?", "Clara"),
    ("What is 23 times 17?", "391"),
    ("If today is Wednesday, which day of the week is it in 10 days?", "Saturday"),
    ("A train goes 60 km in 45 minutes. What is its speed in km per hour?", "80"),
    ("What is the next number: 2, 6, 12, 20, 30, ...?", "42"),
)

_SHOP = (
    "You answer customers of the shop Birch & Bolt in at most 40 words, with what is written here and nothing else. "
    "Parcels take 3 to 5 working days. Returns are free within 30 days, with the receipt. Tools have a warranty of 2 "
    "years. The shop is open Monday to Saturday from 9 to 18. Orders over 50 euros ship free, others cost 4.90 euros. "
    "Support: help@birch.example."
)
_TICKETS: Final = (
    ("How long will my parcel take?", ("3", "5", "days")),
    ("I bought a saw three weeks ago and do not like it. Can I send it back?", ("30 days", "free|return|returns")),
    ("My drill broke after 18 months. Is that still covered?", ("warranty|covered", "2 years|two years")),
    ("Are you open on Sunday?", ("Monday", "Saturday")),
    ("What is the shipping on an order of 30 euros?", ("4.90|4 90",)),
    ("Where do I write to if something is missing?", ("help birch example",)),
)

_TRIPLES: Final = (
    ("How do I reset my password?", "I forgot my login and need a new one.", "The recipe needs two eggs and flour."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Interest rates rose by half a percent."),
    ("Invoice for March is overdue.", "The bill from last month has not been paid.", "Our team won the final match."),
    ("The server ran out of disk space.", "No storage is left on the machine.", "She plays the violin beautifully."),
    ("Book a flight to Lisbon.", "Reserve a plane ticket to Portugal's capital.", "Water boils at 100 degrees."),
    ("The patient has a high fever.", "The sick man's temperature is raised.", "The bridge was painted green."),
)

_NOTES = (
    "On day {day} the weather at the station was calm, the pump in hall {hall} ran for {hours} hours, and the crew "
    "of {crew} logged {count} readings without anything worth a remark."
)
_CODES: Final = ("amber-417", "cobalt-962", "ivory-305", "umber-748")
_COUNTS: Final = ((1, 60), (101, 160), (201, 260), (31, 90))


def _long_text(code: str, days: int) -> str:
    """A dull log of about 33 words a day, with one line that matters past its middle.

    Each log begins differently, so that no prompt finds another one's prefix in an engine's cache.
    """
    lines = [
        _NOTES.format(day=day, hall=day % 7 + 1, hours=day * 5 % 23 + 1, crew=day % 5 + 3, count=day * 37 % 900)
        for day in range(1, days + 1)
    ]
    lines.insert(days * 5 // 8, f"The code of the safe was changed to {code} on this day.")
    return "\n".join([f"Log {code[::-1]} of the station.", *lines])


def tone(seconds: float, hertz: float = 440.0, rate: int = 16_000) -> bytes:
    """A WAV file (mono, 16 bit) of a soft tone that comes and goes four times a second."""
    samples = array.array(
        "h",
        (
            int(6000 * math.sin(2 * math.pi * hertz * n / rate) * (0.5 + 0.5 * math.sin(8 * math.pi * n / rate)))
            for n in range(int(seconds * rate))
        ),
    )
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return out.getvalue()


def transcription(clips: Sequence[Clip]) -> Workload:
    """The transcription workload over somebody's own recordings: with what is said in them it is judged too."""
    return Workload(
        name="transcription.short_clip",
        operation=Operation.TRANSCRIPTION,
        about="a recording of a few seconds; judged by word error rate where the words are known",
        cases=clips,
    )


def builtin() -> Mapping[str, Workload]:
    """Every built-in workload by name, in the order in which they run."""
    puzzles = tuple(Chat(user=q, system=_REASONING, judge=partial(judge.result, expected=a)) for q, a in _PUZZLES)
    tickets = tuple(
        Chat(user=question, system=_SHOP, judge=partial(judge.facts, needed=needed, most_words=45))
        for question, needed in _TICKETS
    )
    needles = tuple(
        Chat(
            user=f"{_long_text(code, 90)}\n\nWhat is the code of the safe? Answer with the code alone.",
            judge=partial(judge.facts, needed=(code,), most_words=20),
        )
        for code in _CODES
    )
    counts = tuple(
        Chat(
            user=f"Count from {first} to {last}, separated by spaces, with nothing else.",
            judge=partial(judge.sequence, first=first, last=last),
        )
        for first, last in _COUNTS
    )
    workloads = (
        Workload(
            name="chat.short_reasoning",
            operation=Operation.CHAT,
            about="short puzzles with one right answer",
            cases=puzzles,
            max_tokens=256,
        ),
        Workload(
            name="chat.concise_support",
            operation=Operation.CHAT,
            about="a customer's question, to be answered from given facts in at most 40 words",
            cases=tickets,
        ),
        Workload(
            name="chat.long_prompt",
            operation=Operation.CHAT,
            about="about 4,000 tokens of prompt with one fact to find: prefill",
            cases=needles,
            max_tokens=32,
        ),
        Workload(
            name="chat.streaming",
            operation=Operation.CHAT,
            about="a long answer, streamed: decoding",
            cases=counts,
            max_tokens=256,
        ),
        Workload(
            name="embeddings.similarity",
            operation=Operation.EMBEDDINGS,
            about="three texts a request; the two that mean the same must be closer",
            cases=tuple(Embed(anchor=anchor, near=near, far=far) for anchor, near, far in _TRIPLES),
        ),
        transcription(tuple(Clip(wav=tone(5.0, hertz)) for hertz in (330.0, 440.0, 550.0, 660.0))),
    )
    return {each.name: each for each in workloads}


def chosen(names: Sequence[str]) -> tuple[Workload, ...]:
    """Built-in workloads by name; a name that ends in a dot stands for all that begin so. Raises NotFound."""
    known = builtin()
    found: dict[str, Workload] = {}
    for name in names:
        matching = [each for key, each in known.items() if key == name or (name.endswith(".") and key.startswith(name))]
        if not matching:
            raise NotFound(f"no workload {name!r}; there are: {', '.join(known)}", param="workload")
        found |= {each.name: each for each in matching}
    return tuple(found.values())
