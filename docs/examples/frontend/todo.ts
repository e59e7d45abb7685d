import createClient from "openapi-fetch";

import { withToken } from "./api";
import type { components, paths } from "./schema";

export type Task = components["schemas"]["Task"];
export type Changes = components["schemas"]["TaskChanges"];
export type Problem = components["schemas"]["Problem"];

export const todo = createClient<paths>({
  baseUrl: "https://api.example.com",
  fetch: (request: Request) =>
    withToken((bearer) => {
      const attempt = request.clone(); // the body of a request can be read once
      attempt.headers.set("Authorization", `Bearer ${bearer}`);
      return fetch(attempt);
    }),
});
