/* An engine that only says tokens, faster than any relay: llama-server's command line, its HTTP and
 * its streams' shapes, one chunk a token, in one thread over epoll.
 *
 * The prompt of a request says how: "[every N]": N microseconds between two tokens, each written by
 * itself, the streams' phases spread over that time; without it all are written as fast as they are
 * taken, many chunks at once. "[stamped]": a token's text is the CLOCK_MONOTONIC microsecond of its
 * emission. "[text N]": its text has N characters. As many tokens as the request allows are said.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_BYTES = 64 * 1024, OUT_BYTES = 128 * 1024, TEXT_BYTES = 8 * 1024 };
enum { EVENTS = 64, CONNECTIONS = 1024, DEFAULT_TOKENS = 8 };

typedef unsigned long long u64;

/* How a route says things; a token's format takes its text and its number from 1 on. */
struct shape {
    const char *path, *bound, *progress, *token, *end;
};

#define TEXT_KIND "\"created\":1760000000,\"model\":\"fake\",\"system_fingerprint\":\"b1-fake\","
#define TEXT_ID "\"object\":\"text_completion\",\"id\":\"chatcmpl-fake\""
#define CHAT_ID "\"object\":\"chat.completion.chunk\",\"id\":\"chatcmpl-fake\""
#define PROGRESS "\"prompt_progress\":{\"total\":5,\"cache\":0,\"processed\":%d,\"time_ms\":1}"
#define USAGE "\"usage\":{\"completion_tokens\":%1$u,\"prompt_tokens\":5,\"total_tokens\":%2$u}"
#define TIMINGS "\"timings\":{\"predicted_n\":%1$u,\"predicted_ms\":1.5}"

static const struct shape SHAPES[] = {
    {"/completion", "\"n_predict\"",
     "data: {\"index\":0,\"content\":\"\",\"tokens\":[0],\"stop\":false,\"id_slot\":-1,"
     "\"tokens_predicted\":0,\"tokens_evaluated\":5," PROGRESS "}\n\n",
     "data: {\"index\":0,\"content\":\"%s\",\"tokens\":[7042],\"stop\":false,\"id_slot\":-1,"
     "\"tokens_predicted\":%u,\"tokens_evaluated\":5}\n\n",
     "data: {\"content\":\"\",\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":%1$u,"
     "\"tokens_evaluated\":5," TIMINGS "}\n\n"},
    {"/v1/completions", "\"max_tokens\"",
     "data: {\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}],"
     TEXT_KIND TEXT_ID "," PROGRESS "}\n\n",
     "data: {\"choices\":[{\"text\":\"%s\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}],"
     TEXT_KIND TEXT_ID "}\n\n",
     "data: {\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,"
     "\"finish_reason\":\"length\"}]," TEXT_KIND TEXT_ID "," USAGE "," TIMINGS "}\n\n"
     "data: [DONE]\n\n"},
    {"/v1/chat/completions", "\"max_tokens\"",
     "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,"
     "\"delta\":{\"role\":\"assistant\",\"content\":null}}]," TEXT_KIND CHAT_ID "," PROGRESS "}\n\n",
     "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"%s\"}}],"
     TEXT_KIND CHAT_ID "}\n\n",
     "data: {\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}],"
     TEXT_KIND CHAT_ID "}\n\n"
     "data: {\"choices\":[]," TEXT_KIND CHAT_ID "," USAGE "," TIMINGS "}\n\n"
     "data: [DONE]\n\n"},
};

static const char *const WORDS[] = {
    " the", " quick", " brown", " fox", " jumps", " over", " a", " lazy",
    " dog", ",", " and", " then", " it", " sleeps", ".", " So",
};

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
    "X-Accel-Buffering: no\r\nKeep-Alive: timeout=5, max=100\r\n"
    "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/* One connection: a request, then its answer; closed after it, as llama.cpp does after a stream. */
struct connection {
    int fd;
    char *request;
    size_t request_bytes;
    const struct shape *shape; /* NULL while nothing is streamed */
    unsigned tokens, said, text_chars;
    int is_stamped, has_said_all, waits_for_room;
    u64 every_ns, due_ns;
    char *out;
    size_t out_start, out_end;
};

static struct connection *connections[CONNECTIONS];
static int poller, timer, slots = 1;
static const char *key, *model;
static unsigned streams_begun;
static char text_of_x[TEXT_BYTES + 1];

static u64 now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000000000u + (u64)now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void close_connection(struct connection *c) {
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->request);
    free(c->out);
    free(c);
}

static int count_streams(void) {
    int busy = 0;
    for (int fd = 0; fd < CONNECTIONS; fd++)
        busy += connections[fd] != NULL && connections[fd]->shape != NULL;
    return busy;
}

/* Room for what one call of append may write is the caller's to see to. */
static void append(struct connection *c, const char *data, size_t bytes) {
    memcpy(c->out + c->out_end, data, bytes);
    c->out_end += bytes;
}

static void append_chunk(struct connection *c, const char *data, int bytes) {
    char size[16];
    append(c, size, (size_t)sprintf(size, "%x\r\n", (unsigned)bytes));
    append(c, data, (size_t)bytes);
    append(c, "\r\n", 2);
}

static void append_token(struct connection *c) {
    char event[TEXT_BYTES + 512], stamp[32];
    const char *text = WORDS[c->said % 16];
    c->said++;
    if (c->text_chars)
        text = text_of_x + TEXT_BYTES - c->text_chars;
    if (c->is_stamped) {
        sprintf(stamp, "%llu", now_ns() / 1000);
        text = stamp;
    }
    append_chunk(c, event, sprintf(event, c->shape->token, text, c->said));
}

static void append_end(struct connection *c) {
    char event[1024];
    append_chunk(c, event, sprintf(event, c->shape->end, c->said, c->said + 5));
    append(c, "0\r\n\r\n", 5);
    c->has_said_all = 1;
}

/* Asks to be told, or not, when there is room to write. */
static void await_room(struct connection *c, int waits) {
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = c->fd};
    if (c->waits_for_room == waits)
        return;
    c->waits_for_room = waits;
    if (waits)
        wanted.events |= EPOLLOUT;
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
}

/* Writes what there is; 0 where the connection is gone. */
static int flush_out(struct connection *c) {
    while (c->out_start < c->out_end) {
        ssize_t sent = write(c->fd, c->out + c->out_start, c->out_end - c->out_start);
        if (sent < 0 && errno == EAGAIN) {
            await_room(c, 1);
            return 1;
        }
        if (sent <= 0) {
            close_connection(c);
            return 0;
        }
        c->out_start += (size_t)sent;
    }
    c->out_start = c->out_end = 0;
    if (c->has_said_all) {
        close_connection(c);
        return 0;
    }
    return 1;
}

/* The next bunch of an unpaced stream; epoll tells when there is room for another. */
static void write_bunch(struct connection *c) {
    if (!flush_out(c) || c->out_end)
        return;
    while (c->said < c->tokens && c->out_end + 2 * TEXT_BYTES + 1024 < OUT_BYTES / 2)
        append_token(c);
    if (c->said == c->tokens)
        append_end(c);
    if (flush_out(c))
        await_room(c, 1);
}

static void write_paced(struct connection *c) {
    if (c->out_end + 2 * TEXT_BYTES + 4096 < OUT_BYTES) { /* else it goes without: far behind */
        append_token(c);
        if (c->said == c->tokens)
            append_end(c);
    }
    c->due_ns += c->every_ns;
    flush_out(c);
}

static unsigned read_number(const char *text, const char *name, unsigned otherwise) {
    const char *found = strstr(text, name);
    if (found == NULL)
        return otherwise;
    return (unsigned)strtoul(found + strlen(name) + strspn(found + strlen(name), ": "), NULL, 10);
}

static void answer(struct connection *c, const char *status, const char *body) {
    c->out_end = (size_t)sprintf(
        c->out, "HTTP/1.1 %s\r\nServer: llama.cpp\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\nConnection: close\r\n\r\n%s", status, strlen(body), body);
    c->has_said_all = 1;
    flush_out(c);
}

static void begin_stream(struct connection *c, const struct shape *shape, const char *body) {
    char event[1024];
    c->shape = shape;
    c->tokens = read_number(body, shape->bound, DEFAULT_TOKENS);
    c->every_ns = read_number(body, "[every", 0) * 1000ull;
    c->text_chars = read_number(body, "[text", 0);
    if (c->text_chars > TEXT_BYTES)
        c->text_chars = TEXT_BYTES;
    c->is_stamped = strstr(body, "[stamped]") != NULL;
    append(c, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    if (strstr(body, "\"return_progress\":true") != NULL)
        for (int read = 0; read <= 5; read += 5)
            append_chunk(c, event, sprintf(event, shape->progress, read));
    if (!c->every_ns) {
        write_bunch(c);
        return;
    }
    /* Phases by the golden ratio: evenly spread, however many streams there are. */
    u64 phase = (u64)((double)c->every_ns * 0.6180339887 * streams_begun++) % c->every_ns;
    u64 now = now_ns();
    c->due_ns = now - now % c->every_ns + c->every_ns + phase;
    flush_out(c);
}

static void answer_slots(struct connection *c) {
    static char body[64 * 256];
    size_t end = 0;
    int busy = count_streams();
    for (int n = 0; n < slots; n++)
        end += (size_t)sprintf(body + end, "%c{\"id\":%d,\"is_processing\":%s}", n ? ',' : '[', n,
                               n < busy ? "true" : "false");
    strcpy(body + end, "]");
    answer(c, "200 OK", body);
}

static int has_key(const char *request, const char *body) {
    char wanted[512];
    const char *found;
    snprintf(wanted, sizeof wanted, "Authorization: Bearer %s\r\n", key);
    found = strcasestr(request, wanted);
    return found != NULL && found < body;
}

static void route(struct connection *c, const char *body) {
    char path[256] = "", props[4096];
    if (sscanf(c->request, "%*s %255s", path) != 1) {
        answer(c, "400 Bad Request", "{\"error\":{\"code\":400,\"message\":\"no request\"}}");
    } else if (!strcmp(path, "/health")) {
        answer(c, "200 OK", "{\"status\":\"ok\"}");
    } else if (!has_key(c->request, body)) {
        answer(c, "401 Unauthorized", "{\"error\":{\"code\":401,\"message\":\"Invalid API Key\","
               "\"type\":\"authentication_error\"}}");
    } else if (!strcmp(path, "/props")) {
        snprintf(props, sizeof props, "{\"model_path\":\"%s\",\"build_info\":\"b1-fake\","
                 "\"total_slots\":%d}", model, slots);
        answer(c, "200 OK", props);
    } else if (!strcmp(path, "/slots")) {
        answer_slots(c);
    } else {
        for (size_t n = 0; n < sizeof SHAPES / sizeof *SHAPES; n++)
            if (!strcmp(path, SHAPES[n].path)) {
                begin_stream(c, &SHAPES[n], body);
                return;
            }
        answer(c, "404 Not Found", "{\"error\":{\"code\":404,\"message\":\"File Not Found\"}}");
    }
}

static void read_request(struct connection *c) {
    char *end, *length;
    ssize_t got = read(c->fd, c->request + c->request_bytes, REQUEST_BYTES - c->request_bytes);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0 || c->request_bytes + (size_t)got >= REQUEST_BYTES) {
        close_connection(c); /* who has its stream and hangs up cancels it */
        return;
    }
    c->request_bytes += (size_t)got;
    c->request[c->request_bytes] = '\0';
    end = strstr(c->request, "\r\n\r\n");
    if (end == NULL || c->shape != NULL)
        return;
    length = strcasestr(c->request, "\r\nContent-Length:");
    if (length != NULL && length < end
        && c->request_bytes < (size_t)(end + 4 - c->request) + strtoul(length + 17, NULL, 10))
        return;
    route(c, end + 4);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
        struct connection *c = fd < CONNECTIONS ? calloc(1, sizeof *c) : NULL;
        int yes = 1;
        if (c == NULL) {
            close(fd);
            continue;
        }
        c->fd = fd;
        c->request = malloc(REQUEST_BYTES + 1);
        c->out = malloc(OUT_BYTES);
        connections[fd] = c;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (c->request == NULL || c->out == NULL || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted))
            close_connection(c);
    }
}

/* Says what is due, and sets the timer for what is due next. */
static void pace(void) {
    u64 now = now_ns(), next = 0;
    struct itimerspec alarm = {0};
    for (int fd = 0; fd < CONNECTIONS; fd++) {
        struct connection *c = connections[fd];
        if (c == NULL || !c->every_ns || c->said == c->tokens)
            continue;
        u64 due = c->due_ns;
        if (due <= now) {
            due += c->every_ns;
            write_paced(c); /* c may be gone behind this */
        }
        if (!next || due < next)
            next = due;
    }
    alarm.it_value.tv_sec = (time_t)(next / 1000000000u);
    alarm.it_value.tv_nsec = (long)(next % 1000000000u);
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &alarm, NULL);
}

static int listen_on(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener};
    inet_pton(AF_INET, host, &address.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 256))
        fail("couldn't bind HTTP server socket");
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
    return listener;
}

static void serve(int listener) {
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int n = 0; n < count; n++) {
            int fd = events[n].data.fd;
            u64 expirations;
            if (fd == listener) {
                accept_all(listener);
            } else if (fd == timer) {
                if (read(timer, &expirations, sizeof expirations) < 0)
                    continue;
            } else {
                if (connections[fd] != NULL && events[n].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                    read_request(connections[fd]);
                if (connections[fd] != NULL && events[n].events & EPOLLOUT) {
                    if (connections[fd]->shape != NULL && !connections[fd]->every_ns)
                        write_bunch(connections[fd]);
                    else if (flush_out(connections[fd]) && !connections[fd]->out_end)
                        await_room(connections[fd], 0);
                }
            }
        }
        pace();
    }
}

int main(int argc, char **argv) {
    const char *host = "127.0.0.1";
    int port = 0;
    for (int n = 1; n + 1 < argc; n++) {
        if (!strcmp(argv[n], "--host"))
            host = argv[n + 1];
        else if (!strcmp(argv[n], "--port"))
            port = atoi(argv[n + 1]);
        else if (!strcmp(argv[n], "--parallel"))
            slots = atoi(argv[n + 1]);
        else if (!strcmp(argv[n], "--model"))
            model = argv[n + 1];
    }
    key = getenv("LLAMA_API_KEY");
    if (key == NULL || model == NULL || slots < 1 || slots > 256) {
        fprintf(stderr, "error: needs LLAMA_API_KEY, --model and 1 to 256 --parallel\n");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    memset(text_of_x, 'x', TEXT_BYTES);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = timer};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &wanted);
    int listener = listen_on(host, port);
    fprintf(stderr, "listening on http://%s:%d\n", host, port);
    serve(listener);
}
