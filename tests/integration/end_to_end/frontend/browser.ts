/** The cookies of a browser, and what it requests: Better Auth's client and `fetch` use both. */

let cookies = new Map<string, string>();
export const requests: string[] = [];
let expired = 0;
let beforeToken: (() => Promise<unknown>) | undefined;

export const cookieHeader = () => [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");

/** Let the service answer 401 to the next requests. */
export function expireToken(count: number) {
  expired = count;
}

/** Run this once, after the next token was issued and before the page gets it. */
export function whileTheTokenIsOnItsWay(act: () => Promise<unknown>) {
  beforeToken = act;
}

export function count(part: string) {
  return requests.filter((url) => url.includes(part)).length;
}

const send = globalThis.fetch;

globalThis.fetch = (async (input: string | URL | Request, init?: RequestInit) => {
  const url = input instanceof Request ? input.url : String(input);
  requests.push(url);
  if (url.includes("/api/tasks") && expired-- > 0) return new Response("{}", { status: 401 });
  return send(input, init);
}) as typeof fetch;

export const authFetch = async (input: string | URL | Request, init?: RequestInit) => {
  requests.push(String(input));
  const headers = new Headers(init?.headers);
  headers.set("Cookie", cookieHeader());
  headers.set("Origin", new URL(String(input)).origin);
  const response = await send(input, { ...init, headers });
  for (const cookie of response.headers.getSetCookie()) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie)!;
    if (value) cookies.set(name!, value);
    else cookies.delete(name!);
  }
  if (String(input).endsWith("/token") && beforeToken) {
    const act = beforeToken;
    beforeToken = undefined;
    await act();
  }
  return response;
};
