import { headers } from "next/headers";
import createClient from "openapi-fetch";

import { auth } from "./auth";
import type { paths } from "./schema";

// For server components, route handlers and server actions. Throws if no user is signed in.
export async function serverTodo() {
  const { token } = await auth.api.getToken({ headers: await headers() });
  return createClient<paths>({
    baseUrl: process.env.TODO_API_URL,
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
  });
}
