"""Request bodies: strict JSON in UTF-8, uncompressed, of at most 1 MiB."""

from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
from starlette.types import ASGIApp, Message

from fakes import InMemoryTaskRepository
from support.tasks import a_task
from todo_api.http.bodies import BODY_MAX
from todo_domain.queries import TaskQuery

JSON: Final = {"Content-Type": "application/json"}
MILK: Final = b'{"title": "Buy milk"}'


class CountedBody(httpx.AsyncByteStream):
    """A body of unknown length in chunks of 64 KiB. Counts the chunks that are read."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < self._chunks:
            self.read += 1
            yield b" " * 64 * 1024


def of_length(length: int) -> bytes:
    """A valid body of this length in bytes."""
    return MILK.ljust(length)


async def is_empty(tasks: InMemoryTaskRepository) -> bool:
    return (await tasks.find("ada", TaskQuery())).tasks == ()


class TestJson:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"   \n", id="white space"),
            pytest.param(b"{", id="open"),
            pytest.param(MILK[:-1], id="truncated"),
            pytest.param(MILK + b"x", id="trailing text"),
            pytest.param(MILK + MILK, id="two documents"),
            pytest.param(b"{'title': 'Buy milk'}", id="single quotes"),
            pytest.param(b'{"title": "Buy milk",}', id="trailing comma"),
            pytest.param(b'{title: "Buy milk"}', id="bare member"),
            pytest.param(b'{"title": "Buy\nmilk"}', id="bare line break"),
            pytest.param(b'{"title": "Buy \\x6dilk"}', id="bad escape"),
            pytest.param(b'{"title": "Buy milk"} // today', id="comment"),
            pytest.param(b"title=Buy+milk", id="form"),
            pytest.param(b"undefined", id="undefined"),
            pytest.param(b'{"title": "Buy milk", "n": NaN}', id="NaN"),
            pytest.param(b'{"title": "Buy milk", "n": Infinity}', id="Infinity"),
            pytest.param(b'{"title": "Buy milk", "n": -Infinity}', id="-Infinity"),
            pytest.param(b'{"title": "Buy milk", "n": 01}', id="leading zero"),
            pytest.param(b'{"title": "Buy milk", "n": +1}', id="plus sign"),
            pytest.param(b'{"title": "Buy milk", "n": %s}' % (b"9" * 5000), id="huge number"),
            pytest.param(b"[" * 100_000 + b"]" * 100_000, id="nested arrays"),
            pytest.param(b"[" * 100_000, id="open arrays"),
            pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="nested objects"),
            pytest.param(b'{"title": "\xff"}', id="no UTF-8"),
            pytest.param(b'{"title": "\xc0\xaf"}', id="overlong UTF-8"),
            pytest.param(b'{"title": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
            pytest.param(b"\xef\xbb\xbf" + MILK, id="byte order mark"),
            pytest.param(MILK.decode().encode("utf-16"), id="UTF-16"),
            pytest.param(MILK.decode().encode("utf-16-le"), id="UTF-16 without mark"),
            pytest.param(MILK.decode().encode("utf-32"), id="UTF-32"),
            pytest.param(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", id="gzip"),
        ],
    )
    async def test_a_malformed_body_is_400_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, body: bytes
    ) -> None:
        response = await ada.post("/api/tasks", content=body, headers=JSON)
        assert (response.status_code, response.json()["code"]) == (400, "malformed_json")
        assert await is_empty(tasks)

    async def test_the_error_names_line_and_column_of_malformed_json(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.post("/api/tasks", content=b'{\n  "title": milk}', headers=JSON)
        assert response.json()["detail"] == "the body is not valid JSON: line 2, column 12"

    @pytest.mark.parametrize(
        ("body", "field", "code"),
        [
            (b'{"title": "a\\u0000b"}', "title", "bad_character"),
            (b'{"title": "\\ud800"}', "title", "bad_character"),
            (b'{"title": "\\udfff\\ud800"}', "title", "bad_character"),
            (b'{"title": "x", "description": "\\u0000"}', "description", "bad_character"),
            (b'{"title": "x", "description": "\\udc00"}', "description", "bad_character"),
            (b'{"title": "x", "tags": ["\\ud83d"]}', "tags.0", "bad_character"),
            (b'{"title": "x", "priority": "\\ud83d"}', "priority", "unknown_value"),
            (b'{"title": "x", "due_date": "\\ud83d"}', "due_date", "bad_date"),
            (b'{"\\ud800": "x"}', "title", "required"),
            (b'{"title": 1e400}', "title", "wrong_type"),
            (b"[]", "body", "wrong_type"),
            (b"null", "body", "wrong_type"),
            (b'"Buy milk"', "body", "wrong_type"),
            (b"1", "body", "wrong_type"),
        ],
    )
    async def test_json_that_is_not_a_valid_task_is_422_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: InMemoryTaskRepository,
        body: bytes,
        field: str,
        code: str,
    ) -> None:
        response = await ada.post("/api/tasks", content=body, headers=JSON)
        assert response.status_code == 422
        assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [
            (field, code)
        ]
        assert await is_empty(tasks)

    async def test_an_error_of_the_whole_body_has_the_field_body_and_an_empty_pointer(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.post("/api/tasks", json=["Buy milk"])
        (error,) = response.json()["errors"]
        assert error == {
            "field": "body",
            "pointer": "",
            "code": "wrong_type",
            "message": "must be a JSON object",
        }

    @pytest.mark.parametrize("n", [b"1e400", b"-1e-400", b"9" * 4000, b'"\\ud800"', b"[[[[1]]]]"])
    async def test_unknown_members_may_have_any_json_value(
        self, ada: httpx.AsyncClient, n: bytes
    ) -> None:
        body = b'{"title": "Buy milk", "n": %s}' % n
        assert (await ada.post("/api/tasks", content=body, headers=JSON)).status_code == 201

    @pytest.mark.parametrize("body", ['{"title": "é 😀"}', '{"title": "\\u00e9 \\ud83d\\ude00"}'])
    async def test_escaped_and_plain_characters_are_the_same_text(
        self, ada: httpx.AsyncClient, body: str
    ) -> None:
        response = await ada.post("/api/tasks", content=body.encode(), headers=JSON)
        assert response.json()["title"] == "é 😀"


class TestMediaType:
    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json",
            "APPLICATION/JSON",
            "application/json;charset=utf-8",
            "application/json; charset=UTF-8",
            'application/json; charset="utf-8"',
            "application/json ; charset=utf-8",
            "application/json; charset=utf-8; profile=x",
            "application/json; profile=x",
            "application/json;",
        ],
    )
    async def test_content_type_application_json_is_accepted_in_any_spelling(
        self, ada: httpx.AsyncClient, content_type: str
    ) -> None:
        headers = {"Content-Type": content_type}
        response = await ada.post("/api/tasks", content=MILK, headers=headers)
        assert response.status_code == 201

    @pytest.mark.parametrize("content_type", ["application/json", "application/merge-patch+json"])
    async def test_content_type_merge_patch_is_accepted(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, content_type: str
    ) -> None:
        task = a_task(description="2 litres")
        await tasks.add(task)
        headers = {"Content-Type": content_type}
        path = f"/api/tasks/{task.id}"
        response = await ada.patch(path, content=b'{"description": null}', headers=headers)
        assert (response.status_code, response.json()["description"]) == (200, None)

    @pytest.mark.parametrize(
        "content_type",
        [
            None,
            "",
            "text/plain;charset=UTF-8",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/xml",
            "application/vnd.api+json",
            "application/json-patch+json",
            "application",
            "application/json, text/plain",
            "application/json; charset=utf-16",
            "application/json; charset=iso-8859-1",
            "application/json; profile=x; charset=iso-8859-1",
        ],
    )
    async def test_another_content_type_is_415_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, content_type: str | None
    ) -> None:
        headers = {} if content_type is None else {"Content-Type": content_type}
        response = await ada.post("/api/tasks", content=MILK, headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert await is_empty(tasks)

    @pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "GZIP", "identity, gzip"])
    async def test_a_compressed_body_is_415(self, ada: httpx.AsyncClient, coding: str) -> None:
        headers = {**JSON, "Content-Encoding": coding}
        response = await ada.post("/api/tasks", content=MILK, headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert "Content-Encoding" in response.json()["detail"]
        assert response.headers["Accept-Encoding"] == "identity"

    async def test_several_content_encoding_fields_are_one_list(
        self, ada: httpx.AsyncClient
    ) -> None:
        fields = [*JSON.items(), ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
        assert (await ada.post("/api/tasks", content=MILK, headers=fields)).status_code == 415

    async def test_a_part_of_a_body_is_400(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        headers = {**JSON, "Content-Range": "bytes 0-20/42"}
        response = await ada.post("/api/tasks", content=MILK, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "bad_request")
        assert response.json()["detail"].startswith("Content-Range: ")
        assert await is_empty(tasks)

    # Header fields of RFC 9110 that the service ignores: it has no dates, ranges or trailers.
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT"),
            ("If-Modified-Since", "Fri, 31 Dec 2038 23:59:59 GMT"),
            ("If-Unmodified-Since", "yesterday"),
            ("If-Range", '"1"'),
            ("Range", "bytes=0-1"),
            ("Range", "lines=1-"),
            ("Expect", "200-ok"),
            ("TE", "trailers, deflate;q=0.5"),
            ("Trailer", "Expires"),
            ("Max-Forwards", "-1"),
            ("Upgrade", "h2c"),
            ("Connection", "close, X-Nothing"),
            ("Date", "tomorrow"),
            ("From", "ada"),
            ("Referer", "not a URL"),
            ("Via", "1.1 proxy"),
            ("Accept-Charset", "iso-8859-1, utf-8;q=0"),
            ("Accept-Encoding", "identity;q=0, *;q=0"),
            ("Accept-Language", "*;q=high"),
            ("Content-Language", "tlh"),
            ("Content-Location", "/elsewhere"),
            ("Content-Disposition", "form-data"),
            ("Allow", "GET"),
            ("Proxy-Authorization", "Basic x"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Forwarded-Prefix", "/elsewhere"),
            ("X-Forwarded-Host", "evil.example"),
            ("Host", "a:b:c"),
        ],
    )
    async def test_a_header_without_meaning_here_does_not_change_a_write(
        self, ada: httpx.AsyncClient, name: str, value: str
    ) -> None:
        headers = {**JSON, name: value}
        response = await ada.post("/api/tasks", content=MILK, headers=headers)
        assert response.status_code == 201
        assert response.headers["Location"] == f"/api/tasks/{response.json()['id']}"

    @pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
    async def test_content_encoding_identity_is_accepted(
        self, ada: httpx.AsyncClient, coding: str
    ) -> None:
        headers = {**JSON, "Content-Encoding": coding}
        assert (await ada.post("/api/tasks", content=MILK, headers=headers)).status_code == 201


class TestSize:
    async def test_a_body_of_one_mebibyte_is_accepted(self, ada: httpx.AsyncClient) -> None:
        assert BODY_MAX == 1024 * 1024
        body = of_length(BODY_MAX)
        assert (await ada.post("/api/tasks", content=body, headers=JSON)).status_code == 201

    async def test_a_body_of_one_byte_more_is_413_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        body = of_length(BODY_MAX + 1)
        response = await ada.post("/api/tasks", content=body, headers=JSON)
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
        assert await is_empty(tasks)

    @pytest.mark.parametrize("length", [str(BODY_MAX + 1), "9" * 18, "9" * 5000])
    async def test_a_too_large_content_length_is_413_before_the_body_is_read(
        self, ada: httpx.AsyncClient, length: str
    ) -> None:
        body = CountedBody(1)
        headers = {**JSON, "Content-Length": length}
        response = await ada.post("/api/tasks", content=body, headers=headers)
        assert (response.status_code, body.read) == (413, 0)

    async def test_a_body_is_413_as_soon_as_it_is_too_large(self, ada: httpx.AsyncClient) -> None:
        body = CountedBody(1_000_000)
        response = await ada.post("/api/tasks", content=body, headers=JSON)
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
        assert body.read == 17

    async def test_a_body_larger_than_its_content_length_is_413(
        self, ada: httpx.AsyncClient
    ) -> None:
        body = CountedBody(1_000_000)
        headers = {**JSON, "Content-Length": "21"}
        response = await ada.post("/api/tasks", content=body, headers=headers)
        assert (response.status_code, body.read) == (413, 17)

    async def test_a_chunked_body_is_accepted(self, ada: httpx.AsyncClient) -> None:
        async def in_chunks() -> AsyncIterator[bytes]:
            for octet in '{"title": "Bücher lesen"}'.encode():
                yield bytes([octet])

        response = await ada.post("/api/tasks", content=in_chunks(), headers=JSON)
        assert (response.status_code, response.json()["title"]) == (201, "Bücher lesen")


async def test_an_incomplete_body_changes_nothing(
    app: ASGIApp, tasks: InMemoryTaskRepository
) -> None:
    arriving: list[Message] = [
        {"type": "http.request", "body": MILK, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return arriving.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/tasks",
        "raw_path": b"/api/tasks",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer ada"), (b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert await is_empty(tasks)
