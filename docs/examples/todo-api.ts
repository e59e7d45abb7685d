/** Types and requests that the adapters for RxDB, TanStack DB and PowerSync share. */

/** The function `api` of docs/better-auth.md: it sends the token, and fetches a new one after a 401. */
export type Api = (path: string, init?: RequestInit) => Promise<Response>;

/** The rule of a repeating task. */
export type Repeat = {
  every: number;
  unit: "day" | "week" | "month" | "year";
  on: string[];
  from: "due" | "completion";
  until: string | null;
};

/** A task. A local task that the service has not stored yet lacks the read-only members. */
export type Task = {
  id: string;
  title: string;
  description?: string | null;
  completed?: boolean;
  priority?: "low" | "medium" | "high" | null;
  due_date?: string | null;
  tags?: string[];
  position?: string | null;
  repeat?: Repeat | null;
  time_zone?: string | null;
  user_id?: string;
  created_at?: string;
  updated_at?: string;
  completed_at?: string | null;
  version?: number;
};

export type Operation = {
  op: "create" | "change" | "delete" | "restore";
  id: string;
  task?: Record<string, unknown>;
};
export type Problem = { code: string; detail: string; errors?: FieldError[] };
export type Result = { id: string; status: number; task: Task | null; problem?: Problem };
type FieldError = { pointer: string; code: string; message: string };
type Change = Task | { id: string; deleted: true };

const READ_ONLY = ["id", "user_id", "created_at", "updated_at", "completed_at", "version"];

/** The members of `after` that a client may write and that differ from those of `before`. */
export function difference(before: object, after: object): Record<string, unknown> {
  const old: Record<string, unknown> = { ...before };
  const differs = ([name, value]: [string, unknown]) =>
    !READ_ONLY.includes(name) && !name.startsWith("_") && JSON.stringify(value) !== JSON.stringify(old[name]);
  return Object.fromEntries(Object.entries(after).filter(differs));
}

/** The body of a response. Throws the problem's detail unless the response is 2xx. */
export async function read<Body>(response: Response): Promise<Body> {
  if (!response.ok) throw new Error(((await response.json()) as Problem).detail);
  return (await response.json()) as Body;
}

/** Bring `copy` up to date and return the token for the next call. */
export async function pull(api: Api, copy: Map<string, Task>, since = ""): Promise<string> {
  for (let more = true; more; ) {
    const response = await api(`/api/tasks/changes${since && `?since=${since}`}`);
    if (response.status === 410) {
      copy.clear();
      since = "";
      continue;
    }
    const page = await read<{ changes: Change[]; next: string; more: boolean }>(response);
    for (const change of page.changes)
      if ("deleted" in change) copy.delete(change.id);
      else copy.set(change.id, change);
    ({ next: since, more } = page);
  }
  return since;
}

/**
 * Apply each operation for itself, whatever happens to the others, and return their results in order.
 *
 * - An invalid operation makes the service refuse the whole request with 422, so the others are sent again.
 * - A creation whose answer was lost may find its task, and a restore brings back an old one: both then become a
 *   change of the members that differ.
 */
export async function applyEach(api: Api, operations: Operation[]): Promise<Result[]> {
  if (!operations.length) return [];
  const sent = operations.map(({ op, id, task }) => (op === "restore" ? { op, id } : { op, id, task }));
  const body = JSON.stringify({ atomic: false, operations: sent });
  const response = await api("/api/tasks/batch", { method: "POST", body });
  if (response.status === 422) return applyValid(api, operations, (await response.json()) as Problem);
  const { results } = await read<{ results: Result[] }>(response);
  return Promise.all(results.map((result, n) => settle(api, operations[n]!, result)));
}

async function applyValid(api: Api, operations: Operation[], problem: Problem): Promise<Result[]> {
  const reasons = new Map<number, Problem>();
  for (const { pointer, code, message } of problem.errors ?? []) {
    const number = /^\/operations\/(\d+)/.exec(pointer)?.[1];
    if (number) reasons.set(Number(number), { code, detail: message });
  }
  if (!reasons.size) throw new Error(problem.detail);
  const applied = await applyEach(api, operations.filter((_, n) => !reasons.has(n)));
  return operations.map(({ id }, n) => {
    const reason = reasons.get(n);
    return reason ? { id, status: 422, task: null, problem: reason } : applied.shift()!;
  });
}

async function settle(api: Api, { op, id, task }: Operation, result: Result): Promise<Result> {
  const found = op === "restore" || result.problem?.code === "id_taken" ? result.task : null;
  if (!found) return result;
  const change = difference(found, task ?? {});
  if (!Object.keys(change).length) return { id, status: 200, task: found };
  const [changed] = await applyEach(api, [{ op: "change", id, task: change }]);
  return changed!;
}
