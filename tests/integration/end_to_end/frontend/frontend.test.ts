/** docs/examples/frontend with a real Better Auth and the real service. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { MutationObserver, QueryClient } from "@tanstack/react-query";

import { api, signOut } from "./api";
import { server } from "./auth";
import { authClient } from "./auth-client";
import { count, expireToken, requests, whileTheTokenIsOnItsWay } from "./browser";
import { fetchTasks, tasksQuery, updateTask, type TodoError } from "./tasks";
import { type Task, todo } from "./todo";
import { serverTodo } from "./todo-server";

const password = "correct horse battery staple";
let users = 0;

async function signUp() {
  const { data } = await authClient.signUp.email({ name: "Ada", email: `ada${(users += 1)}@example.com`, password });
  assert.ok(data);
  return data.user.id;
}

async function create(title: string): Promise<Task> {
  const { data, error } = await todo.POST("/api/tasks", { body: { title } });
  assert.ok(data, error?.detail);
  return data;
}

const userOf = async () => ((await (await api("/api/me")).json()) as { user_id: string }).user_id;

before(async () => {
  await new Promise<void>((resolve) => server.listen(Number(process.env.AUTH_PORT), "127.0.0.1", resolve));
  // The service has started before the auth server, and fetches the keys at most once a second.
  await signUp();
  while ((await api("/api/me")).status === 503) await new Promise((resolve) => setTimeout(resolve, 100));
});
after(() => server.close());
beforeEach(async () => {
  await signOut();
  requests.length = 0;
});

test("no request is sent without a token", async () => {
  await assert.rejects(todo.GET("/api/tasks"), /not signed in/);
  assert.equal(count("/api/tasks"), 0);
});

test("twenty calls that fail at once fetch one token and are sent once more", async () => {
  await signUp();
  await fetchTasks();
  requests.length = 0;
  expireToken(20);
  const responses = await Promise.all(Array.from({ length: 20 }, () => api("/api/tasks")));
  assert.deepEqual(new Set(responses.map((response) => response.status)), new Set([200]));
  assert.deepEqual([count("/token"), count("/api/tasks")], [1, 40]);
});

test("a second 401 is returned and not retried", async () => {
  await signUp();
  expireToken(2);
  assert.equal((await api("/api/tasks")).status, 401);
  assert.equal(count("/api/tasks"), 2);
});

test("the body is sent again with the fresh token", async () => {
  await signUp();
  expireToken(1);
  assert.equal((await create("Buy milk")).title, "Buy milk");
});

test("after a sign-out the next user gets their own token", async () => {
  const first = await signUp();
  assert.equal(await userOf(), first);
  await signOut();
  const second = await signUp();
  assert.equal(await userOf(), second);
});

test("a sign-out by other code is noticed", async () => {
  await signUp();
  await fetchTasks();
  await authClient.signOut();
  const second = await signUp();
  assert.equal(await userOf(), second);
});

test("a token that arrives after a sign-out is not used", async () => {
  await signUp();
  let second = "";
  whileTheTokenIsOnItsWay(async () => {
    await signOut();
    second = await signUp();
  });
  await assert.rejects(create("The first user's task"), /not signed in/);
  assert.equal(await userOf(), second);
  assert.deepEqual((await fetchTasks()).tasks, []);
});

test("an unchanged list is not sent again", async () => {
  await signUp();
  await create("Buy milk");
  const list = await fetchTasks();
  assert.equal(await fetchTasks(list), list);
  await create("Buy oats");
  assert.equal((await fetchTasks(list)).tasks.length, 2);
});

test("a change is shown at once, and kept when the service accepts it", async () => {
  await signUp();
  const task = await create("Buy milk");
  const client = new QueryClient();
  await client.fetchQuery(tasksQuery(client));
  const titles: (string | undefined)[] = [];
  client.getQueryCache().subscribe(() => titles.push(shown(client)?.title));
  await new MutationObserver(client, updateTask(client)).mutate({ task, changes: { title: "Buy oats" } });
  assert.equal(titles.find((title) => title !== "Buy milk"), "Buy oats");
  assert.equal((await fetchTasks()).tasks[0]?.title, "Buy oats");
});

test("a change is taken back when the service refuses it", async () => {
  await signUp();
  const task = await create("Buy milk");
  const client = new QueryClient();
  await client.fetchQuery(tasksQuery(client));
  await todo.PATCH("/api/tasks/{task_id}", { params: { path: { task_id: task.id } }, body: { priority: "high" } });
  const stale = { task, changes: { title: "Buy oats" } };
  const refusal = await new MutationObserver(client, updateTask(client)).mutate(stale).catch((error: TodoError) => error);
  assert.equal(refusal instanceof Error && refusal.problem?.code, "stale_version");
  assert.equal(shown(client)?.title, "Buy milk");
});

test("server components act as the user of the request", async () => {
  await signUp();
  const task = await create("Buy milk");
  const { data } = await (await serverTodo()).GET("/api/tasks");
  assert.deepEqual(data, [task]);
  await signOut();
  await assert.rejects(serverTodo());
});

const shown = (client: QueryClient) => client.getQueryData<{ tasks: Task[] }>(["tasks"])?.tasks[0];
