"""The wire: every message survives the way, and nothing else comes through.

Called by:  pytest.
Imports:    nbray.wire.{codec,messages,memory_messages}.
Never:      opens a socket; a buffer stands for what has arrived.

Messages are drawn by Hypothesis from their own annotations, so a new message is tested as soon as it
stands in ``ALL``. ``NUMBERS`` below is the protocol as it was shipped: append to it, change nothing.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.model.errors import ProtocolError
from nbray.model.limits import FRAME_MAX_BYTES
from nbray.model.store_plan import StorePlan
from nbray.wire import messages
from nbray.wire.actor_messages import ActorEnd, ActorFacts, ActorSpec, SavedCheckpoint
from nbray.wire.base import (
    Descriptor,
    Message,
    Value,
)
from nbray.wire.codec import HEADER, HEADER_BYTES, decode_buffer, encode
from nbray.wire.error_messages import ErrorRow
from nbray.wire.memory_messages import EntryFacts, Origin, ProcessFacts, StoredFacts
from nbray.wire.messages import (
    ALL,
    CancelLease,
    EventBatch,
    OwnerAddress,
    PutFunction,
    RunTasks,
    Shutdown,
    Status,
    TaskAnswer,
    TaskCall,
    TasksDone,
)
from nbray.wire.object_messages import (
    FreeObjects,
    GetObjects,
)
from nbray.wire.waiting_messages import (
    LeaseFacts,
    LifeFacts,
    ObjectFacts,
    QueueFacts,
    RunningFacts,
    TaskFacts,
    WaitFacts,
    WorkerFacts,
)

NUMBERS = [
    "StartNode",
    "Hello",
    "Welcome",
    "StartFailed",
    "Shutdown",
    "Stopped",
    "JobContext",
    "RequestLease",
    "CancelLease",
    "LeaseGranted",
    "LeaseInfeasible",
    "ReturnLease",
    "ReclaimLease",
    "WorkerLost",
    "Blocked",
    "Unblocked",
    "CreateObject",
    "ObjectCreated",
    "CreateFailed",
    "SealObject",
    "AbortObject",
    "FreeObjects",
    "GetObjects",
    "ObjectReady",
    "ObjectGone",
    "PinObjects",
    "ObjectsPinned",
    "UnpinObjects",
    "PutFunction",
    "LogLines",
    "EventBatch",
    "GetStatus",
    "Status",
    "OwnerHello",
    "DefineFunction",
    "DefineTask",
    "RunTasks",
    "TasksDone",
    "HandBack",
    "TakeBack",
    "LeasePaused",
    "LeaseResumed",
    "ForkWorker",
    "WorkerForked",
    "ZygoteReady",
    "Leaving",
    "Advice",
    "RequestSlab",
    "SlabGranted",
    "AdoptObject",
    "RecallSlab",
    "ReturnSlab",
    "HoldObjects",
    "ReleaseHolds",
    "SendParcel",
    "EndParcels",
    "SettleParcels",
    "ParcelsSettled",
    "LetGo",
    "Unheld",
    "RecallObjects",
    "ObjectsYielded",
    "DropObjects",
    "ObjectsLost",
    "GetMemory",
    "DescribeEntries",
    "EntriesDescribed",
    "MemoryReport",
    "PushError",
    "ErrorPushed",
    "GetErrors",
    "Errors",
    "LinkLost",
    "CreateActor",
    "FailActor",
    "StartActor",
    "ActorStarted",
    "ActorLeft",
    "KillActor",
    "ReleaseActor",
    "WatchActor",
    "UnwatchActor",
    "ActorUpdate",
    "NameActor",
    "FindActor",
    "ActorNamed",
    "GetActors",
    "ActorList",
    "CancelTask",
    "CancelOf",
    "SignalWorker",
    "RunInline",
    "InlineDeclined",
    "GetWaits",
    "DescribeWaits",
    "WaitsDescribed",
    "WaitsReport",
    "Notice",
    "EndAttempt",
    "MemoryEased",
    "CheckpointSaved",
    "StateHas",
    "CallsCovered",
    "ActorLinkLost",
]

#: Rows inside messages, which are drawn field by field as the messages are.
FACTS = (
    ActorEnd, ActorFacts, ActorSpec, ErrorRow, Origin, EntryFacts, ProcessFacts, StoredFacts, LeaseFacts,
    LifeFacts, ObjectFacts, QueueFacts, RunningFacts, SavedCheckpoint, TaskFacts, WaitFacts, WorkerFacts,
)  # fmt: skip

# Plain data as it arrives: msgpack knows neither tuples nor sets.
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
    max_leaves=6,
)
integers = st.integers(-(2**63), 2**64 - 1)
small_bytes = st.binary(max_size=40)
descriptors = st.builds(Descriptor, small_bytes, small_bytes, integers, integers, integers)
values = small_bytes | descriptors
calls = st.builds(
    TaskCall, small_bytes, integers, integers, values, st.lists(values, max_size=3), st.booleans()
)
answers = st.builds(
    TaskAnswer, small_bytes, integers, st.booleans(), st.lists(values, max_size=3), integers, integers
)
addresses = st.builds(OwnerAddress, small_bytes, integers, small_bytes, st.text(max_size=20))


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """What a field of this type may hold."""
    known: dict[Any, st.SearchStrategy[Any]] = {
        int: integers,
        bytes: small_bytes,
        str: st.text(max_size=20),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        Any: plain,
        Descriptor: descriptors,
        OwnerAddress: addresses,
        TaskCall: calls,
        TaskAnswer: answers,
        StorePlan: st.builds(
            StorePlan, integers, st.booleans(), st.text(max_size=9), integers, st.booleans()
        ),
        Value: small_bytes | descriptors,
    }
    if annotation in known:
        return known[annotation]
    if annotation == ActorEnd | None:
        return st.none() | values_of(ActorEnd)
    if annotation in FACTS:
        return st.builds(annotation, *(values_of(field.type) for field in msgspec.structs.fields(annotation)))
    origin, arguments = annotation.__origin__, annotation.__args__
    if origin is dict:
        return st.dictionaries(*map(values_of, arguments), max_size=3)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    assert origin is list, f"teach this test about {annotation}"
    return st.lists(values_of(arguments[0]), max_size=4)


def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    fields = msgspec.structs.fields(cls)
    return st.builds(cls, *(values_of(field.type) for field in fields))


any_message = st.sampled_from(ALL).flatmap(messages_of)


def decode(data: bytes) -> tuple[list[Message], int]:
    out: list[Message] = []
    return out, decode_buffer(bytearray(data), out)


def decode_or_refuse(data: bytes) -> list[Message]:
    """Whatever comes, the result is messages or a ProtocolError: any other error would end a daemon."""
    out: list[Message] = []
    try:
        used = decode_buffer(bytearray(data), out)
    except ProtocolError:
        return out
    assert 0 <= used <= len(data)
    return out


# --- what is sent arrives ----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_a_message_arrives_as_it_was_sent(cls: type[Message]) -> None:
    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(messages_of(cls))
    def check(message: Message) -> None:
        frame = encode(message)

        assert decode(frame) == ([message], len(frame))

    check()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(any_message, min_size=1, max_size=3))
def test_frames_may_be_cut_at_any_byte(sent: list[Message]) -> None:
    """Fed byte by byte, every message comes with the byte that completes it, and none before."""
    frames = [encode(message) for message in sent]
    ends = {sum(map(len, frames[: n + 1])): message for n, message in enumerate(frames)}
    buffer, arrived = bytearray(), []
    for at, byte in enumerate(b"".join(frames), 1):
        buffer.append(byte)
        out: list[Message] = []
        del buffer[: decode_buffer(buffer, out)]
        assert bool(out) is (at in ends)
        arrived += out

    assert arrived == sent
    assert not buffer


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(any_message, min_size=1, max_size=3), st.data())
def test_a_cut_leaves_the_rest_for_later(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cut = data.draw(st.integers(0, len(stream)))

    first, used = decode(stream[:cut])
    second, rest = decode(stream[used:])

    assert first + second == sent
    assert used + rest == len(stream)


def test_the_buffer_is_left_for_the_caller_to_clear() -> None:
    """An interrupt between decoding and dispatching must not lose a message."""
    buffer = bytearray(encode(CancelLease(b"x")))
    before = bytes(buffer)

    assert decode_buffer(buffer, []) == len(before)
    assert decode_buffer(buffer, []) == len(before)

    assert bytes(buffer) == before


def test_a_message_without_fields_has_a_frame() -> None:
    assert decode(encode(Shutdown())) == ([Shutdown()], HEADER_BYTES + 1)


def test_values_inside_messages_keep_their_kind() -> None:
    """Bytes that look like a descriptor stay bytes, and a descriptor stays one."""
    descriptor = Descriptor(b"o" * 20, b"n" * 16, 64, 1 << 40, 3)
    lookalike = msgspec.msgpack.encode(descriptor)

    done = TasksDone([TaskAnswer(b"t" * 16, 0, False, [lookalike, descriptor], 12, 0)])

    assert decode(encode(done))[0] == [done]


# --- what may not come through -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [FRAME_MAX_BYTES + 1, 2**31, 2**32 - 1])
def test_an_announced_length_above_the_cap_is_refused_at_once(length: int) -> None:
    """Nobody waits for four gigabytes, and nothing is allocated for them."""
    with pytest.raises(ProtocolError, match=f"announced a frame of {length} bytes"):
        decode(struct.pack("<IB", length, 1))


def test_a_length_at_the_cap_is_waited_for() -> None:
    assert decode(HEADER.pack(FRAME_MAX_BYTES, 1)) == ([], 0)


@pytest.mark.parametrize("kind", [0, len(ALL) + 1, 255])
def test_a_message_of_unknown_type_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown type {kind}"):
        decode(HEADER.pack(1, kind) + b"\x90")


def test_messages_before_a_bad_one_arrive() -> None:
    out: list[Message] = []
    data = bytearray(encode(CancelLease(b"a")) + encode(CancelLease(b"b")) + HEADER.pack(1, 0) + b"\x90")

    with pytest.raises(ProtocolError):
        decode_buffer(data, out)

    assert out == [CancelLease(b"a"), CancelLease(b"b")]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(any_message, st.data())
def test_a_truncated_body_is_refused(message: Message, data: st.DataObject) -> None:
    """The header is honest about what came, but the body ends too early."""
    frame = encode(message)
    body = frame[HEADER_BYTES:]
    short = body[: data.draw(st.integers(0, len(body) - 1))]

    with pytest.raises(ProtocolError, match=type(message).__name__):
        decode(HEADER.pack(len(short), frame[4]) + short)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(any_message, st.data())
def test_flipped_bits_give_messages_or_a_protocol_error(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame) * 8 - 1))
        frame[at // 8] ^= 1 << at % 8

    decode_or_refuse(bytes(frame))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, len(ALL)), st.binary(max_size=100))
def test_arbitrary_bodies_give_messages_or_a_protocol_error(kind: int, body: bytes) -> None:
    decode_or_refuse(HEADER.pack(len(body), kind) + body)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_messages_or_a_protocol_error(data: bytes) -> None:
    decode_or_refuse(data)


def number_of(cls: type[Message]) -> int:
    return ALL.index(cls) + 1


def frame_of(cls: type[Message], body: bytes) -> bytes:
    return HEADER.pack(len(body), number_of(cls)) + body


HOSTILE = {
    "a text that is no UTF-8": frame_of(PutFunction, b"\x93\xc4\x01f\xa2\xff\xfe\xc4\x01c"),
    "a list of four billion": frame_of(FreeObjects, b"\x91\xdd\xff\xff\xff\xff"),
    "lists of four billion in lists": frame_of(EventBatch, b"\x93\xc4\x00\x00" + b"\xdd" * 1001),
    "a map of four billion": frame_of(Status, b"\x92\x01\xdf\xff\xff\xff\xff"),
    "bytes of four gigabytes": frame_of(CancelLease, b"\x91\xc6\xff\xff\xff\xff"),
    "lists without end": frame_of(Status, b"\x92\x01\x81\xa1a" + b"\x91" * 100_000),
    "maps without end": frame_of(Status, b"\x92\x01\x81\xa1a" + b"\x81\xa1a" * 100_000),
    "a map as a key": frame_of(Status, b"\x92\x01\x81\xa1a\x81\x80\x01"),
    "a time that never was": frame_of(Status, b"\x92\x01\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12),
    "more than the body": frame_of(CancelLease, b"\x91\xc4\x01a\x01"),
    "nothing": frame_of(CancelLease, b""),
    "a missing field": frame_of(CancelLease, b"\x90"),
    "a text for bytes": frame_of(PutFunction, b"\x93\xa1f\x01\x01"),
    "a pair of three": frame_of(GetObjects, b"\x91\x91\x93\xc4\x00\xc4\x00\xc4\x00"),
}  # fmt: skip


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(frame)


def test_a_refusal_names_message_and_field() -> None:
    """Position 1 of a call is its attempt; a list cannot be one."""
    body = msgspec.msgpack.encode([[[b"t", [], 1, b"", [], False]]])

    with pytest.raises(ProtocolError, match=r"malformed RunTasks.*`int`.*\$\[0\]\[0\]\[1\]"):
        decode(frame_of(RunTasks, body))


def test_a_message_above_the_cap_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=r"PutFunction message of \d+ bytes.*nbray\.put"):
        encode(PutFunction(b"f", "f", bytes(FRAME_MAX_BYTES)))


# --- the protocol as it is ---------------------------------------------------------------------------


def test_type_numbers_are_only_ever_appended() -> None:
    """Another version of nbray reads them: a new message goes to the end, of this list as well."""
    assert [cls.__name__ for cls in ALL] == NUMBERS
    assert [encode_type(cls) for cls in (ALL[0], ALL[-1])] == [1, len(ALL)]


def encode_type(cls: type[Message]) -> int:
    blank: dict[str, Any] = {"int": 0, "str": "", "bytes": b"", "bool": False}
    fields = msgspec.structs.fields(cls)
    return encode(cls(*(blank.get(getattr(f.type, "__name__", ""), []) for f in fields)))[4]


def test_every_message_is_in_the_table_once() -> None:
    defined = {
        cls for cls in vars(messages).values() if isinstance(cls, type) and issubclass(cls, Message)
    } - {Message}

    assert defined == set(ALL)
    assert len(ALL) == len(set(ALL)) < 256


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_messages_are_frozen_arrays(cls: type[Message]) -> None:
    assert cls.__struct_config__.frozen
    assert cls.__struct_config__.array_like
