"""gRPC's interoperability test cases through grpcio (the C core), without generated code.

Takes the port of the server. Prints a JSON object for each case: its name, and what went wrong, if
anything did.
"""

import json
import sys
import threading

import grpc

SERVICE = "/grpc.testing.TestService/"
UNICODE = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def integer(number, value):
    return varint(number << 3) + varint(value)


def payload(number, size):
    return text(number, text(2, bytes(size)))


def parameters(*sizes, interval_us=0):
    each = (integer(1, size) + integer(2, interval_us) for size in sizes)
    return b"".join(text(2, one) for one in each)


def fields(message):
    """The fields of a message by number, the last of each."""
    found, at = {}, 0

    def read():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = read()
        value = read()
        if tag & 7 == 2:
            found[tag >> 3] = message[at : at + value]
            at += value
        else:
            found[tag >> 3] = value
    return found


def body_size(message):
    return len(fields(fields(message)[1]).get(2, b""))


def expect(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def expect_failure(run, code, details=None):
    try:
        run()
    except grpc.RpcError as error:
        expect(error.code(), code)
        if details is not None:
            expect(error.details(), details)
        return
    raise AssertionError("no error")


def empty_unary(channel):
    expect(channel.unary_unary(SERVICE + "EmptyCall")(b""), b"")


def large_unary(channel, **options):
    request = integer(2, 314159) + payload(3, 271828)
    expect(body_size(channel.unary_unary(SERVICE + "UnaryCall")(request, **options)), 314159)


def compressed_unary(channel):
    request = text(8, integer(1, 1)) + integer(2, 314159) + payload(3, 271828)
    call = channel.unary_unary(SERVICE + "UnaryCall")
    expect(body_size(call(request, compression=grpc.Compression.Gzip)), 314159)
    expect_failure(lambda: call(request), grpc.StatusCode.INVALID_ARGUMENT)


def client_streaming(channel):
    requests = (payload(1, size) for size in (27182, 8, 1828, 45904))
    reply = channel.stream_unary(SERVICE + "StreamingInputCall")(requests)
    expect(fields(reply)[1], 74922)


def server_streaming(channel):
    request = parameters(31415, 9, 2653, 58979)
    replies = channel.unary_stream(SERVICE + "StreamingOutputCall")(request)
    expect([body_size(reply) for reply in replies], [31415, 9, 2653, 58979])


def ping_pong(channel):
    answered = threading.Semaphore(1)

    def requests():
        for asked, sent in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)):
            answered.acquire(timeout=10)
            yield parameters(asked) + payload(3, sent)

    sizes = []
    for reply in channel.stream_stream(SERVICE + "FullDuplexCall")(requests()):
        sizes.append(body_size(reply))
        answered.release()
    expect(sizes, [31415, 9, 2653, 58979])


def empty_stream(channel):
    expect(list(channel.stream_stream(SERVICE + "FullDuplexCall")(iter(()))), [])


def cancel_after_begin(channel):
    never = threading.Event()

    def requests():
        never.wait(10)
        yield from ()

    call = channel.stream_unary(SERVICE + "StreamingInputCall").future(requests())
    call.cancel()
    never.set()
    expect(call.code(), grpc.StatusCode.CANCELLED)


def cancel_after_first_response(channel):
    never = threading.Event()

    def requests():
        yield parameters(31415) + payload(3, 27182)
        never.wait(10)

    call = channel.stream_stream(SERVICE + "FullDuplexCall")(requests())
    expect(body_size(next(call)), 31415)
    call.cancel()
    never.set()
    expect_failure(lambda: next(call), grpc.StatusCode.CANCELLED)


def timeout_on_sleeping_server(channel):
    request = parameters(1, interval_us=30_000_000)
    call = channel.stream_stream(SERVICE + "FullDuplexCall")
    expect_failure(
        lambda: list(call(iter([request]), timeout=0.05)), grpc.StatusCode.DEADLINE_EXCEEDED
    )


def status_code_and_message(channel):
    status = text(7, integer(1, 2) + text(2, b"test status message"))
    code = grpc.StatusCode.UNKNOWN
    unary = channel.unary_unary(SERVICE + "UnaryCall")
    duplex = channel.stream_stream(SERVICE + "FullDuplexCall")
    expect_failure(lambda: unary(status), code, "test status message")
    expect_failure(lambda: list(duplex(iter([status]))), code, "test status message")


def special_status_message(channel):
    status = text(7, integer(1, 2) + text(2, UNICODE.encode()))
    unary = channel.unary_unary(SERVICE + "UnaryCall")
    expect_failure(lambda: unary(status), grpc.StatusCode.UNKNOWN, UNICODE)


def custom_metadata(channel):
    binary = b"\x0a\x0b\x0a\x0b\x0a\x0b\xff\x00"
    sent = (
        ("x-grpc-test-echo-initial", "test_initial_metadata_value"),
        ("x-grpc-test-echo-trailing-bin", binary),
    )
    _, unary = channel.unary_unary(SERVICE + "UnaryCall").with_call(b"", metadata=sent)
    duplex = channel.stream_stream(SERVICE + "FullDuplexCall")(iter([b""]), metadata=sent)
    list(duplex)
    for call in (unary, duplex):
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        expect(initial.get("x-grpc-test-echo-initial"), "test_initial_metadata_value")
        expect(trailing.get("x-grpc-test-echo-trailing-bin"), binary)


def unimplemented_method(channel):
    call = channel.unary_unary(SERVICE + "UnimplementedCall")
    expect_failure(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(channel):
    call = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")
    expect_failure(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)


CASES = (
    empty_unary,
    large_unary,
    compressed_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    status_code_and_message,
    special_status_message,
    custom_metadata,
    unimplemented_method,
    unimplemented_service,
)

with grpc.insecure_channel("127.0.0.1:" + sys.argv[1]) as shared:
    for case in CASES:
        wrong = None
        try:
            case(shared)
        except Exception as error:  # Each case is reported, whatever stopped it.
            wrong = repr(error)
        print(json.dumps({"name": case.__name__, "wrong": wrong}), flush=True)
