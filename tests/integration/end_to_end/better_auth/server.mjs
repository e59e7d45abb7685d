// Better Auth as a frontend has it, and ways to make happen to it what happens in years.
//
//   BETTER_AUTH_SECRET=… node server.mjs '{"port": 3000, "algorithm": "ES256"}'
//
// It lives until its input ends. Members of the argument, all but the port optional:
//   name               its origin in tokens, if that is not where it listens
//   algorithm          EdDSA, ES256, ES512, RS256 or PS256
//   rotationInterval   seconds for which a key signs
//   gracePeriod        seconds for which it stays published after that
//   audience           text or array
//   subject            the member of the user that becomes `sub`
//   ids                "serial" or "uuid" instead of random text
//   cookieCache        "compact", "jwt" (under the secret), "jwt by key" or "jwe"
//   jwksPerMinute      the rate limit of the key set
import { createServer } from "node:http";
import { text } from "node:stream/consumers";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt } from "better-auth/plugins";
import { SignJWT } from "jose";

const KEY_SET = "/api/auth/jwks";
const secret = process.env.BETTER_AUTH_SECRET;
const startOptions = JSON.parse(process.argv[2]);

let database, outbox, handleAuth, answerKeys, fetches;

function frontend(options) {
  const { algorithm, rotationInterval, gracePeriod } = options;
  const { audience, subject, ids, cookieCache, jwksPerMinute } = options;
  const [strategy, signedByKey] = cookieCache?.split(" by ") ?? [];
  return betterAuth({
    baseURL: startOptions.name ?? `http://127.0.0.1:${startOptions.port}`,
    secret,
    database: memoryAdapter(database),
    emailAndPassword: { enabled: true },
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
}

// How the key set can be answered instead.
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

// What tests can make happen, by POST to /control/<name>.
const controls = {
  // A new database: no users, no keys.
  install(options) {
    database = { user: [], session: [], account: [], verification: [], jwks: [] };
    outbox = [];
    fetches = 0;
    controls.configure(options);
  },
  // Other options for the same database; the key set is answered well again.
  configure(options) {
    handleAuth = toNodeHandler(frontend(options));
    answerKeys = handleAuth;
  },
  // Let time pass for the keys.
  age({ seconds }) {
    for (const key of database.jwks)
      for (const when of ["createdAt", "expiresAt"])
        if (key[when]) key[when] = new Date(key[when].getTime() - 1000 * seconds);
  },
  fail({ how }) {
    answerKeys = (_, response) => failures[how](response);
  },
  fetches: () => fetches,
  mail: () => outbox.at(-1),
  // What a frontend's own route signs for the backend.
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
  return answerKeys(request, response);
}).listen(startOptions.port, "127.0.0.1", () => console.log("ready"));

process.stdin.on("end", () => process.exit()).resume();
