"""Explains to an operator why a token is rejected, and which setting to change."""

import socket
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import httpx

from todo_adapters.jose.http_client import new_client, proxy_variable
from todo_adapters.jose.key_sets import RemoteKeySet, parse_url
from todo_adapters.jose.keys import PUBLIC_KEY_ALGORITHMS
from todo_adapters.jose.rejections import RejectionReason as Reason
from todo_adapters.jose.verifiers import parse_token
from todo_domain.errors import AuthKeysUnavailable, TokenRejected

_DAMAGED: Final = "it is damaged: copy the whole token, without quotes"
_OTHER_PURPOSE: Final = "it is a JWT for another purpose: send the token from /api/auth/token"
_CLOCK: Final = "its iat or nbf is in the future or no number: compare the clocks of both machines"
_OTHER_KEY: Final = "its key is not (or no longer) in the auth server's key set: sign in again"
_EXPLANATIONS: Final = {
    Reason.TOO_LONG: "it is longer than 8 KiB: Better Auth's jwt() plugin sends the whole user row"
    " by default; select the members with definePayload",
    Reason.NOT_THREE_SEGMENTS: "it is not a JWT: send the token from /api/auth/token",
    Reason.NOT_BASE64URL: _DAMAGED,
    Reason.NOT_JSON: _DAMAGED,
    Reason.OPAQUE_SESSION: "it is Better Auth's session token: send the JWT from /api/auth/token"
    " (authClient.token()), which needs the jwt() plugin",
    Reason.ALGORITHM: "its algorithm is {alg}, which is not accepted: add it to AUTH_ALGORITHMS,"
    " or set another keyPairConfig in the jwt() plugin; HS256 needs AUTH_MODE=shared-secret",
    Reason.TYPE: _OTHER_PURPOSE,
    Reason.CRITICAL_HEADER: _OTHER_PURPOSE,
    Reason.KEY_IN_HEADER: _OTHER_PURPOSE,
    Reason.KID_MISSING: "its header has no key id (kid): tokens that a frontend signs with"
    " BETTER_AUTH_SECRET need AUTH_MODE=shared-secret here",
    Reason.SUBJECT: "its sub is not a user id: set getSubject in the jwt() plugin",
    Reason.ISSUER: "its issuer is {iss}, but this service accepts {issuer}: set BETTER_AUTH_URL (or"
    " AUTH_ISSUER) here to the token's issuer, or baseURL of Better Auth to {issuer}",
    Reason.AUDIENCE: "its audience is {aud}, but this service accepts {audience}: set AUTH_AUDIENCE"
    " here to the token's audience, or jwt.audience of the jwt() plugin to {audience}",
    Reason.EXPIRY: "its expiry time (exp) is missing or is not a number of seconds",
    Reason.NOT_BEFORE: _CLOCK,
    Reason.ISSUED_AT: _CLOCK,
    Reason.LIFETIME: "it is valid for more than seven days: sign it with an earlier exp",
    Reason.KID_UNKNOWN: _OTHER_KEY,
    Reason.ALGORITHM_OF_KEY: _OTHER_KEY,
    Reason.SIGNATURE: "its signature does not match: it was changed, or was signed with another"
    " key or secret",
    Reason.EXPIRED: "it has expired: fetch a new token (Better Auth's tokens last 15 minutes)",
}

_SETTINGS: Final = "in BETTER_AUTH_URL or AUTH_JWKS_URL"
_NO_JWKS: Final = (
    "add the jwt() plugin to Better Auth, and set AUTH_JWKS_URL if its base path is not /api/auth"
)
_NO_KEYS: Final = "check that the URL is the auth server's key set, and sign in once to create keys"
_STATUS_FIXES: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: _NO_JWKS,
    HTTPStatus.BAD_REQUEST: "write https:// if the server expects TLS at this port, " + _SETTINGS,
    HTTPStatus.UNAUTHORIZED: "allow requests without authentication for this URL",
    HTTPStatus.FORBIDDEN: "allow requests from this machine, also in a firewall or proxy",
    HTTPStatus.TOO_MANY_REQUESTS: "try again in a minute",
}
# ``{route}`` is the proxy, if there is one. The text ends with the names of the settings.
_CONNECTION_EXPLANATIONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (socket.gaierror, "the host has no address{route}: check the name"),
    (ConnectionRefusedError, "nothing listens at this host and port{route}: check the port"),
    (TimeoutError, "the server does not respond in time{route}: check host and port"),
    (httpx.TimeoutException, "the server does not respond in time{route}: check host and port"),
    (httpx.RemoteProtocolError, "the response is not HTTP{route}: check the port, or write https"),
    (httpx.ProxyError, "the request is refused{route}: add the host to NO_PROXY, or correct it"),
)


def explain_rejection(reason: str, token: str, *, issuer: str | None, audience: str | None) -> str:
    """What is wrong with a token that was rejected for this reason, and what to change."""
    try:
        header, claims = parse_token(token)
    except TokenRejected:
        header, claims = {}, {}
    return _EXPLANATIONS[Reason(reason)].format(
        alg=header.get("alg", "missing"),
        iss=claims.get("iss", "missing"),
        aud=claims.get("aud", "missing"),
        issuer=issuer,
        audience=audience or "only tokens without aud",
    )


@dataclass(frozen=True, slots=True)
class KeySetReport:
    """The properties of a key set that was fetched."""

    algorithms: Counter[str]  # how many usable keys have each
    clock_offset: timedelta | None  # how far the server's clock is ahead; None if it is not sent


async def inspect_key_set(url: str) -> KeySetReport:
    """Fetch the key set as the service does, and report.

    Raises AuthKeysUnavailable with the explanation, and ValueError for an invalid URL or variable.
    """
    responses: list[tuple[httpx.Response, datetime]] = []

    async def record(response: httpx.Response) -> None:
        responses.append((response, datetime.now(UTC)))

    address = parse_url(url)
    client = new_client(address)
    client.event_hooks = {"response": [record]}
    async with client, aclosing(RemoteKeySet(url, PUBLIC_KEY_ALGORITHMS, client=client)) as keys:
        try:
            await keys.check()
        except AuthKeysUnavailable as failure:
            cause = failure.__cause__ or failure
            response = responses[-1][0] if responses else None
            raise AuthKeysUnavailable(
                f"{_printable(address)}: {_explain_fetch(address, cause, response)}"
            ) from cause
        return KeySetReport(Counter(keys.algorithms()), _clock_offset(*responses[-1]))


def _clock_offset(response: httpx.Response, now: datetime) -> timedelta | None:
    with suppress(KeyError, TypeError, ValueError):
        return parsedate_to_datetime(response.headers["Date"]) - now
    return None


def _explain_fetch(url: httpx.URL, cause: BaseException, response: httpx.Response | None) -> str:
    """What is wrong, and what to do."""
    if response is None or isinstance(cause, httpx.HTTPError | TimeoutError):
        return _explain_connection(url, cause)
    if response.next_request is not None:
        target = _printable(response.next_request.url)
        return f"redirects to {target}: write the URL that answers itself, {_SETTINGS}"
    if response.status_code != HTTPStatus.OK:
        fix = _STATUS_FIXES.get(response.status_code, "look at the log of the auth server")
        return f"status {response.status_code}: {fix}"
    if "html" in response.headers.get("Content-Type", ""):
        return f"returns an HTML page, not a key set: {_NO_JWKS}"
    return f"{cause}: {_NO_KEYS}"


def _explain_connection(url: httpx.URL, cause: BaseException) -> str:
    variable = proxy_variable(url)
    route = f" through the proxy of {variable}" if variable else ""
    causes = list(_causes(cause))
    for kind, explanation in _CONNECTION_EXPLANATIONS:
        if any(isinstance(each, kind) for each in causes):
            return f"{explanation.format(route=route)} {_SETTINGS}"
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            reason = each.verify_message.rstrip(".")
            return (
                f"the certificate is not valid{route} ({reason}): correct it, or set SSL_CERT_FILE "
                "to the file with the certificate of a private CA"
            )
        if isinstance(each, ssl.SSLError):
            return (
                f"TLS fails{route} ({each.reason}): write http:// if the server has no TLS at this "
                f"port, {_SETTINGS}"
            )
    return f"cannot be fetched{route} ({cause}): {_SETTINGS}"


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    while failure:
        yield failure
        if isinstance(failure, BaseExceptionGroup):
            for each in failure.exceptions:
                yield from _causes(each)
        failure = failure.__cause__ or failure.__context__


def _printable(url: httpx.URL) -> str:
    """The URL without its query, which can contain a key."""
    return str(url.copy_with(query=None, fragment=None))
