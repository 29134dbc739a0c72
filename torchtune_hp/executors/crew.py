"""The worker processes of a study, seen from the driver: a queue each, replies as they come, and a new one for each that dies."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal

from ..errors import StudyFailedError
from .messages import Broken, Close, Hello, Measured, Ready, Reply, Request, Said, Saved, Several, Word, is_alone, receive, send
from .server import BORN, ForkServer

STARTS = 3
"""So many times in a row may a worker die before it is up; then the study fails."""


@dataclass(slots=True, eq=False)
class Member:
    """A place in the crew, filled by one process after another. `asked`: sent and not yet answered, in order."""

    number: int
    connection: Connection
    stage: Literal["asked for", "born", "up"] = "asked for"
    pid: int | None = None
    starts: int = 1                 # in a row without having been up
    orphan: bool = False            # its pipe is closed: it is of no use any more
    asked: deque[Request] = field(default_factory=deque)
    queue: deque[Request] = field(default_factory=deque)

    @property
    def load(self) -> int:
        return len(self.asked) + len(self.queue)


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's word on `request`, which is finished if the word is Said, Saved or Measured."""

    member: Member
    request: Request
    reply: Word


@dataclass(frozen=True, slots=True)
class Death:
    """A worker died, and another takes its place. `asked`: what it was at, in order; `rest`: what it had not yet been sent, or would have
    done had it not been killed from outside."""

    member: Member
    asked: tuple[Request, ...]
    rest: tuple[Request, ...]
    why: str
    restart: str


class Crew:
    """`size` workers. Starts them and returns at once; `poll` then tells what comes of what they were given.

    `hello`: what the worker of this number is told first.
    """

    def __init__(self, size: int, hello: Callable[[int], Hello], environment: Mapping[str, str]) -> None:
        self._hello = hello
        self._environment = environment
        self._selector = selectors.DefaultSelector()
        self._unborn: deque[Member] = deque()      # in the order they were asked for
        self._serve()
        self.members = [Member(number, self._server.fork()) for number in range(size)]
        for member in self.members:
            self._enlist(member)

    def give(self, member: Member, request: Request) -> None:
        """Queues the request: by the next `send` it goes as soon as the worker has answered all before, together with what follows."""
        member.queue.append(request)

    def send(self) -> None:
        """To all who wait for it, what was queued for them."""
        for member in self.members:
            self._pump(member)

    def tell(self, member: Member, message: object) -> None:
        """At once, to a worker that waits for a word in the middle of its work."""
        self._send(member, message)

    def poll(self, timeout: float | None = None) -> list[Answer | Death]:
        """What came meanwhile; waits for something to happen, which may be of no interest outside (an empty list)."""
        heard: list[Answer | Death] = []
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                if key.fileobj is self._server:
                    heard += self._news()
            elif key.fileobj is key.data.connection:        # else: replaced a moment ago
                heard += self._hear(key.data)
        return heard

    def close(self, grace: float) -> None:
        """Ends all: those up may finish their step and their trials' cleanup for `grace` seconds."""
        try:
            leaving = {member.pid for member in self.members if member.stage == "up"}
            for member in self.members:
                self._hang_up(member)
                member.connection.close()
            until = time.monotonic() + grace
            while leaving and self._selector.select(max(0.0, until - time.monotonic())):
                frames = self._server.read()
                if frames is None:
                    break
                leaving -= {pid for _, pid, _ in frames}
        finally:
            self._selector.close()
            self._server.close()

    def _serve(self) -> None:
        self._server = ForkServer(self._environment)
        self._served = False
        self._selector.register(self._server, selectors.EVENT_READ, None)

    def _enlist(self, member: Member) -> None:
        self._unborn.append(member)
        self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _pump(self, member: Member) -> None:
        if member.stage == "up" and member.queue and not member.asked:
            batch = [member.queue.popleft()]
            while member.queue and not (is_alone(batch[-1]) or is_alone(member.queue[0])):
                batch.append(member.queue.popleft())
            member.asked.extend(request for request in batch if not isinstance(request, Close))
            self._send(member, batch)
            self._pump(member)          # of what is not answered, nothing is waited for

    def _send(self, member: Member, message: object) -> None:
        with suppress(OSError):         # it died; the server will say so
            send(member.connection, message)

    def _hear(self, member: Member) -> list[Answer | Death]:
        try:
            reply: Reply = receive(member.connection)
        except (EOFError, OSError):
            self._hang_up(member)
            self._kill(member)          # should it live on without a pipe
            return []
        if isinstance(reply, Broken):
            raise StudyFailedError(f"What is to be trained cannot be rebuilt in a worker process:\n{reply.error}")
        if isinstance(reply, Ready):
            if member.stage == "asked for":
                member.stage = "born"
                self._send(member, self._hello(member.number))
            else:
                member.stage, member.starts, self._served = "up", 0, True
                self._pump(member)
            return []
        replies = reply.replies if isinstance(reply, Several) else (reply,)
        return [self._answered(member, each) for each in replies]

    def _answered(self, member: Member, reply: Word) -> Answer:
        request = member.asked[0]
        if isinstance(reply, (Said, Saved, Measured)):
            member.asked.popleft()
            self._pump(member)
        return Answer(member, request, reply)

    def _hang_up(self, member: Member) -> None:
        """Hears no more of this worker."""
        if not member.orphan:
            self._selector.unregister(member.connection)
        member.orphan = True

    def _kill(self, member: Member) -> None:
        if member.pid is not None:
            with suppress(OSError):
                os.kill(member.pid, signal.SIGKILL)

    def _news(self) -> list[Answer | Death]:
        frames = self._server.read()
        if frames is None:
            return self._server_died()
        heard: list[Answer | Death] = []
        for what, pid, number in frames:
            if what == BORN:
                member = self._unborn.popleft()
                if pid:
                    member.pid = pid
                    if member.orphan:
                        self._kill(member)
                else:
                    heard += self._died(member, os.strerror(number))
                continue
            code = os.waitstatus_to_exitcode(number)
            member = next(member for member in self.members if member.pid == pid)
            heard += self._died(member, f"signal {-code}" if code < 0 else f"exit status {code}")
        return heard

    def _died(self, member: Member, why: str) -> list[Answer | Death]:
        heard: list[Answer | Death] = []
        while not member.orphan and member.connection.poll(0):      # what it said before
            heard += self._hear(member)
        if member.stage != "up" and member.starts >= STARTS:
            raise StudyFailedError(
                f"A worker process died at start-up {STARTS} times in a row, last of {why}. It wrote:\n{self._server.said()}"
            )
        heard.append(self._replace(member, why, blame=True))
        return heard

    def _replace(self, member: Member, why: str, blame: bool) -> Death:
        self._hang_up(member)
        member.connection.close()
        asked = tuple(member.asked)
        rest = tuple(request for request in member.queue if not isinstance(request, Close))
        if not blame:
            asked, rest = (), (*asked, *rest)
        member.starts += 1
        member.stage, member.pid, member.orphan = "asked for", None, False
        member.asked.clear()
        member.queue.clear()
        member.connection = self._server.fork()
        self._enlist(member)
        return Death(member, asked, rest, why, f"{member.starts}/{STARTS}")

    def _server_died(self) -> list[Answer | Death]:
        said = self._server.said()
        self._selector.unregister(self._server)
        self._server.close()
        if not self._served:
            raise StudyFailedError(f"The process that worker processes are forked from died at start-up. It wrote:\n{said}")
        self._unborn.clear()
        self._serve()
        return [self._replace(member, "the fork server was killed", blame=False) for member in self.members]


