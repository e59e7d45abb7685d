// erase-tasks.mjs: erases the tasks of a user before Better Auth deletes the account
import { APIError } from "better-auth/api";

export async function eraseTasks(auth, todoApi, user, request) {
  // The user's own token: the service accepts no other for these tasks.
  const { token } = await auth.api.getToken({ headers: request.headers });
  const response = await fetch(`${todoApi}/api/me`, {
    method: "DELETE",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ confirm: user.id }),
    signal: AbortSignal.timeout(10_000),
  }).catch(() => undefined);
  if (!response?.ok)
    throw new APIError("SERVICE_UNAVAILABLE", {
      code: "TASKS_NOT_ERASED",
      message: "Your tasks could not be erased, so your account was not deleted. Try again.",
    });
}
