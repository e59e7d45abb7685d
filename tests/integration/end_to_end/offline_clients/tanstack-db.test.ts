/** TanStack DB with offline transactions. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, test } from "node:test";
import { QueryClient } from "@tanstack/query-core";
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
import { createTasks } from "./tanstack-db";
import { type Task, applyEach } from "./todo-api";

class Storage extends Map<string, string> {
  adapter = {
    get: async (key: string) => this.get(key) ?? null,
    set: async (key: string, value: string) => void this.set(key, value),
    delete: async (key: string) => void this.delete(key),
    keys: async () => [...this.keys()],
    clear: async () => this.clear(),
  };
}

/** One run of the program on a device. */
class Program {
  readonly network = new Network();
  readonly #listeners = new Set<() => void>();
  readonly #queries = new QueryClient({ defaultOptions: { queries: { retry: false, gcTime: Infinity } } });
  readonly #app;
  #open = 0; // transactions that have not ended

  constructor(readonly storage = new Storage(), online = true) {
    this.network.online = online;
    this.#app = createTasks(this.network.api, this.#queries, {
      storage: storage.adapter,
      leaderElection: {
        requestLeadership: async () => true,
        releaseLeadership() {},
        isLeader: () => true,
        onLeadershipChange: () => () => {},
      },
      onlineDetector: {
        subscribe: (listener) => (this.#listeners.add(listener), () => this.#listeners.delete(listener)),
        notifyOnline: () => this.#listeners.forEach((listener) => listener()),
        isOnline: () => this.network.online,
        dispose() {},
      },
    });
  }

  get tasks() {
    return this.#app.tasks;
  }

  get offline() {
    return this.#app.offline;
  }

  copy() {
    const isMember = ([name]: [string, unknown]) => !name.startsWith("$");
    return byId(this.tasks.toArray.map((row) => Object.fromEntries(Object.entries(row).filter(isMember)) as Task));
  }

  async started() {
    await this.offline.waitForInit();
    if (this.network.online) await this.tasks.preload();
    return this;
  }

  /** Queue a transaction. Returns the promise of its end. */
  transaction(mutate: () => void): Promise<unknown> {
    const end = this.#app.transact(mutate);
    const closed = () => void (this.#open -= 1);
    this.#open += 1;
    end.then(closed, closed);
    return end;
  }

  online() {
    this.network.online = true;
    this.wake();
  }

  /** What the library does on the events `online` and `visibilitychange`. */
  wake() {
    this.offline.getOnlineDetector().notifyOnline();
  }

  /** Wait until the queue is empty and the copy equals the server's tasks. */
  async synchronized() {
    await eventually(() => {
      this.wake();
      assert.equal(this.#open + this.offline.getPendingCount(), 0);
    });
    await this.tasks.utils.refetch();
    const tasks = await stored();
    await eventually(() => assert.deepEqual(this.copy(), tasks));
    return tasks;
  }

  async end() {
    this.offline.dispose();
    await this.tasks.cleanup();
    this.#queries.clear();
  }
}

let program: Program;

beforeEach(async () => {
  await newUser();
  program = await new Program().started();
});

afterEach(() => program.end());

test("a queued transaction is visible at once and is one batch with one key", async () => {
  const [first, second] = [randomUUID(), randomUUID()];
  program.network.online = false;
  void program.transaction(() => {
    program.tasks.insert({ id: first, title: "first" });
    program.tasks.insert({ id: second, title: "second" });
  });
  void program.transaction(() => program.tasks.update(first, (draft) => void (draft.title = "changed")));
  assert.deepEqual(Object.values(program.copy()).map(({ title }) => title).sort(), ["changed", "second"]);
  assert.deepEqual(await stored(), {});
  program.online();
  assert.equal((await program.synchronized())[first]!.title, "changed");
  assert.deepEqual(program.network.batches.map(({ operations }) => operations.length), [2, 1]);
  assert.equal(new Set(program.network.batches.map(({ key }) => key)).size, 2);
});

test("a transaction whose answer was lost is sent again with the same key and applied once", async () => {
  const { id } = await created({ title: "Buy milk" });
  await program.tasks.utils.refetch();
  program.network.loses = "answer";
  const end = program.transaction(() => {
    program.tasks.insert({ id: randomUUID(), title: "new" });
    program.tasks.delete(id);
  });
  await eventually(() => assert.equal(program.network.loses, "nothing"));
  await program.tasks.utils.refetch(); // shows the effect of the lost answer
  const tasks = await program.synchronized();
  await end;
  assert.deepEqual(Object.values(tasks).map(({ title }) => title), ["new"]);
  const [first, second] = program.network.batches;
  assert.equal(program.network.batches.length, 2);
  assert.equal(first!.key, second!.key);
});

test("an unavailable service delays a transaction and its key stays the same", async () => {
  program.network.unavailable = 2;
  void program.transaction(() => program.tasks.insert({ id: randomUUID(), title: "patient" }));
  assert.equal(Object.keys(await program.synchronized()).length, 1);
  assert.equal(new Set(program.network.batches.map(({ key }) => key)).size, 1);
  assert.equal(program.network.batches.length, 3);
});

test("a refused transaction is rolled back as a whole with its reason and the others go through", async () => {
  const { id } = await created({ title: "Buy milk" });
  await program.tasks.utils.refetch();
  program.network.online = false;
  await deleteOnServer(id);
  const refused = program.transaction(() => {
    program.tasks.insert({ id: randomUUID(), title: "in the refused transaction" });
    program.tasks.update(id, (draft) => void (draft.title = "changed"));
  });
  const invalid = program.transaction(() => program.tasks.insert({ id: randomUUID(), title: " " }));
  const valid = program.transaction(() => program.tasks.insert({ id: randomUUID(), title: "valid" }));
  await eventually(() => assert.equal(program.storage.size, 3));
  program.online();
  await assert.rejects(refused, /^NonRetriableError: \/operations\/1: .+/);
  await assert.rejects(invalid, /^NonRetriableError: \/operations\/0\/task\/title: .+/);
  await valid;
  await eventually(() => assert.equal(program.copy()[id], undefined)); // read again after the refusal
  assert.deepEqual(Object.values(await program.synchronized()).map(({ title }) => title), ["valid"]);
  assert.equal(program.network.batches.length, 3);
});

test("a program that ends offline shows and sends its queue after the next start", async () => {
  const { id } = await created({ title: "Buy milk" });
  await program.tasks.utils.refetch();
  program.network.online = false;
  void program.transaction(() => program.tasks.update(id, (draft) => void (draft.priority = "high")));
  void program.transaction(() => program.tasks.insert({ id: randomUUID(), title: "created before the end" }));
  await eventually(() => assert.equal(program.storage.size, 2));
  const { storage } = program;
  await program.end();
  await changeOnServer(id, { title: "Buy oat milk" });
  program = await new Program(storage, false).started();
  assert.equal(Object.keys(program.copy()).length, 2);
  program.online();
  const tasks = await program.synchronized();
  assert.deepEqual([tasks[id]!.title, tasks[id]!.priority], ["Buy oat milk", "high"]);
  assert.equal(Object.keys(tasks).length, 2);
  assert.equal(storage.size, 0);
});

test("a program that starts online sends its queue while it reads the tasks", async () => {
  const { id } = await created({ title: "Buy milk" });
  await program.tasks.utils.refetch();
  program.network.loses = "connection";
  void program.transaction(() => program.tasks.delete(id));
  await eventually(() => assert.equal(program.network.online, false));
  void program.transaction(() => program.tasks.insert({ id: randomUUID(), title: "created before the end" }));
  await eventually(() => assert.equal(program.storage.size, 2));
  const { storage } = program;
  await program.end();
  program = new Program(storage);
  await program.offline.waitForInit();
  assert.deepEqual(Object.values(await program.synchronized()).map(({ title }) => title), ["created before the end"]);
  assert.equal(program.network.batches.length, 2);
});

test("an expired token is replaced and the transaction is sent once", async () => {
  await expireToken();
  await program.transaction(() => program.tasks.insert({ id: randomUUID(), title: "with a new token" }));
  assert.equal(Object.keys(await program.synchronized()).length, 1);
  assert.equal(program.network.batches.length, 1);
});

test("without a transaction a change is sent directly", async () => {
  const id = randomUUID();
  await program.tasks.insert({ id, title: "Buy milk" }).isPersisted.promise;
  await program.tasks.update(id, (draft) => void (draft.completed = true)).isPersisted.promise;
  assert.equal((await program.synchronized())[id]!.completed, true);
  await program.tasks.delete(id).isPersisted.promise;
  assert.deepEqual(await program.synchronized(), {});
});

test("changes of other devices arrive with the next query, also after a resync", async () => {
  const ids = Array.from({ length: 600 }, () => randomUUID()); // more than a page of changes
  for (let start = 0; start < ids.length; start += 100) {
    const creations = ids.slice(start, start + 100).map((id) => ({ op: "create" as const, id, task: { title: "x" } }));
    await applyEach(program.network.api, creations);
  }
  await program.synchronized();
  await deleteOnServer(ids[0]!);
  await program.synchronized();
  await deleteOnServer(ids[1]!);
  execFileSync(process.env.TODO_API!, ["resync"]);
  assert.equal(Object.keys(await program.synchronized()).length, 598);
});
