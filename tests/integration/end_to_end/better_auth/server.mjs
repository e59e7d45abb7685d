// Better Auth as in a frontend, with controls for time, options and failures.
//
//   BETTER_AUTH_SECRET=… node server.mjs '{"port": 3000, "algorithm": "ES256"}'
//
// The server stops at the end of its standard input. Members of the argument (only port is required):
//   name               the issuer in tokens, if it differs from the address
//   algorithm          EdDSA, ES256, ES512, RS256 or PS256
//   rotationInterval   seconds for which a key signs tokens
//   gracePeriod        seconds for which the key stays published after that
//   audience           a string or an array
//   subject            the member of the user for `sub`
//   ids                "serial" or "uuid" instead of random strings
//   cookieCache        "compact", "jwt" (signed with the secret), "jwt by key" or "jwe"
//   jwksPerMinute      the rate limit of the key set
//   todoApi            the service whose tasks are erased before an account is deleted
import { createServer } from "node:http";
import { text } from "node:stream/consumers";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt } from "better-auth/plugins";
import { SignJWT } from "jose";

import { eraseTasks } from "./erase-tasks.mjs";

const KEY_SET = "/api/auth/jwks";
const secret = process.env.BETTER_AUTH_SECRET;
const startOptions = JSON.parse(process.argv[2]);

let database, outbox, handleAuth, handleKeySet, fetches;

function frontend(options) {
  const { algorithm, rotationInterval, gracePeriod } = options;
  const { audience, subject, ids, cookieCache, jwksPerMinute, todoApi } = options;
  const [strategy, signedByKey] = cookieCache?.split(" by ") ?? [];
  const auth = betterAuth({
    baseURL: startOptions.name ?? `http://127.0.0.1:${startOptions.port}`,
    secret,
    database: memoryAdapter(database),
    emailAndPassword: { enabled: true },
    user: {
      deleteUser: {
        enabled: Boolean(todoApi),
        beforeDelete: (user, request) => eraseTasks(auth, todoApi, user, request),
      },
    },
    emailVerification: { sendVerificationEmail: async ({ token }) => void outbox.push(token) },
    session: { cookieCache: { enabled: Boolean(strategy), strategy } },
    rateLimit: {
      enabled: Boolean(jwksPerMinute),
      customRules: { "/jwks": { window: 60, max: jwksPerMinute } },
    },
    advanced: { database: { generateId: ids } },
    logger: { log: (level, ...words) => console.error(level, ...words) },
    telemetry: { enabled: false },
    plugins: [
      bearer(),
      jwt({
        sessionCookieCache: Boolean(signedByKey),
        jwks: { keyPairConfig: algorithm && { alg: algorithm }, rotationInterval, gracePeriod },
        jwt: { audience, getSubject: subject && (({ user }) => user[subject]) },
      }),
    ],
  });
  return auth;
}

// Failures of the key set
const failures = {
  slow(response) {
    const drip = setInterval(() => response.write(" "), 20);
    response.on("close", () => clearInterval(drip));
  },
  garbage: (response) => response.end("<!doctype html><title>Sign in</title>"),
  huge: (response) => response.end(JSON.stringify({ keys: [], padding: "x".repeat(2 ** 20) })),
  empty: (response) => response.end('{"keys":[]}'),
  limited: (response) => response.writeHead(429, { "X-Retry-After": "10" }).end("{}"),
  down: (response) => response.destroy(),
};

// Commands for tests: POST /control/<name>
const controls = {
  // An empty database without users and keys.
  install(options) {
    database = { user: [], session: [], account: [], verification: [], jwks: [] };
    outbox = [];
    fetches = 0;
    controls.configure(options);
  },
  // Other options for the same database, and no failure of the key set.
  configure(options) {
    handleAuth = toNodeHandler(frontend(options));
    handleKeySet = handleAuth;
  },
  // Make the keys older.
  age({ seconds }) {
    for (const key of database.jwks)
      for (const when of ["createdAt", "expiresAt"])
        if (key[when]) key[when] = new Date(key[when].getTime() - 1000 * seconds);
  },
  fail({ how }) {
    handleKeySet = (_, response) => failures[how](response);
  },
  fetches: () => fetches,
  mail: () => outbox.at(-1),
  // The token that a route of the frontend signs for the backend.
  sign: ({ claims, lifetime }) =>
    new SignJWT(claims)
      .setProtectedHeader({ alg: "HS256" })
      .setIssuedAt()
      .setExpirationTime(lifetime)
      .sign(new TextEncoder().encode(secret)),
};

async function control(request, response) {
  const result = await controls[request.url.split("/").at(-1)](JSON.parse(await text(request)));
  response.end(JSON.stringify(result ?? null));
}

controls.install(startOptions);
createServer((request, response) => {
  if (request.url.startsWith("/control/")) return control(request, response);
  if (request.url !== KEY_SET) return handleAuth(request, response);
  fetches += 1;
  return handleKeySet(request, response);
}).listen(startOptions.port, "127.0.0.1", () => console.log("ready"));

process.stdin.on("end", () => process.exit()).resume();
