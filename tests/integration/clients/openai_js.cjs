// The openai SDK for JavaScript against a gateway: node openai_js.cjs NODE_MODULES BASE_URL MODEL → one line of JSON.
const { createRequire } = require("node:module");
const [modules, baseURL, model] = process.argv.slice(2);
const { OpenAI, NotFoundError } = createRequire(modules + "/here.js")("openai");
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello 👋" }];
const same = { model, temperature: 0, seed: 1, max_tokens: 8 };

async function main() {
  const found = {};
  found.models = (await client.models.list()).data.map((each) => each.id);
  found.model = (await client.models.retrieve(model)).id;
  const chat = await client.chat.completions.create({ ...same, messages });
  found.chat = [chat.choices[0].message.content, chat.choices[0].finish_reason, chat.usage.completion_tokens];
  let text = "", usage = null, reason = null;
  const options = { include_usage: true };
  for await (const chunk of await client.chat.completions.create({ ...same, messages, stream: true, stream_options: options })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    reason = chunk.choices[0]?.finish_reason ?? reason;
    usage = chunk.usage ?? usage;
  }
  found.stream = [text, reason, usage.completion_tokens];
  const plain = await client.completions.create({ ...same, prompt: "Once" });
  found.completion = plain.choices[0].text.length > 0;
  let pieces = 0;
  for await (const chunk of await client.completions.create({ ...same, prompt: "Once", stream: true })) {
    pieces += chunk.choices.length;
  }
  found.pieces = pieces;
  const vectors = await client.embeddings.create({ model, input: ["one", "two"] });
  found.embeddings = vectors.data.map((each) => each.embedding.length);
  const two = await client.chat.completions.create({ ...same, messages, n: 2, logprobs: true, top_logprobs: 2 });
  found.two = [two.choices.length, two.choices[0].logprobs.content[0].top_logprobs.length];
  try {
    await client.chat.completions.create({ model: "no-such-model", messages });
  } catch (error) {
    found.error = [error instanceof NotFoundError, error.code, Boolean(error.requestID)];
  }
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
