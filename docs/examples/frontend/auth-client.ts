import { jwtClient } from "better-auth/client/plugins";
import { createAuthClient } from "better-auth/react";

import { forgetToken } from "./api";

export const authClient = createAuthClient({
  plugins: [jwtClient()],
  fetchOptions: {
    // Every sign-in, sign-out and change of the user, whatever code does it.
    onSuccess: ({ request }) => {
      if (request.method !== "GET") forgetToken();
    },
  },
});

// Another tab may have signed in another user.
globalThis.document?.addEventListener("visibilitychange", () => {
  if (!document.hidden) forgetToken();
});
