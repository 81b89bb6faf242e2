"""Who reads the sockets: the thread that waits does, the I/O thread only when nobody else does.

Called by:  runtime.process, runtime.objects (waits), worker.executor (waits for work).
Imports:    nbray.transport, runtime.guard.
Never:      runs user code, or ticks while nothing is in flight.

Leader and followers. A thread that waits for something takes the leader's role if it is free and
polls the sockets itself, so that a reply needs no hand-over between threads; a thread that finds the
role taken sleeps on a lock of its own until its thing arrives or the role falls vacant. The
I/O thread blocks in the same epoll; when bytes arrive it first stands back for a millisecond, and
reads only if nobody else has.
All shared state of the runtime is guarded by ``lock``. Handlers run with it held.
Source: the leader/followers pattern, Schmidt et al., PLoP 2000.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from nbray.model.errors import ProtocolError
from nbray.runtime.guard import InterruptGuard
from nbray.runtime.waiting import SPIN_S, Spinning, Waiter
from nbray.transport.channel import Channel
from nbray.wire.base import Message

_monotonic = time.monotonic
_sched_yield = os.sched_yield
logger = logging.getLogger("nbray")

#: Bytes lie unread, or wait to be sent, for at most about this long while nobody waits.
_STAND_BACK_S = 0.001
#: While other threads keep reading, the I/O thread looks again only this often, and ever more rarely.
_BUSY_S = 0.005
_BUSY_MAX_S = 0.05
#: How long ``close`` waits for a thread that leads to leave (a listener of the user's may hold it up).
_LEAVE_S = 1.0
#: Outgoing bytes above this leave at once.
_FLUSH_BYTES = 64 * 1024
#: Events of one poll; more would cost a larger allocation each time.
_EVENTS_MAX = 32


class Loop:
    """The poll set of one process.

    Args:
        before_poll: run with the lock held before each poll: drops, buffered requests.
        after_batch: run with the lock held after the messages of one read were dispatched.
        housekeeping: run with the lock held when a deadline armed by ``arm`` has come.
    """

    def __init__(
        self,
        before_poll: Callable[[], None],
        after_batch: Callable[[], None],
        housekeeping: Callable[[float], None],
    ) -> None:
        self.lock = threading.Lock()
        self.guard = InterruptGuard(self._wake_for_interrupt)
        self.later: deque[Callable[[], None]] = deque()  # to run without the lock, soon
        self._before_poll = before_poll
        self._after_batch = after_batch
        self._housekeeping = housekeeping
        self._channels: dict[int, Channel] = {}
        self._acceptors: dict[int, tuple[socket.socket, Callable[[socket.socket], None]]] = {}
        self._open()
        self._dirty: list[Channel] = []
        self.is_due = False  # somebody waits for ``before_poll``, or for what is dirty to leave
        self._deadline_s: float | None = None
        self._spinning = Spinning()
        self._lead = threading.Lock()
        self.is_led = self._lead.locked  # whether a thread has the leader's role right now
        self._followers: deque[Waiter] = deque()
        self._main = threading.main_thread().ident
        self._main_waiter: Waiter | None = None
        self._reads = 0  # counts turns of leaders other than the I/O thread
        self._io_asleep = False  # it blocks for longer than a moment
        self._io_until_s: float | None = None  # when it wakes by itself
        self._wake_taken = False  # by a thread that leads, and it has not done what is due since
        self._io_gate = threading.Lock()
        self._io_gate.acquire()
        self._io_patient = False
        self.awaits = 0  # of event loops: none of their threads will read, so the I/O thread does at once
        self.closing = False
        self._thread = threading.Thread(target=self._io_main, name="nbray-io", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """In a fork of the process that made this, before it is used: have descriptors of our own."""
        self.epoll.close()
        os.close(self._wake_fd)
        self._open()

    def _open(self) -> None:
        self.epoll = select.epoll()  # event loops may watch it: it is readable when there is work
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._wake_fd, select.EPOLLIN)

    # --- connections ---------------------------------------------------------------------------

    def add(
        self,
        sock: socket.socket,
        name: str,
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> Channel:
        """Serve a connected, non-blocking socket."""
        channel = Channel(sock, name, on_message, on_closed)
        self._channels[channel.fd] = channel
        self.epoll.register(channel.fd, select.EPOLLIN)
        return channel

    def add_acceptor(self, listener: socket.socket, accept: Callable[[socket.socket], None]) -> None:
        self._acceptors[listener.fileno()] = (listener, accept)
        self.epoll.register(listener.fileno(), select.EPOLLIN)

    def remove(self, channel: Channel) -> None:
        """Forget and close a connection; ``on_closed`` is not called. Lock held."""
        if self._channels.pop(channel.fd, None) is not None:
            with contextlib.suppress(OSError):
                self.epoll.unregister(channel.fd)
            channel.close()

    # --- sending (lock held) ---------------------------------------------------------------------

    def send(self, channel: Channel, frame: bytes, *, now: bool) -> None:
        """Queue a frame; ``now`` sends all that waits on this channel, else it leaves soon."""
        channel.append(frame)
        if now or len(channel.outgoing) > _FLUSH_BYTES:
            self._flush(channel)
        elif not channel.dirty:
            self._make_dirty(channel)

    def send_rows(self, channel: Channel, rows: list[Any], *, now: bool) -> None:
        """Queue rows of the message that ``channel.batch`` makes, likewise."""
        channel.rows += rows
        if now:
            self._flush(channel)
        elif not channel.dirty:
            self._make_dirty(channel)

    def _make_dirty(self, channel: Channel) -> None:
        channel.dirty = True
        self._dirty.append(channel)
        self.soon()

    def soon(self) -> None:
        """Have ``before_poll`` called, and what waits sent, within about a millisecond. Lock held."""
        self.is_due = True
        if self._io_asleep:
            self._io_asleep = False
            self.wake()

    def _flush(self, channel: Channel) -> None:
        if channel.wants_write or channel.closed:
            return
        if not channel.flush():
            channel.wants_write = True
            self.epoll.modify(channel.fd, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        """Do what is due before a poll, and send what waits."""
        self.is_due = False
        self._before_poll()
        self._flush_dirty()

    def _flush_dirty(self) -> None:
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for channel in dirty:
                channel.dirty = False
                self._flush(channel)

    def arm(self, deadline_s: float) -> None:
        """Call ``housekeeping`` at this monotonic time, or before. Lock held."""
        if self._deadline_s is None or deadline_s < self._deadline_s:
            self._deadline_s = deadline_s
            if self._io_asleep:
                self._io_asleep = False
                self.wake()

    def wake(self) -> None:
        """Make the poll return. Safe anywhere, also in ``__del__`` and signal handlers."""
        with contextlib.suppress(OSError):
            os.write(self._wake_fd, b"\1\0\0\0\0\0\0\0")

    def _wake_for_interrupt(self) -> None:
        self.wake()
        waiter = self._main_waiter
        if waiter is not None:
            waiter.unpark()

    # --- waiting -----------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline_s: float | None = None) -> bool:
        """Serve the sockets until ``waiter`` is done, the deadline passes or Ctrl-C was pressed.

        Call it inside ``with loop.guard``. Returns ``waiter.done``.
        """
        is_main = threading.get_ident() == self._main
        while not waiter.done and not self.closing:
            if is_main and self.guard.pending:
                break
            if deadline_s is not None and _monotonic() >= deadline_s:
                break
            if self._lead.acquire(blocking=False):
                try:
                    self._lead_until(waiter, deadline_s, is_main)
                finally:
                    self._reads += 1
                    self._resign()
            else:
                self._follow(waiter, deadline_s, is_main)
        self.run_later()
        return waiter.done

    def glance(self) -> None:
        """Serve what has arrived, without waiting; for a thread that submits much and waits little.

        It does here what the I/O thread would do in its way, and pay for with switches of threads.
        Call it inside ``with loop.guard``.
        """
        if not self.closing and self._lead.acquire(blocking=False):
            try:
                self._serve(self.epoll.poll(0, _EVENTS_MAX))
                self._prepare(None)
            finally:
                self._reads += 1
                self._resign()

    def _lead_until(self, waiter: Waiter, deadline_s: float | None, is_main: bool) -> None:
        while not waiter.done and not self.closing:
            if is_main and self.guard.pending:
                return
            timeout = self._prepare(deadline_s)
            if waiter.done:  # before_poll may have finished it
                return
            if timeout is not None and timeout <= 0 and deadline_s is not None and _monotonic() >= deadline_s:
                self._serve(self.epoll.poll(0, _EVENTS_MAX))
                return
            events = self._look() if waiter.spins and self._spinning.is_worth_it() else None
            self._serve(events or self.epoll.poll(timeout, _EVENTS_MAX))

    def _look(self) -> list[tuple[int, int]]:
        """Poll without sleeping, for a moment; others who want the core get it in between."""
        poll = self.epoll.poll
        until_s = _monotonic() + SPIN_S
        events = poll(0, _EVENTS_MAX)
        while not events and _monotonic() < until_s:
            _sched_yield()
            events = poll(0, _EVENTS_MAX)
        self._spinning.ended(bool(events))
        return events

    def _prepare(self, deadline_s: float | None) -> float | None:
        """Do what is due; return how long the poll may last, in seconds."""
        with self.lock:
            self._wake_taken = False
            try:
                self._do_what_is_due()
            except Exception:
                # A bug of ours: neither the I/O thread nor the user's get() should end by it.
                logger.exception("housekeeping failed")
            if self._dirty:
                self._flush_dirty()
            due = self._deadline_s
        if self.later:
            self.run_later()
        if due is None and deadline_s is None:
            return None
        if deadline_s is not None and (due is None or deadline_s < due):
            due = deadline_s
        return None if due is None else max(0.0, due - _monotonic())

    def _do_what_is_due(self) -> None:
        self.is_due = False
        self._before_poll()
        if self._deadline_s is not None:
            now_s = _monotonic()
            if now_s >= self._deadline_s:
                self._deadline_s = None
                self._housekeeping(now_s)

    def _follow(self, waiter: Waiter, deadline_s: float | None, is_main: bool) -> None:
        with self.lock:
            if waiter.done:
                return
            self.flush()  # who leads may sleep in its poll
            waiter.park()
            self._followers.append(waiter)
        if is_main:
            self._main_waiter = waiter
        # The leader may have resigned before we stood in line: then nobody would wake us.
        if self._lead.acquire(blocking=False):
            self._lead.release()
        elif not (is_main and self.guard.pending):
            waiter.sleep(None if deadline_s is None else deadline_s - _monotonic())
        if is_main:
            self._main_waiter = None
        with self.lock:
            if waiter.parked:
                waiter.parked = False
                self._followers.remove(waiter)

    def _resign(self) -> None:
        """Give the leader's role up, and hand it to a thread that waits, if one does."""
        self._lead.release()
        with self.lock:
            while self._followers:
                waiter = self._followers.popleft()
                if waiter.parked:
                    waiter.unpark()
                    break
            if self._io_asleep and self._io_overslept():
                self._io_asleep = False
                self.wake()
        if self._io_patient:
            self._io_patient = False
            with contextlib.suppress(RuntimeError):
                self._io_gate.release()

    def _io_overslept(self) -> bool:
        """Whether the I/O thread, asleep, sleeps through what is due: another one took its wake-up.

        Lock held.
        """
        if self._wake_taken or self.is_due:
            return True
        due_s = self._deadline_s
        return due_s is not None and (self._io_until_s is None or due_s < self._io_until_s)

    # --- serving (leader only) -----------------------------------------------------------------------

    def _serve(self, events: list[tuple[int, int]]) -> None:
        for fd, mask in events:
            channel = self._channels.get(fd)
            if channel is not None:
                self._serve_channel(channel, mask)
            elif fd == self._wake_fd:
                self._take_wake()
            elif fd in self._acceptors:
                self._accept(*self._acceptors[fd])
        if self.later:
            self.run_later()

    def _take_wake(self) -> None:
        """One thread gets the wake-up of all that poll: the I/O thread may sleep on, so note that."""
        if threading.current_thread() is not self._thread:
            with self.lock:
                self._wake_taken = self._io_asleep = True
        if not self.closing:  # then it is for every thread
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_fd, 8)

    def _serve_channel(self, channel: Channel, mask: int) -> None:
        if mask & select.EPOLLOUT:
            with self.lock:
                if not channel.closed and channel.flush():
                    channel.wants_write = False
                    self.epoll.modify(channel.fd, select.EPOLLIN)
        if mask & ~select.EPOLLOUT:
            self.read(channel)

    def read(self, channel: Channel) -> None:
        """One read from one channel, dispatched."""
        messages: list[Message] = []
        try:
            alive = channel.read(messages)
        except ProtocolError as exc:
            alive = False
            self.later.append(partial(logger.error, "closed the connection to a %s: %s", channel.name, exc))
        with self.lock:
            try:
                for message in messages:
                    if channel.closed:
                        break
                    channel.on_message(message)
            except Exception:
                # A bug of ours. What waits for this peer gets its typed error rather than silence.
                logger.exception(
                    "a %s's message could not be dealt with; its connection is closed", channel.name
                )
                alive = False
            if not channel.closed:
                channel.commit()
                if not alive:
                    self.remove(channel)
                    channel.on_closed()
            self._after_batch()

    def _accept(self, listener: socket.socket, accept: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, _address = listener.accept()
            with self.lock:
                accept(sock)

    def run_later(self) -> None:
        while self.later:
            try:
                work = self.later.popleft()
            except IndexError:
                return
            try:
                work()
            except Exception:  # a listener's failure must not end the thread that reads
                logger.exception("a listener failed")

    # --- the I/O thread ---------------------------------------------------------------------------------

    def _io_main(self) -> None:
        pause_s = _STAND_BACK_S
        while not self.closing:
            seen = self._reads
            with self.lock:
                self._io_until_s = due_s = self._deadline_s
                timeout = None if due_s is None else max(0.0, due_s - _monotonic())
                timeout = _STAND_BACK_S if self.is_due else timeout
                self._io_asleep = timeout is None or timeout > _STAND_BACK_S
            events = self.epoll.poll(timeout, _EVENTS_MAX)
            self._io_asleep = False
            if self.closing:
                return
            if events and not (self.awaits and not self._lead.locked()):
                self._io_patient = pause_s > _BUSY_S
                self._io_gate.acquire(timeout=pause_s)
                self._io_patient = False
            if seen != self._reads or not self._lead.acquire(blocking=False):
                # Others read. They also send and keep house, unless they are between two turns.
                pause_s = _BUSY_S if seen != self._reads else min(2 * max(pause_s, _BUSY_S), _BUSY_MAX_S)
                self._prepare(None)
                continue
            pause_s = _STAND_BACK_S
            try:
                self._drain()
            finally:
                self._resign()

    def _drain(self) -> None:
        """Read until nothing is left; the leader's role is ours."""
        while not self.closing:
            self._prepare(None)
            events = self.epoll.poll(0, _EVENTS_MAX)
            if not events:
                return
            self._serve(events)

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close everything. Threads that wait come back; the I/O thread ends."""
        self.closing = True
        self.wake()
        with contextlib.suppress(RuntimeError):
            self._io_gate.release()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)
        # Who leads has seen the wake-up, but may be on its way into the poll.
        led = self._lead.acquire(timeout=_LEAVE_S)
        with self.lock:
            while self._followers:
                self._followers.popleft().unpark()
            for channel in list(self._channels.values()):
                channel.flush()
                self.remove(channel)
            for listener, _accept in self._acceptors.values():
                listener.close()
            self._acceptors.clear()
        self.epoll.close()
        os.close(self._wake_fd)
        self._wake_fd = -1
        if led:
            self._lead.release()
        self.guard.remove()

    def abandon(self) -> None:
        """In a forked child: close our copies of the descriptors without a word to anybody."""
        self.closing = True
        self.lock = threading.Lock()  # a thread that held it is not in this process
        self.guard.abandon()
        for channel in self._channels.values():
            channel.close()
        for listener, _accept in self._acceptors.values():
            listener.close()
        self.epoll.close()
        with contextlib.suppress(OSError):
            os.close(self._wake_fd)
        self._wake_fd = -1
