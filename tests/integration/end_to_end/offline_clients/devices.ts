/** What the scenarios share: the network of a device, which can fail, and the server's tasks. */

import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { api, signOut } from "./api";
import * as auth from "./auth-client";
import type { Api, Task } from "./todo-api";

const PATIENCE = 20_000; // milliseconds

/** The connection of one device. */
export class Network {
  online = true;
  loses: "nothing" | "answer" | "connection" = "nothing"; // after the service has applied the next batch
  unavailable = 0; // how many of the next batches get 503
  onNextChanges?: () => Promise<void>; // runs while the next page of changes is under way
  readonly batches: { key: string | null; operations: { op: string; id: string; task?: object }[] }[] = [];

  readonly api: Api = async (path, init) => {
    if (!this.online) throw new TypeError("fetch failed");
    if (init?.method !== "POST") return this.#read(path, init);
    const key = new Headers(init.headers).get("Idempotency-Key");
    this.batches.push({ key, ...JSON.parse(String(init.body)) });
    if (this.unavailable-- > 0) return Response.json({ code: "overloaded", detail: "overloaded" }, { status: 503 });
    const response = await api(path, init);
    const { loses } = this;
    this.loses = "nothing";
    if (loses === "nothing") return response;
    this.online = loses === "answer";
    throw new TypeError("fetch failed");
  };

  async #read(path: string, init?: RequestInit) {
    const response = await api(path, init);
    const run = this.onNextChanges;
    this.onNextChanges = undefined;
    await run?.();
    return response;
  }
}

/** Sign in a new user, who has no tasks. */
export async function newUser() {
  await signOut();
  auth.signIn();
}

/** Replace the token by one that has expired. */
export async function expireToken() {
  await signOut();
  auth.expireNext();
}

/** The server's tasks by id. */
export async function stored(): Promise<Record<string, Task>> {
  return byId((await (await api("/api/tasks")).json()) as Task[]);
}

/** A new task on the server. */
export async function created(task: { title: string }): Promise<Task> {
  return (await (await api("/api/tasks", { method: "POST", body: JSON.stringify(task) })).json()) as Task;
}

export async function deleteOnServer(id: string) {
  assert.equal((await api(`/api/tasks/${id}`, { method: "DELETE" })).status, 200);
}

export async function changeOnServer(id: string, changes: object) {
  const response = await api(`/api/tasks/${id}`, { method: "PATCH", body: JSON.stringify(changes) });
  assert.equal(response.status, 200);
}

export function byId(tasks: Iterable<Task>): Record<string, Task> {
  return Object.fromEntries([...tasks].map((task) => [task.id, { ...task }]));
}

/** Repeat the assertions until they hold. Throws the last failure after PATIENCE. */
export async function eventually(check: () => unknown) {
  for (const deadline = Date.now() + PATIENCE; ; await setTimeout(10))
    try {
      return await check();
    } catch (failure) {
      if (Date.now() > deadline) throw failure;
    }
}
