/** In place of next/headers: the header fields of the browser's request. */

import { cookieHeader } from "./browser";

export const headers = async () => new Headers({ Cookie: cookieHeader() });
