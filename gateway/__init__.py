"""The gateway: one OpenAI endpoint, routed to the best engine for each call."""
