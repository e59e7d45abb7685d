import { authClient } from "./auth-client";

let token: string | undefined;
let request: Promise<string | undefined> | undefined;
let session = 0; // counts how often the token was forgotten

// Without this, the next user would act with the previous user's token.
export function forgetToken() {
  session += 1;
  token = request = undefined;
}

// One request for a token, however many calls wait for it.
function fetchToken() {
  const started = session;
  request ??= authClient
    .token()
    .then(({ data }) => (session === started ? (token = data?.token) : undefined))
    .finally(() => {
      if (session === started) request = undefined;
    });
  return request;
}

// Send with the token, and after a 401 once more with a fresh one.
export async function withToken(send: (token: string) => Promise<Response>): Promise<Response> {
  const started = session;
  const current = token ?? (await fetchToken());
  if (!current || session !== started) throw new Error("not signed in");
  const response = await send(current);
  if (response.status !== 401 || session !== started) return response;
  if (token === current) token = undefined;
  const fresh = token ?? (await fetchToken());
  return fresh && session === started ? send(fresh) : response;
}

export function api(path: string, init: RequestInit = {}): Promise<Response> {
  return withToken((bearer) => {
    const headers = new Headers(init.headers);
    headers.set("Authorization", `Bearer ${bearer}`);
    if (init.body) headers.set("Content-Type", "application/json");
    return fetch(`https://api.example.com${path}`, { ...init, headers });
  });
}

export async function signOut() {
  forgetToken();
  await authClient.signOut();
  forgetToken();
}
