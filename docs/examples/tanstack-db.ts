/** A TanStack DB collection of the user's tasks, and transactions that wait until the device is online. */

import { type PendingMutation, createCollection } from "@tanstack/db";
import { NonRetriableError, type OfflineConfig, startOfflineExecutor } from "@tanstack/offline-transactions";
import type { QueryClient } from "@tanstack/query-core";
import { queryCollectionOptions } from "@tanstack/query-db-collection";
import { type Api, type Operation, type Problem, type Result, type Task, pull } from "./todo-api";

type Params = { transaction: { mutations: PendingMutation<any>[] }; idempotencyKey?: string };

/** `await offline.waitForInit()` before the first `transact`: until then the library stores no transaction. */
export function createTasks(api: Api, queryClient: QueryClient, options: Partial<OfflineConfig> = {}) {
  const copy = new Map<string, Task>();
  let since = "";

  /** Send a transaction as one batch, which is applied as a whole or not at all. */
  async function send({ transaction, idempotencyKey = crypto.randomUUID() }: Params) {
    const response = await api("/api/tasks/batch", {
      method: "POST",
      headers: { "Idempotency-Key": idempotencyKey },
      body: JSON.stringify({ operations: transaction.mutations.map(operation) }),
    });
    // The library retries an error unless its text contains 400, 401, 403 or 422.
    if (response.status >= 500 || [401, 408, 429].includes(response.status)) throw new Error("try again later");
    const document = (await response.json()) as Problem & { results: Result[] };
    if (document.code === "conflict") throw new Error("try again later");
    if (!response.ok) {
      tasks.utils.refetch().catch(() => {}); // the copy may be out of date
      throw new NonRetriableError(reason(document));
    }
    tasks.utils.writeBatch(() => {
      for (const [n, { id, task }] of document.results.entries())
        if (transaction.mutations[n]!.type !== "delete") tasks.utils.writeUpsert(task!);
        else tasks.utils.writeDelete(id);
    });
    return { refetch: false };
  }

  const tasks = createCollection(
    queryCollectionOptions<Task>({
      id: "tasks",
      queryKey: ["tasks"],
      queryClient,
      getKey: (task) => task.id,
      queryFn: async () => {
        since = await pull(api, copy, since);
        return [...copy.values()];
      },
      onInsert: send,
      onUpdate: send,
      onDelete: send,
    }),
  );
  const offline = startOfflineExecutor({ collections: { tasks }, mutationFns: { tasks: send }, ...options });

  /** Queue the mutations as one transaction. Rejects with the reason if the service refuses it. */
  async function transact(mutate: () => void) {
    const transaction = offline.createOfflineTransaction({ mutationFnName: "tasks", autoCommit: false });
    transaction.mutate(mutate);
    await transaction.commit();
  }

  return { tasks, offline, transact };
}

function operation({ type, modified, changes }: PendingMutation<any>): Operation {
  const { id } = modified;
  if (type === "insert") return { op: "create", id, task: modified };
  return type === "update" ? { op: "change", id, task: changes } : { op: "delete", id };
}

function reason({ detail, errors }: Problem) {
  return errors?.map(({ pointer, message }) => `${pointer}: ${message}`).join("; ") || detail;
}
