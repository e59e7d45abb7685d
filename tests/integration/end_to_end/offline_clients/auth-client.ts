/** The user who is signed in, in the shape of Better Auth's client: tokens that a frontend signs itself. */

import { createHmac, randomUUID } from "node:crypto";

const LIFETIME = 900; // seconds

export let tokensIssued = 0;
let user = "";
let nextHasExpired = false;

/** Sign in a new user. */
export function signIn() {
  user = randomUUID();
}

/** Issue a token that has expired already, once. */
export function expireNext() {
  nextHasExpired = true;
}

export const authClient = {
  async token() {
    const now = Math.floor(Date.now() / 1000);
    const iat = nextHasExpired ? now - LIFETIME - 1 : now;
    nextHasExpired = false;
    tokensIssued += 1;
    return { data: { token: signed({ sub: user, iat, exp: iat + LIFETIME }) } };
  },
  async signOut() {},
};

function signed(claims: object) {
  const input = [{ alg: "HS256", typ: "JWT" }, claims].map((part) => base64url(JSON.stringify(part))).join(".");
  const signature = createHmac("sha256", process.env.BETTER_AUTH_SECRET!).update(input).digest("base64url");
  return `${input}.${signature}`;
}

const base64url = (text: string) => Buffer.from(text).toString("base64url");
