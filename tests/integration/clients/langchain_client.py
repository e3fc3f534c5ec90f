"""LangChain against a gateway: python langchain_client.py BASE_URL MODEL → one line of JSON."""

import json
import sys

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

base_url, model = sys.argv[1:]
same = {"base_url": base_url, "api_key": "none", "model": model, "temperature": 0, "max_retries": 0}
chat = ChatOpenAI(**same, max_completion_tokens=8, seed=1)
question = [HumanMessage("Say hello 👋")]
answer = chat.invoke(question)
pieces = list(chat.stream(question, stream_usage=True))
whole = pieces[0]
for piece in pieces[1:]:
    whole += piece
vectors = OpenAIEmbeddings(
    base_url=base_url, api_key="none", model=model, check_embedding_ctx_length=False, max_retries=0
).embed_documents(["one", "two"])
sys.stdout.write(
    json.dumps(
        {
            "chat": [answer.content, answer.response_metadata["finish_reason"], answer.usage_metadata["output_tokens"]],
            "stream": [whole.content, whole.response_metadata["finish_reason"], whole.usage_metadata["output_tokens"]],
            "completion": len(OpenAI(**same, max_tokens=8).invoke("Once")) > 0,
            "embeddings": [len(vector) for vector in vectors],
        }
    )
)
