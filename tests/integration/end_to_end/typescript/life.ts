/** The life of a task, told by the client that openapi-typescript and openapi-fetch make. */

import assert from "node:assert/strict";
import { env } from "node:process";

import createClient from "openapi-fetch";

import type { components, paths } from "./schema";

type Task = components["schemas"]["Task"];
type Priority = components["schemas"]["Priority"];

const urgent: Priority = "high";

const client = createClient<paths>({
  baseUrl: env["API_URL"] ?? "",
  headers: { Authorization: `Bearer ${env["TOKEN"]}` },
});

/** The data of an answer that has to be a success. */
function succeeded<Data>(answer: { data?: Data; error?: unknown }): Data {
  assert.ok(answer.data !== undefined, JSON.stringify(answer.error));
  return answer.data;
}

const creation = await client.POST("/api/tasks", {
  params: { header: { "Idempotency-Key": "one-of-a-kind" } },
  body: { title: "Buy milk", priority: urgent, due_date: "2026-01-31", tags: ["home"] },
});
const task: Task = succeeded(creation);
const one = { path: { task_id: task.id } };
assert.equal(creation.response.status, 201);
assert.equal(creation.response.headers.get("Location"), `/api/tasks/${task.id}`);

const listing = await client.GET("/api/tasks", {
  params: { query: { completed: false, tag: ["home"], sort: "-due_date", limit: 10 } },
});
assert.deepEqual(succeeded(listing), [task]);
assert.equal(listing.response.headers.get("X-Total-Count"), "1");

const reading = await client.GET("/api/tasks/{task_id}", { params: one });
const etag = reading.response.headers.get("ETag") ?? "";
assert.deepEqual(succeeded(reading), task);

const put = await client.PUT("/api/tasks/{task_id}", {
  params: { ...one, header: { "If-Match": etag } },
  body: { title: "Buy oat milk" },
});
assert.equal(succeeded(put).title, "Buy oat milk");
assert.equal(succeeded(put).priority, "high");

const late = await client.PUT("/api/tasks/{task_id}", {
  params: { ...one, header: { "If-Match": etag } },
  body: { title: "Buy soy milk" },
});
assert.equal(late.error?.code, "stale_version");

const patched = await client.PATCH("/api/tasks/{task_id}", {
  params: one,
  body: { due_date: null },
});
// Where there is no error, there is a task, or nothing with Prefer: return=minimal.
if (patched.error !== undefined) assert.fail(patched.error.detail);
assert.equal(patched.data?.due_date, null);

const completion = await client.PATCH("/api/tasks/{task_id}/complete", {
  params: one,
  body: { completed: true },
});
assert.equal(succeeded(completion).completed, true);

const toggle = await client.PATCH("/api/tasks/{task_id}/complete", { params: one });
assert.equal(succeeded(toggle).completed, false);

const deletion = await client.DELETE("/api/tasks/{task_id}", { params: one });
assert.equal(succeeded(deletion).id, task.id);

const missing = await client.GET("/api/tasks/{task_id}", { params: one });
assert.equal(missing.error?.code, "not_found");

const restoration = await client.POST("/api/tasks/{task_id}/restore", { params: one });
assert.equal(succeeded(restoration).id, task.id);

await client.PATCH("/api/tasks/{task_id}/complete", { params: one });
const clearing = await client.DELETE("/api/tasks", { params: { query: { status: "completed" } } });
assert.deepEqual(succeeded(clearing), { deleted: 1, ids: [task.id] });

const feed = succeeded(await client.GET("/api/tasks/changes"));
assert.deepEqual([feed.changes, feed.more], [[], false]);

const me = succeeded(await client.GET("/api/me"));
assert.deepEqual(me.tasks, { total: 0, pending: 0, completed: 0 });

const invalid = await client.POST("/api/tasks", { body: { title: " " } });
assert.deepEqual(
  invalid.error?.errors?.map((error) => error.pointer),
  ["/title"],
);
