"""What a client may send, byte by byte, and what becomes of it: the tables for test_raw_cases.

Each case names the rule behind it where the answer is not plain: sections of RFC 9110 (semantics)
and RFC 9112 (messages).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.fakes.house import TASK_ID

TOKEN = "s3cret"
AUTH = b"Authorization: Bearer s3cret\r\n"
HOST = b"Host: a\r\n" + AUTH
JSON = b'{"prompt": "hello"}'
STREAM = b"/v1/tasks/%b/stream" % TASK_ID.encode()
CANCEL = b"/v1/tasks/%b/cancel" % TASK_ID.encode()


class Fate(Enum):
    """What becomes of the connection."""

    KEPT = "kept"
    """It serves another request."""
    CLOSED = "closed"
    """It is closed behind the last answer, which says so."""


KEPT, CLOSED = Fate.KEPT, Fate.CLOSED

Answer = tuple[int, str | None]
"""Status, and the envelope's code where there is an envelope."""

OK = (200, None)
ADMITTED = (202, None)
CONTINUE = (100, None)
NO_CONTENT = (204, None)
BAD = (400, "INVALID_PARAMS")
UNAUTHORIZED = (401, "UNAUTHORIZED")
NOT_FOUND = (404, "NOT_FOUND")
NOT_ALLOWED = (405, "METHOD_NOT_ALLOWED")
NO_LENGTH = (411, "LENGTH_REQUIRED")
TOO_LARGE = (413, "PAYLOAD_TOO_LARGE")
URI_TOO_LONG = (414, "URI_TOO_LONG")
WRONG_TYPE = (415, "UNSUPPORTED_MEDIA_TYPE")
HEAD_TOO_LARGE = (431, "HEADERS_TOO_LARGE")
NOT_BUILT = (501, "NOT_IMPLEMENTED")
WRONG_VERSION = (505, "HTTP_VERSION_NOT_SUPPORTED")


@dataclass(frozen=True)
class Case:
    """Sent at once, and then nothing more."""

    name: str
    data: bytes
    answers: tuple[Answer, ...]
    fate: Fate
    is_head: bool = False
    """The (one) answer has no body, whatever its headers say."""


def case(
    name: str, data: bytes, *answers: Answer, fate: Fate = CLOSED, is_head: bool = False
) -> Case:
    return Case(name, data, answers, fate, is_head)


def get(target: bytes = b"/health", fields: bytes = HOST, version: bytes = b"1.1") -> bytes:
    return b"GET %b HTTP/%b\r\n%b\r\n" % (target, version, fields)


def post(fields: bytes, body: bytes = b"", target: bytes = b"/v1/tasks") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%b\r\n%b" % (target, HOST, fields, body)


def sized(body: bytes = JSON, fields: bytes = b"", target: bytes = b"/v1/tasks") -> bytes:
    return post(fields + b"Content-Length: %d\r\n" % len(body), body, target)


def chunked(body: bytes, fields: bytes = b"Transfer-Encoding: chunked\r\n") -> bytes:
    return post(fields, body)


CHUNK = b"13\r\n%b\r\n" % JSON
END = b"0\r\n\r\n"
GET = get()

FRAMING = [
    case("length", sized(), ADMITTED, fate=KEPT),
    case("length and more behind it", sized() + GET, ADMITTED, OK, fate=KEPT),
    case("length 0 is a body that is no JSON", sized(b""), BAD, fate=KEPT),
    case(
        "9110 8.6: equal lengths in a list",
        post(b"Content-Length: 19, 19\r\n", JSON),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9110 8.6: equal lengths in two fields",
        post(b"Content-Length: 19\r\n" * 2, JSON),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9112 6.3: differing lengths",
        post(b"Content-Length: 19\r\nContent-Length: 5\r\n", JSON),
        BAD,
    ),
    case("9112 6.3: differing lengths in a list", post(b"Content-Length: 19, 5\r\n", JSON), BAD),
    case("9112 6.3: a list with a hole", post(b"Content-Length: 19,\r\n", JSON), BAD),
    case("9112 6.3: negative length", post(b"Content-Length: -1\r\n"), BAD),
    case("9112 6.3: signed length", post(b"Content-Length: +19\r\n", JSON), BAD),
    case("9112 6.3: hexadecimal length", post(b"Content-Length: 0x13\r\n", JSON), BAD),
    case("9112 6.3: length with an underscore", post(b"Content-Length: 1_9\r\n", JSON), BAD),
    case("9112 6.3: two numbers", post(b"Content-Length: 1 9\r\n", JSON), BAD),
    case("9112 6.3: empty length", post(b"Content-Length:\r\n", JSON), BAD),
    case("9112 6.3: foreign digits", post("Content-Length: ١٩\r\n".encode(), JSON), BAD),
    case("9112 6.3: a length beyond any", post(b"Content-Length: " + b"9" * 30 + b"\r\n"), BAD),
    case("a length beyond the limit", post(b"Content-Length: 99999999999\r\n"), TOO_LARGE),
    case(
        "9112 6.1: both lengths",
        chunked(END, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        BAD,
    ),
    case(
        "9112 6.1: both lengths, the other way round",
        chunked(END, b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        BAD,
    ),
    case(
        "9112 6.1: both lengths, differing",
        chunked(END, b"Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        BAD,
    ),
    case(
        "9112 6.1: chunked in HTTP/1.0",
        b"POST /v1/tasks HTTP/1.0\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + END,
        BAD,
    ),
    case("chunked", chunked(CHUNK + END), ADMITTED, fate=KEPT),
    case("chunked and more behind it", chunked(CHUNK + END) + GET, ADMITTED, OK, fate=KEPT),
    case(
        "9112 7: coding names have no case",
        chunked(CHUNK + END, b"Transfer-Encoding: Chunked\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "chunks of one byte",
        chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in JSON) + END),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9112 7.1.1: extensions are passed over",
        chunked(b'13;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % JSON),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9112 7.1.2: trailers are thrown away",
        chunked(CHUNK + b"0\r\nAuthorization: Bearer x\r\nContent-Length: 3\r\n\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9112 6.3: chunked is not last",
        chunked(CHUNK + END, b"Transfer-Encoding: chunked, identity\r\n"),
        BAD,
    ),
    case(
        "9112 6.3: chunked is not last, in two fields",
        chunked(CHUNK + END, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        BAD,
    ),
    case("9112 6.3: identity alone", chunked(END, b"Transfer-Encoding: identity\r\n"), BAD),
    case(
        "9112 6.3: no known coding", chunked(CHUNK + END, b"Transfer-Encoding: xchunked\r\n"), BAD
    ),
    case(
        "9112 6.3: chunked in quotes",
        chunked(CHUNK + END, b'Transfer-Encoding: "chunked"\r\n'),
        BAD,
    ),
    case("9112 6.3: an empty coding", chunked(CHUNK + END, b"Transfer-Encoding:\r\n"), BAD),
    case(
        "9112 6.1: chunked twice",
        chunked(CHUNK + END, b"Transfer-Encoding: chunked, chunked\r\n"),
        BAD,
    ),
    case(
        "9112 6.1: chunked in two fields",
        chunked(CHUNK + END, b"Transfer-Encoding: chunked\r\n" * 2),
        BAD,
    ),
    case(
        "9112 6.1: gzip under the chunks",
        chunked(CHUNK + END, b"Transfer-Encoding: gzip, chunked\r\n"),
        NOT_BUILT,
    ),
    case(
        "9112 6.1: gzip and chunked in two fields",
        chunked(CHUNK + END, b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        NOT_BUILT,
    ),
    case(
        "9112 5.1: a space hides the coding",
        chunked(CHUNK + END, b"Transfer-Encoding : chunked\r\n"),
        BAD,
    ),
    case(
        "9110 5.5: a form feed hides the coding",
        chunked(CHUNK + END, b"Transfer-Encoding: \x0cchunked\r\n"),
        BAD,
    ),
    case(
        "9112 5.2: a fold hides the coding",
        chunked(CHUNK + END, b"Transfer-Encoding:\r\n chunked\r\n"),
        BAD,
    ),
    case(
        "9112 2.2: a bare CR hides the coding",
        chunked(CHUNK + END, b"X: y\rTransfer-Encoding: chunked\r\n"),
        BAD,
    ),
    case("9112 7.1: no chunk size", chunked(b"\r\n" + JSON), BAD),
    case("9112 7.1: a word for a size", chunked(b"xyz\r\n"), BAD),
    case("9112 7.1: negative size", chunked(b"-13\r\n" + JSON), BAD),
    case("9112 7.1: prefixed size", chunked(b"0x13\r\n%b\r\n" % JSON + END), BAD),
    case("9112 7.1: space behind a size", chunked(b"13 \r\n%b\r\n" % JSON + END), BAD),
    case("9112 7.1: a size beyond 64 bits", chunked(b"1" + b"0" * 16 + b"\r\n"), BAD),
    case("a chunk beyond the limit", chunked(b"ffffffffffffffff\r\n"), TOO_LARGE),
    case("9112 7.1: bare LF behind a size", chunked(b"13\n%b\r\n" % JSON + END), BAD),
    case("9112 7.1: bare LF in an extension", chunked(b"13;a\n%b\r\n" % JSON + END), BAD),
    case("9112 7.1: bare CR in an extension", chunked(b"13;a\rb\r\n%b\r\n" % JSON + END), BAD),
    case("9112 7.1: a chunk longer than it said", chunked(b"2\r\n%b\r\n" % JSON + END), BAD),
    case("9112 7.1: bare LF behind the last chunk", chunked(CHUNK + b"0\r\n\n" + GET), BAD),
    case("9112 7.1: a request for a trailer", chunked(CHUNK + b"0\r\n" + GET), BAD),
    case("9112 5.2: a folded trailer", chunked(CHUNK + b"0\r\nX: y\r\n z\r\n\r\n"), BAD),
    case("an extension without an end", chunked(b"1;" + b"x" * 100_000), BAD),
    case(
        "too many trailers", chunked(CHUNK + b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"), HEAD_TOO_LARGE
    ),
    case(
        "9112 6.3: a body without a length is the next request",
        post(b"", GET),
        NO_LENGTH,
        OK,
        fate=KEPT,
    ),
    case(
        "a body on a route without one is read",
        b"GET /health HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc" + GET,
        OK,
        OK,
        fate=KEPT,
    ),
]

HEADS = [
    case("plain", GET, OK, fate=KEPT),
    case("9112 2.2: an empty line first", b"\r\n" + GET, OK, fate=KEPT),
    case("9112 2.2: an empty line behind a body", sized() + b"\r\n" + GET, ADMITTED, OK, fate=KEPT),
    case("many empty lines first", b"\r\n" * 9 + GET, BAD),
    case("9112 2.2: bare LF everywhere", GET.replace(b"\r\n", b"\n"), BAD),
    case("9112 2.2: bare LF behind the request line", GET.replace(b"\r\n", b"\n", 1), BAD),
    case("9112 2.2: bare LF behind a field", GET.replace(b"Host: a\r\n", b"Host: a\n"), BAD),
    case("9112 2.2: bare LF at the end", GET[:-2] + b"\n", BAD),
    case("9112 2.2: bare CR in a value", get(fields=HOST + b"X: a\rb\r\n"), BAD),
    case("9112 2.2: bare CR in the request line", GET.replace(b"/health", b"/hea\rlth"), BAD),
    case("9112 5.2: a folded field", get(fields=HOST + b"X: a\r\n b\r\n"), BAD),
    case("9112 5.2: a field folded by a tab", get(fields=HOST + b"X: a\r\n\tb\r\n"), BAD),
    case("9112 2.2: space before the first field", get(fields=b" X: y\r\n" + HOST), BAD),
    case("9112 5.1: space before a colon", get(fields=HOST + b"X : y\r\n"), BAD),
    case("9110 5.1: no name", get(fields=HOST + b": y\r\n"), BAD),
    case("9110 5.1: no colon", get(fields=HOST + b"X\r\n"), BAD),
    case("9110 5.1: a name that is no token", get(fields=HOST + b"X(y): z\r\n"), BAD),
    case("9110 5.1: a name in UTF-8", get(fields=HOST + "Ä: z\r\n".encode()), BAD),
    case("9110 5.5: NUL in a value", get(fields=HOST + b"X: a\x00b\r\n"), BAD),
    case("9110 5.5: DEL in a value", get(fields=HOST + b"X: a\x7fb\r\n"), BAD),
    case(
        "9110 5.5: a tab and UTF-8 in a value",
        get(fields=HOST + "X: a\tä\r\n".encode()),
        OK,
        fate=KEPT,
    ),
    case("9110 5.5: an empty value", get(fields=HOST + b"X:\r\n"), OK, fate=KEPT),
    case("9110 7.2: no Host", get(fields=AUTH), BAD),
    case("9110 7.2: two Hosts", get(fields=HOST + b"Host: b\r\n"), BAD),
    case("9110 7.2: two equal Hosts", get(fields=HOST + b"Host: a\r\n"), BAD),
    case("9112 3.2: two Hosts in one", get(fields=b"Host: a, b\r\n" + AUTH), BAD),
    case("9112 3.2: a Host that is none", get(fields=b"Host: a/b\r\n" + AUTH), BAD),
    case("9112 3.2: an empty Host", get(fields=b"Host:\r\n" + AUTH), OK, fate=KEPT),
    case("9112 3.2: two Hosts in HTTP/1.0", get(fields=HOST + b"Host: a\r\n", version=b"1.0"), BAD),
    case("9112 3: no version", b"GET /health\r\n\r\n", BAD),
    case("9112 3: two spaces", b"GET  /health HTTP/1.1\r\n" + HOST + b"\r\n", BAD),
    case("9112 3: space behind the version", b"GET /health HTTP/1.1 \r\n" + HOST + b"\r\n", BAD),
    case("9112 3: a tab for a space", b"GET\t/health HTTP/1.1\r\n" + HOST + b"\r\n", BAD),
    case("9112 2.3: a version in lower case", b"GET /health http/1.1\r\n" + HOST + b"\r\n", BAD),
    case(
        "9112 2.3: a version without a minor one", b"GET /health HTTP/1\r\n" + HOST + b"\r\n", BAD
    ),
    case("9110 15.6.6: HTTP/0.9", get(version=b"0.9"), WRONG_VERSION),
    case("9110 15.6.6: HTTP/2.0", get(version=b"2.0"), WRONG_VERSION),
    case("9110 15.6.6: HTTP/3.0", get(version=b"3.0"), WRONG_VERSION),
    case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", WRONG_VERSION),
    case("9110 2.5: HTTP/1.2 is 1.1", get(version=b"1.2"), OK, fate=KEPT),
    case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", BAD),
    case("nothing but NULs", bytes(100), BAD),
    case("UTF-8 in the target", "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(), BAD),
    case("a request line too long", get(b"/" + b"x" * 40_000), URI_TOO_LONG),
    case("a field too long", get(fields=HOST + b"X: " + b"x" * 40_000 + b"\r\n"), HEAD_TOO_LARGE),
    case("a head without an end", b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, HEAD_TOO_LARGE),
    case("100 fields", get(fields=HOST + b"X: y\r\n" * 98), OK, fate=KEPT),
    case("101 fields", get(fields=HOST + b"X: y\r\n" * 99), HEAD_TOO_LARGE),
    case("good, then bad, then good", GET + b"\x00\r\n\r\n" + GET, OK, BAD),
    case("9112 9.6: close", get(fields=HOST + b"Connection: close\r\n") + GET, OK),
    case("9112 9.6: close among others", get(fields=HOST + b"Connection: x, Close\r\n") + GET, OK),
    case(
        "9110 7.8: an upgrade is passed over",
        get(fields=HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
        OK,
        fate=KEPT,
    ),
    case("9112 9.3: HTTP/1.0 is closed", get(version=b"1.0"), OK),
    case(
        "9112 9.3: keep-alive in HTTP/1.0 too",
        get(fields=HOST + b"Connection: keep-alive\r\n", version=b"1.0"),
        OK,
    ),
    case(
        "HTTP/1.0 with a length",
        b"POST /v1/tasks HTTP/1.0\r\n" + AUTH + b"Content-Length: 19\r\n\r\n" + JSON,
        ADMITTED,
    ),
    case(
        "HTTP/1.0 without a length",
        b"POST /v1/tasks HTTP/1.0\r\n" + AUTH + b"\r\n" + JSON,
        NO_LENGTH,
    ),
]

ROUTED = [
    case("no token", get(fields=b"Host: a\r\n"), UNAUTHORIZED, fate=KEPT),
    case(
        "the wrong token",
        get(fields=b"Host: a\r\nAuthorization: Bearer x\r\n"),
        UNAUTHORIZED,
        fate=KEPT,
    ),
    case("two tokens", get(fields=HOST + AUTH), UNAUTHORIZED, fate=KEPT),
    case(
        "no token comes before no route", get(b"/nowhere", b"Host: a\r\n"), UNAUTHORIZED, fate=KEPT
    ),
    case(
        "no token comes before the body",
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n",
        UNAUTHORIZED,
    ),
    case(
        "no token comes before a length beyond the limit",
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
        UNAUTHORIZED,
    ),
    case("no route", get(b"/nowhere"), NOT_FOUND, fate=KEPT),
    case("no route comes before the body", sized(b"x" * 100, target=b"/nowhere")[:-50], NOT_FOUND),
    case("a slash too many", get(b"/health/"), NOT_FOUND, fate=KEPT),
    case("a slash too many first", get(b"//health"), NOT_FOUND, fate=KEPT),
    case("dots stand for themselves", get(b"/x/../health"), NOT_FOUND, fate=KEPT),
    case("percent-encoded letters", get(b"/%68ealt%68"), OK, fate=KEPT),
    case("a percent-encoded slash parts nothing", get(b"/v1%2Ftasks"), NOT_FOUND, fate=KEPT),
    case("a percent-encoded NUL", get(b"/v1/tasks/%00/stream"), NOT_FOUND, fate=KEPT),
    case(
        "percent-encoded bytes that are no UTF-8",
        get(b"/v1/tasks/%ff/stream"),
        NOT_FOUND,
        fate=KEPT,
    ),
    case("3986 2.1: a percent that escapes nothing", get(b"/health%zz"), BAD),
    case("3986 2.1: half an escape", get(b"/health%4"), BAD),
    case("a query", get(b"/health?a=b&c"), OK, fate=KEPT),
    case("a query on a POST", sized(target=b"/v1/tasks?x=/y?"), ADMITTED, fate=KEPT),
    case("9112 3.2.1: a fragment", get(b"/health#a"), BAD),
    case("9112 3.2.1: no slash", get(b"health"), BAD),
    case("9112 3.2.1: a query alone", get(b"?health"), BAD),
    case("9112 3.2.2: the absolute form", get(b"http://other:1/health"), OK, fate=KEPT),
    case("9112 3.2.2: without a path", get(b"http://other"), NOT_FOUND, fate=KEPT),
    case("9110 4.2.1: without a host", get(b"http:///health"), BAD),
    case("9112 3.2: another scheme", get(b"ftp://other/health"), BAD),
    case("9112 3.2.4: OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", NOT_FOUND, fate=KEPT),
    case("9112 3.2.4: * for another method", get(b"*"), BAD),
    case(
        "9112 3.2.3: CONNECT", b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n\x16\x03\x01", NOT_BUILT
    ),
    case("the authority form for another method", get(b"a:443"), BAD),
    case("the wrong method", get(b"/v1/tasks"), NOT_ALLOWED, fate=KEPT),
    case(
        "HEAD where there is no GET",
        b"HEAD /v1/tasks HTTP/1.1\r\n" + HOST + b"\r\n",
        (405, None),
        fate=KEPT,
        is_head=True,
    ),
    case("OPTIONS", b"OPTIONS /health HTTP/1.1\r\n" + HOST + b"\r\n", NOT_ALLOWED, fate=KEPT),
    case(
        "9110 9.1: methods have a case",
        b"get /health HTTP/1.1\r\n" + HOST + b"\r\n",
        NOT_ALLOWED,
        fate=KEPT,
    ),
    case(
        "9110 9.3.8: TRACE tells nothing",
        b"TRACE /health HTTP/1.1\r\n" + HOST + b"\r\n",
        NOT_ALLOWED,
        fate=KEPT,
    ),
    case("HEAD", b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n", OK, fate=KEPT, is_head=True),
    case(
        "HEAD of a stream",
        b"HEAD %b HTTP/1.1\r\n" % STREAM + HOST + b"\r\n",
        OK,
        fate=KEPT,
        is_head=True,
    ),
    case("a stream", get(STREAM), OK, fate=KEPT),
    case("a stream in HTTP/1.0", get(STREAM, version=b"1.0"), OK),
    case("behind a stream", get(STREAM) + GET, OK, OK, fate=KEPT),
    case("cancel needs no body", post(b"", target=CANCEL), NO_CONTENT, fate=KEPT),
    case(
        "cancel has an empty body",
        post(b"Content-Length: 0\r\n", target=CANCEL),
        NO_CONTENT,
        fate=KEPT,
    ),
    case("cancel does not mind a body", sized(b"abc", target=CANCEL), NO_CONTENT, fate=KEPT),
    case("9110 15.5.12: no length", post(b""), NO_LENGTH, fate=KEPT),
    case(
        "what curl -d says",
        sized(fields=b"Content-Type: application/x-www-form-urlencoded\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "what fetch says",
        sized(fields=b"Content-Type: text/plain;charset=UTF-8\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "JSON in UTF-8",
        sized(fields=b"Content-Type: Application/JSON; charset=UTF-8\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9110 15.5.16: multipart",
        sized(fields=b"Content-Type: multipart/form-data; boundary=x\r\n"),
        WRONG_TYPE,
    ),
    case(
        "9110 15.5.16: another charset",
        sized(fields=b"Content-Type: application/json; charset=latin1\r\n"),
        WRONG_TYPE,
    ),
    case("9110 15.5.16: gzip", sized(fields=b"Content-Encoding: gzip\r\n"), WRONG_TYPE),
    case(
        "9110 8.4.1: identity", sized(fields=b"Content-Encoding: identity\r\n"), ADMITTED, fate=KEPT
    ),
    case("bad JSON", sized(b"{"), BAD, fate=KEPT),
    case(
        "9110 10.1.1: the body is invited",
        post(b"Expect: 100-continue\r\nContent-Length: 19\r\n"),
        CONTINUE,
    ),
    case(
        "9110 10.1.1: a chunked body is invited",
        chunked(b"", b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"),
        CONTINUE,
    ),
    case(
        "9110 10.1.1: one that came need not be",
        sized(fields=b"Expect: 100-continue\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
    case(
        "9110 10.1.1: no body, no invitation",
        get(fields=HOST + b"Expect: 100-continue\r\n"),
        OK,
        fate=KEPT,
    ),
    case(
        "9110 10.1.1: not behind 401",
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        UNAUTHORIZED,
    ),
    case(
        "9110 10.1.1: not behind 404",
        post(b"Expect: 100-continue\r\nContent-Length: 9\r\n", target=b"/x"),
        NOT_FOUND,
    ),
    case(
        "9110 10.1.1: not behind 405",
        post(b"Expect: 100-continue\r\nContent-Length: 9\r\n", target=b"/health"),
        NOT_ALLOWED,
    ),
    case(
        "9110 10.1.1: not behind 413",
        post(b"Expect: 100-continue\r\nContent-Length: 99999999\r\n"),
        TOO_LARGE,
    ),
    case(
        "9110 10.1.1: not behind 415",
        post(b"Expect: 100-continue\r\nContent-Type: a/b\r\nContent-Length: 9\r\n"),
        WRONG_TYPE,
    ),
    case(
        "9110 10.1.1: another expectation is passed over",
        sized(fields=b"Expect: the-unexpected\r\n"),
        ADMITTED,
        fate=KEPT,
    ),
]

# Nothing comes back for these, and the client closes its half behind them.
WORDLESS = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "a few empty lines": b"\r\n" * 8,
}
