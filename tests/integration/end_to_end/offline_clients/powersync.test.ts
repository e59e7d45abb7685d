/** PowerSync's upload queue: `upload` empties the queue whatever the service refuses. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { beforeEach, test } from "node:test";
import { Network, newUser, stored } from "./devices";
import { upload } from "./powersync";
import type { Result } from "./todo-api";

type Entry = Parameters<typeof queue>[0];

let network: Network;
let refused: Result[];

beforeEach(async () => {
  await newUser();
  network = new Network();
  refused = [];
});

/** The upload queue of PowerSync's database: a batch stays in the queue until it is complete. */
function queue(...crud: { op: "PUT" | "PATCH" | "DELETE"; id: string; opData?: Record<string, unknown> }[]) {
  return {
    crud,
    async getCrudBatch(limit: number) {
      const batch = crud.slice(0, limit);
      return batch.length ? { crud: batch, complete: async () => void crud.splice(0, batch.length) } : null;
    },
  };
}

function put(id: string, title: string): Entry {
  return { op: "PUT", id, opData: { title, completed: 0, tags: '["home"]' } };
}

function send(database: ReturnType<typeof queue>) {
  return upload(database, network.api, (result) => refused.push(result));
}

test("several changes of one task are applied in order", async () => {
  const id = randomUUID();
  const patch: Entry = { op: "PATCH", id, opData: { completed: 1 } };
  await send(queue(put(id, "Buy milk"), patch, { ...patch, opData: { title: "Buy oat milk" } }));
  const { title, completed, tags } = (await stored())[id]!;
  assert.deepEqual({ title, completed, tags }, { title: "Buy oat milk", completed: true, tags: ["home"] });
});

test("refused changes are reported and the queue goes on", async () => {
  const [invalid, missing, valid] = [randomUUID(), randomUUID(), randomUUID()];
  const database = queue(
    put(invalid, " "),
    { op: "PATCH", id: missing, opData: { title: "x" } },
    { op: "DELETE", id: missing },
    put(valid, "Buy milk"),
  );
  await send(database);
  assert.deepEqual(refused.map(({ id, status }) => [id, status]), [[invalid, 422], [missing, 404]]);
  assert.deepEqual(Object.keys(await stored()), [valid]);
  assert.deepEqual(database.crud, []);
});

test("a lost answer keeps the queue and a repetition duplicates nothing", async () => {
  const id = randomUUID();
  const database = queue(put(id, "Buy milk"));
  network.loses = "answer";
  await assert.rejects(send(database), TypeError);
  assert.equal(database.crud.length, 1);
  await send(database);
  assert.equal(Object.keys(await stored()).length, 1);
  assert.deepEqual([database.crud, refused], [[], []]);
});
