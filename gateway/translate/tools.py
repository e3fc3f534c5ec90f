"""[pure] Tools of the Responses dialect as functions of a chat completion, and their calls back again.

A namespace's functions become functions of their own name, or with the namespace before it where two have the same.
A custom tool, which takes free text, becomes a function with the one text `input`. Tools that run at OpenAI are
refused; `web_search` and `image_generation` are left out, since agents offer them to every model and work without.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from gateway.translate.parts import Json, list_at, object_at, refuse, text_at

LEFT_OUT: Final = ("web_search", "web_search_preview", "web_search_preview_2025_03_11", "image_generation")
"""Tools that are offered, not demanded: without them an agent still works."""
_HOSTED: Final = "is a tool that runs at OpenAI; no engine here has it. Give tools of type function"
_TEXT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The input of the tool, as it is."}},
    "required": ["input"],
    "additionalProperties": False,
}


class Origin(NamedTuple):
    """What a function of the chat completion is in the Responses dialect."""

    name: str
    namespace: str = ""
    custom: bool = False


class Toolbox:
    """The tools of one request."""

    def __init__(self, given: Any) -> None:
        self._origins: dict[str, Origin] = {}
        self._names: dict[tuple[str, str], str] = {}
        self.functions: list[Json] = []
        """As a chat completion takes them."""
        self.left_out: list[str] = []
        """Types of tools that were left out."""
        for at, tool in enumerate(list_at(given, "tools")):
            self._add(object_at(tool, f"tools.{at}"), f"tools.{at}")

    def name_of(self, name: str, namespace: str = "") -> str:
        """The function's name for a tool of a request's history."""
        return self._names.get((namespace, name)) or (f"{namespace}__{name}" if namespace else name)

    def origin(self, function: str) -> Origin:
        """What a function that the model called is."""
        return self._origins.get(function) or Origin(function)

    def only(self, wanted: Any) -> list[Json]:
        """The functions that `allowed_tools` names."""
        names = set()
        for at, tool in enumerate(list_at(wanted, "tool_choice.tools")):
            tool = object_at(tool, f"tool_choice.tools.{at}")  # noqa: PLW2901 - the same, checked
            if tool.get("type") not in LEFT_OUT:
                names.add(self.name_of(text_at(tool.get("name"), f"tool_choice.tools.{at}.name")))
        return [each for each in self.functions if each["function"]["name"] in names]

    def _add(self, tool: Json, path: str, namespace: str = "") -> None:
        kind = tool.get("type")
        if kind == "function":
            self._function(tool, path, namespace, tool.get("parameters") or {"type": "object", "properties": {}})
        elif kind == "custom":
            self._function(tool, path, namespace, _TEXT, custom=True)
        elif kind == "namespace" and not namespace:
            inside = text_at(tool.get("name"), f"{path}.name")
            for at, each in enumerate(list_at(tool.get("tools"), f"{path}.tools")):
                self._add(object_at(each, f"{path}.tools.{at}"), f"{path}.tools.{at}", inside)
        elif kind in LEFT_OUT:
            self.left_out.append(kind)
        else:
            raise refuse(path, f"({ascii(kind)[:64]}) {_HOSTED}")

    def _function(self, tool: Json, path: str, namespace: str, parameters: Any, *, custom: bool = False) -> None:
        name = text_at(tool.get("name"), f"{path}.name")
        flat = name if name not in self._origins else f"{namespace or 'tool'}__{name}"
        if flat in self._origins:
            raise refuse(f"{path}.name", f"is given twice: {ascii(name)[:64]}")
        self._origins[flat] = Origin(name, namespace, custom)
        self._names[namespace, name] = flat
        function: Json = {"name": flat}
        if description := _description(tool, custom=custom):
            function["description"] = description
        function["parameters"] = parameters
        if isinstance(tool.get("strict"), bool):
            function["strict"] = tool["strict"]
        self.functions.append({"type": "function", "function": function})


def _description(tool: Json, *, custom: bool) -> str:
    """A custom tool's grammar cannot be enforced here, so the model is told of it."""
    said = tool.get("description") if isinstance(tool.get("description"), str) else ""
    shape = tool.get("format")
    if custom and isinstance(shape, dict) and isinstance(shape.get("definition"), str):
        return f"{said}\n\nThe input must follow this {shape.get('syntax', '')} grammar:\n{shape['definition']}".strip()
    return said or ""


def custom_arguments(text: str) -> str:
    """The arguments of the function for a custom tool's input."""
    return msgspec.json.encode({"input": text}).decode()


def custom_input(arguments: str) -> str:
    """A custom tool's input in the arguments of its function; what is no such object is the input itself."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    found = value.get("input") if isinstance(value, dict) else None
    return found if isinstance(found, str) else arguments
