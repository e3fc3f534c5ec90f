"""[pure] The rest of a stream from another engine, made to follow what the client already has.

An engine that was asked to begin anew says first what the client has: that is left out as long as it agrees,
character for character. One that was asked to go on says only the rest, so there is little to agree on. Something
new may pass only when all that was sent before, of its choice, was met again; anything else is a disagreement, and
nothing that follows it reaches the client. Events are written anew with the id, time and model of the first ones.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.resume_sent import (
    ARGUMENTS,
    CONTENT,
    NAME,
    REASONING,
    REASONING_PARTS,
    TEXT,
    Channel,
    Json,
    Said,
    Sent,
    Unclear,
    calls_of,
    choices_of,
    delta_of,
    events_in,
    parts_of,
)
from gateway.sse import DONE, Untold, data_of, split_events

_ECHO: Final = 32
"""Characters: longer than a token, so one event that begins with so much that was sent repeats it."""


class Disagrees(Untold):
    """Another engine's answer does not follow from what the client has."""


class Met:
    """What is still to be met again of one choice, before anything new may pass."""

    __slots__ = ("at", "texts")

    def __init__(self, texts: dict[Channel, str]) -> None:
        self.texts = texts
        self.at = dict.fromkeys(texts, 0)

    @property
    def all(self) -> bool:
        """Whether nothing is left."""
        return all(self.at[channel] == len(text) for channel, text in self.texts.items())

    def skip(self, channel: Channel, text: str) -> int:
        """How many characters of a piece the client has already. Raises Disagrees."""
        wanted, at = self.texts.get(channel, ""), self.at.get(channel, 0)
        common = min(len(text), len(wanted) - at)
        if common and not wanted.startswith(text[:common], at):
            raise Disagrees("another engine's answer differs from what was already sent")
        if common:
            self.at[channel] = at + common
        if common < len(text) and not self.all:
            raise Disagrees("another engine's answer leaves out some of what was already sent")
        return common


class Splice:
    """Events of another engine on their way to the client; `sent` grows by what passes.

    `goes_on` is what an engine continues that was asked to; None for one that begins anew. `note` is a comment
    that precedes the first event that passes.
    """

    def __init__(self, sent: Sent, *, goes_on: str | None, note: bytes) -> None:
        self._sent = sent
        self._goes_on = goes_on
        self._note = note
        self._before = sent.tokens if goes_on is not None else 0
        self._met = {index: Met(self._to_meet(said)) for index, said in sent.choices.items()}
        self._first = goes_on is not None
        self.joined = False
        """Whether anything has passed."""

    def __call__(self, block: bytes) -> bytes:
        """Whole events as the client gets them; may be empty. Raises Disagrees."""
        size, joined = self._sent.size, self.joined
        try:
            passed = b"".join([self._written(each) for event in events_in(block) if (each := self._event(event))])
        except (Unclear, Disagrees) as error:
            # What was written down of this block will not pass: from here nobody can go on.
            self._sent.clear = self._sent.size == size and self.joined is joined
            if isinstance(error, Disagrees):
                raise
            raise Disagrees("another engine's answer cannot be compared with what was already sent") from None
        return passed + DONE if b"[DONE]" in block and _ends(block) else passed

    def _to_meet(self, said: Said) -> dict[Channel, str]:
        texts = {channel: said.text(channel) for channel in said.pieces}
        if self._goes_on is None:
            return texts
        return {channel: text[len(self._goes_on) :] for channel, text in texts.items()}

    def _written(self, event: Json) -> bytes:
        event.update(self._sent.head)
        note, self._note = self._note, b""
        self.joined = True
        return note + b"data: " + msgspec.json.encode(event) + b"\n\n"

    def _event(self, event: Json) -> Json | None:
        choices = choices_of(event)
        size = self._sent.size
        kept = [choice for choice in choices if self._choice(choice)]
        self._sent.tokens += self._sent.size > size
        if choices and not kept:
            return None
        usage = event.get("usage")
        if isinstance(usage, dict) and self._before:
            event["usage"] = _of_the_whole(usage, self._before)
        event["choices"] = kept
        return event

    def _choice(self, choice: Json) -> bool:
        """Take out what the client has; whether anything is left."""
        said = self._sent.said(choice)
        met = self._met.setdefault(choice.get("index", 0), Met({}))
        skipped: dict[Channel, int] = {}
        new = False
        for part in parts_of(choice):
            if part.channel[0] in REASONING and (self._goes_on is not None or self._sent.hides):
                self._reasons()
                continue
            if self._first and part.channel == CONTENT:
                self._look_for_echo(part.text, met)
            skipped[part.channel] = count = met.skip(part.channel, part.text)
            if count < len(part.text):
                if said.finished:
                    raise Disagrees("another engine's answer goes on where the one before had ended")
                self._sent.add(said, part._replace(text=part.text[count:]))
                new = True
        finish = bool(choice.get("finish_reason"))
        if finish and not met.all:
            raise Disagrees("another engine's answer is shorter than what was already sent")
        if any(skipped.values()) and new and choice.get("logprobs"):
            raise Disagrees("another engine's tokens end elsewhere, and their probabilities were asked for")
        _take_out(choice, skipped, role=said.role)
        finish = finish and not said.finished
        said.finished = said.finished or finish
        said.role = said.role or (new and "role" in delta_of(choice))
        return new or finish

    def _reasons(self) -> None:
        if self._goes_on is not None:
            raise Disagrees("an engine that was to go on began to reason")

    def _look_for_echo(self, text: str, met: Met) -> None:
        """Some engines repeat what they continue, in their first event. Then all of it must be met again."""
        self._first = False
        begun = self._goes_on or ""
        if not text.startswith(begun):
            return
        if len(begun) < _ECHO:
            raise Disagrees("whether an engine repeats what it continues cannot be told")
        met.texts[CONTENT] = begun + met.texts.get(CONTENT, "")
        met.at.setdefault(CONTENT, 0)


def _ends(block: bytes) -> bool:
    return any(data_of(event) == b"[DONE]" for event in split_events(block))


def _take_out(choice: Json, skipped: dict[Channel, int], *, role: bool) -> None:
    """Leave in a choice only what the client does not have; `role` is whether it has the role."""
    if "text" in choice:
        choice["text"] = (choice["text"] or "")[skipped.get(TEXT, 0) :]
    if "delta" in choice:
        rest = {key: _rest(key, value, skipped) for key, value in delta_of(choice).items()}
        if role:
            rest.pop("role", None)
        emptied = {"tool_calls", *(key for key, at in skipped if not at)}
        choice["delta"] = {key: value for key, value in rest.items() if value or key not in emptied}


def _rest(key: str, value: Any, skipped: dict[Channel, int]) -> Any:
    """A field of a delta without what the client has."""
    if key == "tool_calls" and value:
        return _calls(calls_of(value), skipped)
    if key == REASONING_PARTS:  # they begin with what the client has, and cannot be cut
        return None if skipped.get(("reasoning", 0)) else value
    return value[skipped[key, 0] :] if (key, 0) in skipped else value


def _calls(calls: list[Json], skipped: dict[Channel, int]) -> list[Json]:
    """Tool calls without what the client has; the id of a call that it has stays the one that it knows."""
    kept = []
    for call in calls:
        index, function = call["index"], call["function"]
        named = skipped.get((NAME, index), 0)
        rest: dict[str, Any] = dict(function)
        if named:
            rest.pop("name")
        if done := skipped.get((ARGUMENTS, index), 0):
            rest["arguments"] = rest["arguments"][done:]
        if rest.get("name") or rest.get("arguments"):
            kept.append({"index": index, "function": rest} if named else {**call, "function": rest})
    return kept


def _of_the_whole(usage: Json, before: int) -> Json:
    """Usage of an engine that went on: what it read of the answer counts as answer. The total is its own."""
    asked, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(asked) is not int or type(said) is not int:
        return usage
    moved = min(before, asked)
    return {**usage, "prompt_tokens": asked - moved, "completion_tokens": said + moved}
