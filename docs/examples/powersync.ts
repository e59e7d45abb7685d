/** The upload of PowerSync's queue to todo-api: `uploadData` of the connector calls `upload`. */

import { type Api, type Operation, type Result, applyEach } from "./todo-api";

type Entry = { op: "PUT" | "PATCH" | "DELETE"; id: string; opData?: Record<string, unknown> };
type Database = {
  getCrudBatch(limit: number): Promise<{ crud: Entry[]; complete(): Promise<void> } | null>;
};

/** Send the queue. What the service refuses goes to `onRejected`; only an unreachable service keeps the queue. */
export async function upload(database: Database, api: Api, onRejected: (result: Result) => void) {
  for (let batch; (batch = await database.getCrudBatch(50)); ) {
    for (const entries of runs(batch.crud)) {
      const results = await applyEach(api, entries.map(operation));
      for (const [n, result] of results.entries())
        if (result.problem && entries[n]!.op !== "DELETE") onRejected(result);
    }
    await batch.complete();
  }
}

/** The entries in order, split so that no run changes a task twice: a batch has one operation for each task. */
function runs(entries: Entry[]): Entry[][] {
  const runs: Entry[][] = [[]];
  for (const entry of entries) {
    if (runs.at(-1)!.some(({ id }) => id === entry.id)) runs.push([]);
    runs.at(-1)!.push(entry);
  }
  return runs;
}

function operation({ op, id, opData }: Entry): Operation {
  if (op === "DELETE") return { op: "delete", id };
  const task = { ...opData }; // SQLite has neither booleans nor lists
  if ("completed" in task) task.completed = Boolean(task.completed);
  if (typeof task.tags === "string") task.tags = JSON.parse(task.tags);
  return { op: op === "PUT" ? "create" : "change", id, task };
}
