"""When lines reach standard output, and in how many pieces."""

import asyncio
from select import PIPE_BUF
from types import SimpleNamespace

import pytest

from todo_api.server import logs
from todo_api.server.logs import BufferedStdout


class Recorder:
    """A file that remembers what was written and flushed, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._unflushed = b""

    def write(self, piece: bytes) -> None:
        self._unflushed += piece

    def flush(self) -> None:
        self.pieces.append(self._unflushed)
        self._unflushed = b""


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    stdout = SimpleNamespace(buffer=recorder)
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stdout=stdout))  # pytest has its own in sys
    return recorder


async def the_turn_ends() -> None:
    await asyncio.sleep(0)


async def test_lines_of_one_turn_of_the_loop_are_written_at_its_end_in_one_piece(
    recorder: Recorder,
) -> None:
    output = BufferedStdout()
    for _ in range(2):
        output.info(b"one\n")
        output.warning(b"two\n")
        assert recorder.pieces == []
        await the_turn_ends()
        assert recorder.pieces == [b"one\ntwo\n"]
        recorder.pieces.clear()


async def test_an_error_is_written_at_once_after_what_came_before_it(recorder: Recorder) -> None:
    output = BufferedStdout()
    output.info(b"one\n")
    output.error(b"two\n")
    assert b"".join(recorder.pieces) == b"one\ntwo\n"


async def test_no_piece_of_short_lines_is_more_than_a_pipe_takes_as_a_whole(
    recorder: Recorder,
) -> None:
    output, lines = BufferedStdout(), [b"%03d%s\n" % (n, b"x" * 300) for n in range(100)]
    for line in lines:
        output.info(line)
    await the_turn_ends()
    assert b"".join(recorder.pieces) == b"".join(lines)
    assert len(recorder.pieces) < len(lines) / 10
    assert all(len(piece) <= PIPE_BUF and piece.endswith(b"\n") for piece in recorder.pieces)


async def test_a_line_that_is_longer_is_written_by_itself(recorder: Recorder) -> None:
    output, long = BufferedStdout(), b"x" * PIPE_BUF + b"\n"
    for line in (b"one\n", long, b"two\n"):
        output.info(line)
    await the_turn_ends()
    assert recorder.pieces == [b"one\n", long, b"two\n"]


def test_lines_where_no_loop_runs_are_written_each_at_once(recorder: Recorder) -> None:
    output = BufferedStdout()
    for line in (b"one\n", b"two\n"):
        output.info(line)
        assert recorder.pieces.pop() == line


def test_lines_of_a_loop_that_ended_too_soon_come_before_those_of_the_next(
    recorder: Recorder,
) -> None:
    output = BufferedStdout()

    async def say(line: bytes) -> None:
        output.info(line)
        asyncio.get_running_loop().stop()

    for line in (b"one\n", b"two\n"):
        loop = asyncio.new_event_loop()
        saying = loop.create_task(say(line))
        loop.run_forever()
        assert saying.done()
        loop.close()
    output.info(b"three\n")
    assert b"".join(recorder.pieces) == b"one\ntwo\nthree\n"
