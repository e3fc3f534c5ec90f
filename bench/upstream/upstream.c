/* An inference engine that is never the bottleneck: HTTP/1.1 on epoll, one thread a listening socket.
 *
 *   GET  /v1/models, /health   a list with one model; empty
 *   POST, JSON                 a fixed chat completion; with "stream": true an event stream of
 *                              "max_tokens" events, --rate of them a second, each with the time at
 *                              which it was made (CLOCK_MONOTONIC, ns) as "ts:<19 digits>"
 *   POST, anything else        the body is counted and thrown away: {"text": "<bytes> bytes"}
 *
 * All streams have the same period, so those that wait for their next event form one queue that is
 * sorted by itself. What a slow reader does not take is kept, with the time of its making.
 *
 * usage: upstream [--port P] [--rate EVENTS_PER_S] [--model NAME] [--threads N]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_AT_ONCE = 256 * 1024, MAX_HEAD = 64 * 1024, MAX_EVENTS = 1024, DEFAULT_EVENTS = 50 };

struct bytes {
    char *at;
    size_t len, cap;
};

enum part { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS };

struct conn {
    int fd;
    bool json, polled_out, queued, get;
    bool closing, over;    /* the client wants the connection closed; the answer is complete */
    enum part part;
    struct bytes head, body, out;
    size_t sent;           /* of out */
    uint64_t left;         /* of the body or of a chunk */
    uint64_t received;     /* bytes of the body */
    char path[128];
    long events_left;      /* of a stream; 0: none is under way */
    uint64_t due;
    struct conn *next;     /* in the queue */
    bool dead;
};

struct worker {
    int epoll, listener;
    struct conn *first, *last;
    char *buffer;
};

static const char *model = "bench-chat";
static double rate = 50;
static int port = 0;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void append(struct bytes *b, const char *from, size_t n) {
    if (b->len + n > b->cap) {
        b->cap = (b->len + n) * 2;
        b->at = realloc(b->at, b->cap);
        if (!b->at) abort();
    }
    memcpy(b->at + b->len, from, n);
    b->len += n;
}

static void poll_for(struct worker *w, struct conn *c, bool out) {
    if (c->polled_out == out) return;
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &e);
    c->polled_out = out;
}

/* Write what there is; what does not fit waits for EPOLLOUT. */
static void flush(struct worker *w, struct conn *c) {
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.at + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) { poll_for(w, c, true); return; }
            c->dead = true;
            return;
        }
        c->sent += (size_t)n;
    }
    c->sent = c->out.len = 0;
    poll_for(w, c, false);
    if (c->closing && c->over) c->dead = true;
}

static void answer(struct conn *c, const char *status, const char *body) {
    char head[256];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     status, strlen(body));
    append(&c->out, head, (size_t)n);
    append(&c->out, body, strlen(body));
}

/* The value of a top-level-looking key in a JSON body, or NULL. */
static const char *value_of(struct conn *c, const char *key) {
    if (!c->body.len) return NULL;
    char *found = memmem(c->body.at, c->body.len, key, strlen(key));
    if (!found) return NULL;
    const char *end = c->body.at + c->body.len;
    for (found += strlen(key); found < end && (*found == ' ' || *found == ':'); found++) {}
    return found < end ? found : NULL;
}

static void enqueue(struct worker *w, struct conn *c) {
    c->next = NULL;
    c->queued = true;
    if (w->last) w->last->next = c; else w->first = c;
    w->last = c;
}

static void begin_stream(struct worker *w, struct conn *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    const char *count = value_of(c, "\"max_tokens\"");
    if (!count) count = value_of(c, "\"max_completion_tokens\"");
    c->events_left = count ? atol(count) : DEFAULT_EVENTS;
    if (c->events_left < 1) c->events_left = 1;
    append(&c->out, head, sizeof head - 1);
    c->due = now_ns();
    enqueue(w, c);
}

static void chunk(struct conn *c, const char *data, int n) {
    char size[16];
    int digits = snprintf(size, sizeof size, "%x\r\n", (unsigned)n);
    append(&c->out, size, (size_t)digits);
    append(&c->out, data, (size_t)n);
    append(&c->out, "\r\n", 2);
}

static void one_event(struct worker *w, struct conn *c, uint64_t now) {
    char data[512];
    bool last = --c->events_left == 0;
    int n = snprintf(data, sizeof data,
                     "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,"
                     "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ts:%019llu\"},"
                     "\"finish_reason\":%s}]}\n\n",
                     model, (unsigned long long)now, last ? "\"stop\"" : "null");
    chunk(c, data, n);
    if (last) {
        chunk(c, "data: [DONE]\n\n", 14);
        append(&c->out, "0\r\n\r\n", 5);
        c->over = true;
    }
    flush(w, c);
}

static void drop(struct worker *w, struct conn *c) {
    if (c->fd >= 0) {
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, c->fd, NULL);
        close(c->fd);
        c->fd = -1;
    }
    if (c->queued) { c->dead = true; return; } /* freed when the queue meets it */
    free(c->head.at);
    free(c->body.at);
    free(c->out.at);
    free(c);
}

static void run_queue(struct worker *w, uint64_t now) {
    uint64_t period = (uint64_t)(1e9 / rate);
    while (w->first && w->first->due <= now) {
        struct conn *c = w->first;
        w->first = c->next;
        if (!w->first) w->last = NULL;
        c->queued = false;
        if (!c->dead) one_event(w, c, now_ns());
        if (c->dead) { drop(w, c); continue; }
        if (c->events_left) {
            c->due += period;
            enqueue(w, c);
        }
    }
}

static void complete(struct worker *w, struct conn *c) {
    char text[768];
    const char *stream = c->json ? value_of(c, "\"stream\"") : NULL;
    if (c->get && !strcmp(c->path, "/v1/models")) {
        snprintf(text, sizeof text, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1,"
                                    "\"owned_by\":\"bench\"}]}", model);
        answer(c, "200 OK", text);
    } else if (c->get && !strcmp(c->path, "/health")) {
        answer(c, "200 OK", "{}");
    } else if (c->get) {
        answer(c, "404 Not Found", "{\"error\":{\"message\":\"not here\",\"code\":404}}");
    } else if (stream && *stream == 't') {
        begin_stream(w, c);
    } else if (c->json) {
        snprintf(text, sizeof text,
                 "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"%s\","
                 "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Seventeen bees hum.\"},"
                 "\"finish_reason\":\"stop\"}],"
                 "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17}}", model);
        answer(c, "200 OK", text);
    } else {
        snprintf(text, sizeof text, "{\"text\":\"%llu bytes\"}", (unsigned long long)c->received);
        answer(c, "200 OK", text);
    }
    c->part = HEAD;
    c->head.len = c->body.len = 0;
    c->received = 0;
    c->over = c->events_left == 0;
    flush(w, c);
}

static const char *header(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, n) && line[n] == ':') {
            for (line += n + 1; *line == ' '; line++) {}
            return line;
        }
    }
    return NULL;
}

/* Reads the head, which ends with a zero byte here. */
static void read_head(struct worker *w, struct conn *c) {
    const char *head = c->head.at, *value;
    c->get = strncmp(head, "POST ", 5) != 0;
    if (sscanf(head, "%*s %127s", c->path) != 1) c->path[0] = 0;
    value = header(head, "content-type");
    c->json = value && !strncasecmp(value, "application/json", 16);
    value = header(head, "connection");
    c->closing = value && !strncasecmp(value, "close", 5);
    c->over = false;
    value = header(head, "expect");
    if (value && !strncasecmp(value, "100-continue", 12)) {
        append(&c->out, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        flush(w, c);
    }
    value = header(head, "transfer-encoding");
    if (value && !strncasecmp(value, "chunked", 7)) {
        c->part = CHUNK_SIZE;
        c->head.len = 0;
        return;
    }
    value = header(head, "content-length");
    c->left = value ? strtoull(value, NULL, 10) : 0;
    c->part = BODY;
    c->head.len = 0;
    if (!c->left) complete(w, c);
}

static size_t take_body(struct conn *c, const char *from, size_t n) {
    if (n > c->left) n = (size_t)c->left;
    if (c->json) append(&c->body, from, n);
    c->received += n;
    c->left -= n;
    return n;
}

/* One line into head; true once it is whole (with a zero byte for its line end). */
static bool take_line(struct conn *c, const char *from, size_t n, size_t *used) {
    const char *end = memchr(from, '\n', n);
    *used = end ? (size_t)(end - from) + 1 : n;
    append(&c->head, from, *used);
    if (end) append(&c->head, "", 1);
    return end != NULL;
}

static void feed(struct worker *w, struct conn *c, const char *from, size_t n) {
    while (n && !c->dead) {
        size_t used = 0;
        switch (c->part) {
        case HEAD: {
            size_t before = c->head.len, search = before > 3 ? before - 3 : 0;
            append(&c->head, from, n);
            char *end = memmem(c->head.at + search, c->head.len - search, "\r\n\r\n", 4);
            if (!end) {
                if (c->head.len > MAX_HEAD) c->dead = true;
                return;
            }
            used = (size_t)(end + 4 - c->head.at) - before;
            *end = 0;
            c->head.len = (size_t)(end - c->head.at);
            read_head(w, c);
            break;
        }
        case BODY:
            used = take_body(c, from, n);
            if (!c->left) complete(w, c);
            break;
        case CHUNK_SIZE:
            if (take_line(c, from, n, &used)) {
                c->left = strtoull(c->head.at, NULL, 16);
                c->head.len = 0;
                c->part = c->left ? CHUNK_DATA : TRAILERS;
            }
            break;
        case CHUNK_DATA:
            used = take_body(c, from, n);
            if (!c->left) c->part = CHUNK_END;
            break;
        case CHUNK_END:
            if (take_line(c, from, n, &used)) {
                c->head.len = 0;
                c->part = CHUNK_SIZE;
            }
            break;
        case TRAILERS:
            if (take_line(c, from, n, &used)) {
                bool empty = c->head.at[0] == '\r' || c->head.at[0] == '\n';
                c->head.len = 0;
                if (empty) complete(w, c);
            }
            break;
        }
        from += used;
        n -= used;
    }
}

static void readable(struct worker *w, struct conn *c) {
    ssize_t n = recv(c->fd, w->buffer, READ_AT_ONCE, 0);
    if (n > 0) feed(w, c, w->buffer, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) c->dead = true;
}

static void accept_all(struct worker *w) {
    int fd, one = 1;
    while ((fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

static int listen_on(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) {
        perror("upstream: bind");
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&a, &size);
    port = ntohs(a.sin_port);
    return fd;
}

static void *work(void *argument) {
    struct worker *w = argument;
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int timeout = -1;
        if (w->first) {
            uint64_t now = now_ns();
            timeout = w->first->due <= now ? 0 : (int)((w->first->due - now) / 1000000u) + 1;
        }
        int n = epoll_wait(w->epoll, events, MAX_EVENTS, timeout);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) { accept_all(w); continue; }
            if (events[i].events & EPOLLOUT) flush(w, c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(w, c);
            if (c->dead) drop(w, c);
        }
        run_queue(w, now_ns());
    }
    return NULL;
}

int main(int argc, char **argv) {
    int threads = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--rate")) rate = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--model")) model = argv[i + 1];
        else if (!strcmp(argv[i], "--threads")) threads = atoi(argv[i + 1]);
    }
    signal(SIGPIPE, SIG_IGN);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    for (int i = 0; i < threads; i++) {
        struct worker *w = &workers[i];
        w->listener = listen_on();
        w->epoll = epoll_create1(EPOLL_CLOEXEC);
        w->buffer = malloc(READ_AT_ONCE);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->listener, &e);
        pthread_t thread;
        if (i) pthread_create(&thread, NULL, work, w);
    }
    printf("%d\n", port);
    fflush(stdout);
    work(&workers[0]);
}
