"""The OpenAI surface: what each route takes and how it becomes a request to an engine."""
