/** Replication of an RxDB collection with todo-api. */

import type { RxCollection, RxJsonSchema, RxReplicationWriteToMasterRow, WithDeleted } from "rxdb";
import { replicateRxCollection } from "rxdb/plugins/replication";
import { type Api, type Operation, type Problem, type Task, applyEach, difference, pull, read } from "./todo-api";

type Row = RxReplicationWriteToMasterRow<Task>;
type Page = { changes: (Task & { deleted?: true })[]; next: string };
type Options = { retryTime?: number; onRejected?: (task: Task, problem: Problem) => void };

const nullable = { type: ["string", "null"] };

export const taskSchema: RxJsonSchema<Task> = {
  version: 0,
  primaryKey: "id",
  type: "object",
  properties: {
    id: { type: "string", maxLength: 36 },
    title: { type: "string" },
    description: nullable,
    completed: { type: "boolean" },
    priority: nullable,
    due_date: nullable,
    tags: { type: "array", items: { type: "string" } },
    position: nullable,
    repeat: { type: ["object", "null"] },
    time_zone: nullable,
    user_id: { type: "string" },
    created_at: { type: "string" },
    updated_at: { type: "string" },
    completed_at: nullable,
    version: { type: "integer" },
  },
  required: ["id", "title"],
};

/** Start the replication. Call `reSync()` of the result on a timer and when the page becomes visible or online. */
export function replicateTasks(collection: RxCollection<Task>, api: Api, options: Options = {}) {
  return replicateRxCollection<Task, { since: string }>({
    collection,
    replicationIdentifier: "todo-api",
    retryTime: options.retryTime,
    pull: {
      batchSize: 500,
      async handler(checkpoint, limit) {
        const since = checkpoint ? `&since=${checkpoint.since}` : "";
        const response = await api(`/api/tasks/changes?limit=${limit}${since}`);
        if (response.status === 410) return startOver(collection, api);
        const { changes, next } = await read<Page>(response);
        const documents = changes.map((task) => (task.deleted ? gone(task.id) : live(task)));
        return { documents, checkpoint: { since: next } };
      },
    },
    push: {
      batchSize: 50, // the largest 50 tasks fit into the 1 MiB of a request
      handler: (rows) => push(api, rows, options.onRejected),
    },
  });
}

/** All tasks of the server, and the deletion of those that it does not have. RxDB keeps what waits for a push. */
async function startOver(collection: RxCollection<Task>, api: Api) {
  const copy = new Map<string, Task>();
  const since = await pull(api, copy);
  const local = await collection.find().exec();
  const missing = local.filter(({ id }) => !copy.has(id));
  return { documents: [...[...copy.values()].map(live), ...missing.map(({ id }) => gone(id))], checkpoint: { since } };
}

/** Send what differs. Returns the server's state of each task; RxDB stores it unless the task has changed again. */
async function push(api: Api, rows: Row[], onRejected?: Options["onRejected"]) {
  const sent = rows.flatMap((row) => operation(row).map((each) => ({ ...each, after: row.newDocumentState })));
  const results = await applyEach(api, sent.map(({ op, id, task }) => ({ op, id, task })));
  const states = results.map(async ({ id, status, task, problem }, n) => {
    const { op, after } = sent[n]!;
    if (op === "delete") return []; // also 404: another device was faster
    if (problem) onRejected?.(after, problem);
    const response = status === 422 ? await api(`/api/tasks/${id}`) : undefined;
    const stored = response && response.status !== 404 ? await read<Task>(response) : task;
    return [stored ? live(stored) : gone(id)];
  });
  return (await Promise.all(states)).flat();
}

function operation({ assumedMasterState: before, newDocumentState: after }: Row): Operation[] {
  const { id } = after;
  const task = difference(before ?? {}, after);
  if (after._deleted) return before?._deleted ? [] : [{ op: "delete", id }];
  if (!before) return [{ op: "create", id, task }];
  if (before._deleted) return [{ op: "restore", id, task: difference({}, after) }];
  return Object.keys(task).length ? [{ op: "change", id, task }] : [];
}

/** The task without members that this schema does not know. */
function live(task: Task): WithDeleted<Task> {
  const members = Object.entries(task).filter(([name]) => name in taskSchema.properties);
  return { ...(Object.fromEntries(members) as Task), _deleted: false };
}

function gone(id: string): WithDeleted<Task> {
  return { id, title: "", _deleted: true };
}
