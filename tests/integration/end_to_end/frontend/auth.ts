/** Better Auth as in a Next.js app, at AUTH_PORT. */

import { createServer } from "node:http";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";

export const origin = `http://localhost:${process.env.AUTH_PORT}`;

export const auth = betterAuth({
  baseURL: origin,
  secret: "the-secret-of-this-better-auth-and-its-frontend",
  database: memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] }),
  emailAndPassword: { enabled: true },
  telemetry: { enabled: false },
  plugins: [jwt()],
});

export const server = createServer(toNodeHandler(auth));
