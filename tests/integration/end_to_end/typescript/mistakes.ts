/** What the generated types have to refuse: each comment fails to compile if its mistake does not. */

import type { components, paths } from "./schema";

type Schemas = components["schemas"];
type Query = NonNullable<paths["/api/tasks"]["get"]["parameters"]["query"]>;

// @ts-expect-error a new task has a title
export const untitled: Schemas["NewTask"] = {};
// @ts-expect-error null clears, and a title cannot be cleared
export const cleared: Schemas["TaskChanges"] = { title: null };
// @ts-expect-error there is no such priority
export const urgent: Schemas["TaskChanges"] = { priority: "urgent" };
// @ts-expect-error a due date is text
export const dated: Schemas["NewTask"] = { title: "Buy milk", due_date: 20260131 };
// @ts-expect-error a task has no such member
export const done = (task: Schemas["Task"]): boolean => task.done;
// @ts-expect-error a parameter is absent or has a value
export const nothing: Query = { priority: null };
// @ts-expect-error there is no such error code
export const misspelled = (problem: Schemas["Problem"]): boolean => problem.code === "notfound";
// @ts-expect-error a filter is a boolean
export const words: Query = { completed: "yes" };
