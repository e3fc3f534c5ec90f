"""[pure] One dialect of chat into another: OpenAI's Responses and Anthropic's Messages over chat completions.

For engines that have chat completions alone. A request is translated whole; an answer whole, or event by event: each
event of the engine becomes those that can be written once it is there, and none waits for a later one.
"""
