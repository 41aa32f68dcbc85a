// What OpenAI's own JavaScript client hears of the server at this address, as one line of JSON.
import OpenAI from "openai";

const [url, session] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const tools = [
  { type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } },
];
const heard = {};

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return [error.constructor.name, error.status ?? null, error.code, error.param];
  }
}

async function chunks(body, options) {
  const all = [];
  for await (const chunk of await client.chat.completions.create({ messages, stream: true, ...body }, options)) {
    all.push(chunk);
  }
  return all;
}

heard.whole = await client.chat.completions.create({ model: "tiny", messages });
heard.chunks = await chunks({ model: "tiny-unicode", stream_options: { include_usage: true } });
heard.thinking = await chunks({ model: "tiny-think" });
const stream = client.chat.completions.stream({ model: "tiny-tools", messages, tools });
heard.calling = await stream.finalChatCompletion();
const calling = heard.calling.choices[0].message;
const result = { role: "tool", tool_call_id: calling.tool_calls[0].id, content: "sunny" };
heard.answered = await client.chat.completions.create({
  model: "tiny-tools",
  tools,
  messages: [...messages, calling, result],
});
heard.models = (await client.models.list()).data.map((model) => model.id);
heard.model = (await client.models.retrieve("tiny:latest")).id;
heard.remembered = await chunks({ model: "tiny" }, { headers: { "X-Session-Id": session } });
heard.errors = {
  model: await failure(client.chat.completions.create({ model: "no-such", messages })),
  streamed: await failure(chunks({ model: "no-such" })),
  field: await failure(client.chat.completions.create({ model: "tiny", messages, n: 2 })),
  session: await failure(chunks({ model: "tiny" }, { headers: { "X-Session-Id": "00000000ff" } })),
};
const begun = await client.chat.completions.create({ model: "tiny", messages, stream: true });
heard.broken = await failure(
  (async () => {
    for await (const chunk of begun) heard.before = chunk.choices[0].delta.content;
  })(),
);
console.log(JSON.stringify(heard));
