// Node's own fetch, told by lines of JSON on stdin what to ask; tells what came by lines of JSON on
// stdout, each with the number of its request. Ends with its stdin.

import { createInterface } from "node:readline";
import { EventSourceParserStream } from "eventsource-parser/stream";

const running = new Map();

function tell(number, kind, value) {
  process.stdout.write(JSON.stringify({ number, kind, value }) + "\n");
}

function describe(response) {
  return { status: response.status, headers: Object.fromEntries(response.headers) };
}

async function ask({ number, url, method, headers, body }) {
  const response = await fetch(url, { method, headers, body });
  const bytes = Buffer.from(await response.arrayBuffer());
  tell(number, "answer", { ...describe(response), body: bytes.toString("base64") });
}

async function stream({ number, url, headers }) {
  const stopping = new AbortController();
  running.set(number, stopping);
  const response = await fetch(url, { headers, signal: stopping.signal });
  tell(number, "head", describe(response));
  const events = response.body
    .pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))
    .pipeThrough(new EventSourceParserStream());
  for await (const event of events) {
    tell(number, "event", event);
  }
  tell(number, "end", null);
}

const work = { ask, stream, stop: async ({ number }) => running.get(number).abort() };

createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line);
  work[request.kind](request).catch((error) => {
    tell(request.number, "failure", `${error} ${error.cause ?? ""}`);
  });
});
