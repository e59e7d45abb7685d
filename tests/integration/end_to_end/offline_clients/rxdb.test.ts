/** Two devices of one user with RxDB. Each scenario ends with both copies equal to the server's tasks. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, test } from "node:test";
import { type RxCollection, createRxDatabase } from "rxdb";
import { getRxStorageMemory } from "rxdb/plugins/storage-memory";
import { wrappedValidateAjvStorage } from "rxdb/plugins/validate-ajv";
import { tokensIssued } from "./auth-client";
import {
  Network,
  byId,
  changeOnServer,
  created,
  deleteOnServer,
  eventually,
  expireToken,
  newUser,
  stored,
} from "./devices";
import { replicateTasks, taskSchema } from "./rxdb";
import type { Problem, Task } from "./todo-api";

class Device {
  readonly network = new Network();
  readonly rejected: Problem[] = [];
  readonly errors: unknown[] = [];
  tasks!: RxCollection<Task>;
  #replication!: ReturnType<typeof replicateTasks>;

  constructor(readonly name = randomUUID()) {}

  /** Open the database, which is empty the first time, and start the replication. */
  async open() {
    const storage = wrappedValidateAjvStorage({ storage: getRxStorageMemory() });
    const database = await createRxDatabase({ name: this.name, storage, multiInstance: false });
    this.tasks = (await database.addCollections({ tasks: { schema: taskSchema } })).tasks;
    const onRejected = (_: Task, problem: Problem) => this.rejected.push(problem);
    this.#replication = replicateTasks(this.tasks, this.network.api, { retryTime: 10, onRejected });
    this.#replication.error$.subscribe((error) => this.errors.push(error));
    return this;
  }

  /** End the program, with or without a connection. */
  async close() {
    await this.tasks.database.close();
  }

  pull() {
    this.#replication.reSync();
  }

  async edit(id: string, changes: Partial<Task>) {
    await (await this.tasks.findOne(id).exec(true)).incrementalPatch(changes);
  }

  async remove(id: string) {
    await (await this.tasks.findOne(id).exec(true)).remove();
  }

  async copy() {
    return byId((await this.tasks.find().exec()).map((document) => document.toJSON() as Task));
  }
}

let a: Device;
let b: Device;

function offline() {
  a.network.online = b.network.online = false;
}

/** Connect the device, and wait until its copy equals the server's tasks. */
async function connected(device: Device) {
  device.network.online = true;
  await eventually(async () => {
    device.pull();
    assert.deepEqual(await device.copy(), await stored());
  });
}

/** Connect a, then b, and wait until both copies equal the server's tasks. */
async function converged() {
  for (const device of [a, b, a]) await connected(device);
  assert.deepEqual(await b.copy(), await a.copy());
  return stored();
}

/** A task that both devices have. */
async function shared() {
  const { id } = await created({ title: "Buy milk" });
  await converged();
  return id;
}

beforeEach(async () => {
  await newUser();
  a = await new Device().open();
  b = await new Device().open();
});

afterEach(async () => {
  await Promise.all([a.close(), b.close()]); // RxDB allows 16 open collections
});

test("edits of different members of one task on both devices are merged", async () => {
  const id = await shared();
  offline();
  await a.edit(id, { title: "Buy oat milk" });
  await b.edit(id, { priority: "high" });
  const { [id]: task } = await converged();
  assert.deepEqual([task!.title, task!.priority], ["Buy oat milk", "high"]);
});

test("of two edits of one member the edit that arrives last wins", async () => {
  const id = await shared();
  offline();
  await b.edit(id, { title: "edited first, sent last" });
  await a.edit(id, { title: "edited last, sent first" });
  assert.equal((await converged())[id]!.title, "edited first, sent last");
});

test("an edit that both devices made hides nothing of the other edits", async () => {
  const id = await shared();
  offline();
  await a.edit(id, { title: "same", priority: "high" });
  await connected(a);
  b.network.onNextChanges = () => b.edit(id, { title: "same" });
  assert.equal((await converged())[id]!.priority, "high");
});

test("quick edits of one task all arrive", async () => {
  const id = await shared();
  await Promise.all([a.edit(id, { title: "one" }), a.edit(id, { priority: "low" }), b.edit(id, { tags: ["x"] })]);
  await a.edit(id, { description: "two" });
  const { [id]: task } = await converged();
  assert.deepEqual([task!.title, task!.priority, task!.tags, task!.description], ["one", "low", ["x"], "two"]);
});

test("tasks that both devices create offline both arrive", async () => {
  offline();
  await a.tasks.insert({ id: randomUUID(), title: "of a" });
  await b.tasks.insert({ id: randomUUID(), title: "of b" });
  const titles = Object.values(await converged()).map(({ title }) => title);
  assert.deepEqual(titles.sort(), ["of a", "of b"]);
});

test("a deleted task that another device edits stays deleted", async () => {
  const id = await shared();
  offline();
  await a.remove(id);
  await b.edit(id, { title: "edited" });
  assert.deepEqual(await converged(), {});
  assert.deepEqual(b.rejected.map(({ code }) => code), ["not_found"]);
});

test("a task that both devices delete is deleted without a complaint", async () => {
  const id = await shared();
  offline();
  await Promise.all([a.remove(id), b.remove(id)]);
  assert.deepEqual(await converged(), {});
  assert.deepEqual([...a.rejected, ...b.rejected], []);
});

test("a deleted task that is inserted again is restored with its new members", async () => {
  const id = await shared();
  await a.remove(id);
  await converged();
  await a.tasks.insert({ id, title: "again" });
  assert.equal((await converged())[id]!.title, "again");
});

test("a program that ends offline goes on where it was", async () => {
  const id = await shared();
  offline();
  await a.edit(id, { title: "before the end" });
  await a.tasks.insert({ id: randomUUID(), title: "created before the end" });
  await a.close();
  await changeOnServer(id, { priority: "high" });
  a = await new Device(a.name).open();
  const tasks = await converged();
  assert.deepEqual([tasks[id]!.title, tasks[id]!.priority], ["before the end", "high"]);
  assert.equal(Object.keys(tasks).length, 2);
});

test("an expired token is replaced once and nothing fails", async () => {
  const id = await shared();
  await expireToken();
  const before = tokensIssued;
  await a.edit(id, { title: "with a new token" });
  assert.equal((await converged())[id]!.title, "with a new token");
  assert.equal(tokensIssued - before, 2); // the expired token and the new one
  assert.deepEqual(a.errors, []);
});

test("a lost answer duplicates nothing", async () => {
  const id = await shared();
  a.network.loses = "answer";
  await a.tasks.bulkInsert([1, 2, 3].map((n) => ({ id: randomUUID(), title: `task ${n}` })));
  await eventually(() => assert.equal(a.errors.length, 1));
  a.network.loses = "answer";
  await a.remove(id);
  await eventually(() => assert.equal(a.errors.length, 2));
  const titles = Object.values(await converged()).map(({ title }) => title);
  assert.deepEqual(titles.sort(), ["task 1", "task 2", "task 3"]);
});

test("a creation whose answer was lost keeps the edits of both devices", async () => {
  const [edited, untouched] = [randomUUID(), randomUUID()];
  a.network.loses = "connection";
  await a.tasks.bulkInsert([edited, untouched].map((id) => ({ id, title: "created" })));
  await eventually(() => assert.equal(a.network.online, false));
  await a.close();
  await Promise.all([edited, untouched].map((id) => changeOnServer(id, { priority: "high" })));
  a = new Device(a.name);
  a.network.online = false;
  await a.open();
  await a.edit(edited, { title: "edited offline" });
  const tasks = await converged();
  const members = [edited, untouched].map((id) => [tasks[id]!.title, tasks[id]!.priority]);
  assert.deepEqual(members, [["edited offline", "high"], ["created", "high"]]);
  assert.deepEqual(a.rejected, []);
});

test("an unavailable service delays a push", async () => {
  a.network.unavailable = 2;
  const id = randomUUID();
  await a.tasks.insert({ id, title: "patient" });
  assert.equal((await converged())[id]!.title, "patient");
  assert.equal(a.errors.length, 2);
});

test("an invalid task is dropped with its reason and stops no other", async () => {
  const id = await shared();
  offline();
  await a.edit(id, { title: " " });
  await a.tasks.insert({ id: randomUUID(), title: "x".repeat(201) });
  await a.tasks.insert({ id: "not a UUID", title: "x" });
  await a.tasks.insert({ id: randomUUID(), title: "valid" });
  const tasks = await converged();
  assert.equal(tasks[id]!.title, "Buy milk");
  assert.deepEqual(Object.values(tasks).map(({ title }) => title).sort(), ["Buy milk", "valid"]);
  assert.deepEqual(a.rejected.map(({ code }) => code).sort(), ["bad_id", "blank", "too_long"]);
});

test("after a resync the copies start over and keep what was not sent", async () => {
  const [edited, deleted] = [await shared(), await shared()];
  const created = randomUUID();
  offline();
  await a.edit(edited, { title: "edited offline" });
  await a.tasks.insert({ id: created, title: "created offline" });
  await deleteOnServer(deleted);
  execFileSync(process.env.TODO_API!, ["resync"]);
  const tasks = await converged();
  assert.deepEqual(new Set(Object.keys(tasks)), new Set([edited, created]));
  assert.equal(tasks[edited]!.title, "edited offline");
});

test("more tasks than a page of the feed and a batch hold arrive", async () => {
  offline();
  await a.tasks.bulkInsert(Array.from({ length: 620 }, (_, n) => ({ id: randomUUID(), title: `task ${n}` })));
  assert.equal(Object.keys(await converged()).length, 620);
});
