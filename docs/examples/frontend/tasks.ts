import { QueryClient, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";

import { type Changes, type Problem, type Task, todo } from "./todo";

type TaskList = { tasks: Task[]; etag?: string };

const TASKS = ["tasks"];

export class TodoError extends Error {
  constructor(readonly problem: Problem | undefined) {
    super(problem?.detail ?? "the service does not respond");
  }
}

// The list, or the previous one if it is still current (304).
export async function fetchTasks(previous?: TaskList): Promise<TaskList> {
  const { data, error, response } = await todo.GET("/api/tasks", {
    params: { header: { "If-None-Match": previous?.etag } },
  });
  if (previous && response.status === 304) return previous;
  if (!data) throw new TodoError(error);
  return { tasks: data, etag: response.headers.get("ETag") ?? undefined };
}

export const tasksQuery = (client: QueryClient) => ({
  queryKey: TASKS,
  queryFn: () => fetchTasks(client.getQueryData<TaskList>(TASKS)),
});

// Shows the change at once; takes it back if the service refuses it.
export const updateTask = (client: QueryClient) => ({
  mutationFn: async ({ task, changes }: { task: Task; changes: Changes }) => {
    const { data, error } = await todo.PATCH("/api/tasks/{task_id}", {
      params: { path: { task_id: task.id }, header: { "If-Match": `"${task.version}"` } },
      body: changes,
    });
    if (!data) throw new TodoError(error);
    return data;
  },
  onMutate: async ({ task, changes }: { task: Task; changes: Changes }) => {
    await client.cancelQueries({ queryKey: TASKS });
    const before = client.getQueryData<TaskList>(TASKS);
    const changed = (each: Task) => (each.id === task.id ? ({ ...each, ...changes } as Task) : each);
    // Without an ETag: the service has no list like this one.
    if (before) client.setQueryData<TaskList>(TASKS, { tasks: before.tasks.map(changed) });
    return { before };
  },
  onError: (_error: Error, _variables: unknown, context?: { before?: TaskList }) => {
    client.setQueryData(TASKS, context?.before);
  },
  onSettled: () => client.invalidateQueries({ queryKey: TASKS }),
});

export const useTasks = () => useQuery(tasksQuery(useQueryClient()));
export const useUpdateTask = () => useMutation(updateTask(useQueryClient()));
