/* Opens many event streams at once and measures how late their events come.
 *
 * The events carry the time at which the upstream made them ("ts:<19 digits>", CLOCK_MONOTONIC in ns
 * of the same machine). Streams are opened one by one over --ramp seconds, so that they do not beat
 * in step. What is measured lies within --seconds, after the last one was answered (or after --opening
 * more seconds: a proxy at its end hardly takes new ones) and --settle has passed. Then the streams run
 * to their end, for which they have --patience, and what never came is counted. Slow streams, whose last ones
 * are open for longer than that, have as long as they are made for.
 *
 * usage: sse_load --port P --streams N --rate R --seconds S [--ramp S] [--opening S] [--settle S]
 *                 [--patience S] [--key K] [--model M] [--path P]
 * Prints one JSON object; times in milliseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CARRY = 32, MARK = 23, BUFFER = 256 * 1024, MAX_EVENTS = 1024 };
enum { BUCKET_US = 10, BUCKETS = 2000000 }; /* up to 20 s */

struct stream {
    int fd;
    size_t carried;
    char carry[CARRY];
    bool sent, answered, done, failed;
    long events;
};

static int port, epoll_fd;
static long streams_wanted = 100;
static double rate = 50, seconds = 5, ramp = 1, opening = 3, settle = 1, patience = 5;
static const char *key = "", *model = "bench-chat", *path = "/v1/chat/completions";
static char request[4096], first_failure[256];
static size_t request_len;
static char buffer[CARRY + BUFFER];
static uint32_t *buckets;
static uint64_t window_from, window_to, ending, late_max;
static long in_window, total, answered_count, open_count, done_count, failed_count, per_stream;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void end(struct stream *s, bool well, const char *why) {
    if (s->done || s->failed) return;
    if (well) { s->done = true; done_count++; }
    else {
        s->failed = true;
        if (!failed_count++) snprintf(first_failure, sizeof first_failure, "%.200s", why);
    }
    close(s->fd);
}

static void open_stream(struct stream *s) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0) { end(s, false, strerror(errno)); return; }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) {
        end(s, false, strerror(errno));
        return;
    }
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->fd, &e);
}

static void count(struct stream *s, uint64_t made, uint64_t now) {
    uint64_t late = now > made ? now - made : 0, bucket = late / 1000 / BUCKET_US;
    s->events++;
    total++;
    if (!window_from || now < window_from || now >= window_to) return;
    in_window++;
    if (late > late_max) late_max = late;
    buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

static void scan(struct stream *s, char *at, size_t n, uint64_t now) {
    char *found, *stop = at + n;
    while ((found = memmem(at, (size_t)(stop - at), "\"ts:", 4)) && stop - found >= MARK) {
        count(s, strtoull(found + 4, NULL, 10), now);
        at = found + MARK;
    }
    if (memmem(at, (size_t)(stop - at), "[DONE]", 6)) { end(s, true, ""); return; }
    s->carried = (size_t)(stop - at) < MARK ? (size_t)(stop - at) : MARK;
    memcpy(s->carry, stop - s->carried, s->carried);
}

static void readable(struct stream *s) {
    ssize_t n = recv(s->fd, buffer + CARRY, BUFFER, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { end(s, false, n ? strerror(errno) : "closed before [DONE]"); return; }
    char *at = buffer + CARRY;
    if (!s->answered) {
        s->answered = true;
        answered_count++;
        if (n < 12 || memcmp(at + 8, " 200", 4)) {
            at[n < 200 ? n : 200] = 0;
            for (char *p = at; *p; p++) if (*p == '\r' || *p == '\n' || *p == '"' || *p == '\\') *p = ' ';
            end(s, false, at);
            return;
        }
    }
    at -= s->carried;
    memcpy(at, s->carry, s->carried);
    scan(s, at, (size_t)n + s->carried, now_ns());
}

static void on_event(struct stream *s, uint32_t what) {
    if (s->done || s->failed) return;
    if ((what & EPOLLOUT) && !s->sent) {
        s->sent = true;
        if (send(s->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) {
            end(s, false, "the request could not be sent");
            return;
        }
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, s->fd, &e);
    }
    if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(s);
}

static double percentile(double share) {
    long wanted = (long)((double)in_window * share), seen = 0;
    for (long i = 0; i < BUCKETS; i++) {
        seen += buckets[i];
        if (seen > wanted) return ((double)i + 0.5) * BUCKET_US / 1000.0;
    }
    return 0;
}

static void make_request(void) {
    char body[512];
    int n = snprintf(body, sizeof body,
                     "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"Count the bees.\"}],"
                     "\"stream\":true,\"max_tokens\":%ld}", model, per_stream);
    request_len = (size_t)snprintf(request, sizeof request,
                                   "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                                   "Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
                                   path, port, *key ? key : "none", n, body);
}

/* The measurement begins once, when all streams are open or waiting for them has to end. */
static void begin_window(uint64_t now) {
    open_count = answered_count;
    window_from = now + (uint64_t)(settle * 1e9);
    window_to = window_from + (uint64_t)(seconds * 1e9);
    ending = window_from + (uint64_t)((double)per_stream / rate * 1e9); /* of the last one to be answered */
}

static void run(struct stream *streams) {
    struct epoll_event events[MAX_EVENTS];
    uint64_t began = now_ns(), now = began, latest = began + (uint64_t)((ramp + opening) * 1e9);
    uint64_t rest = (uint64_t)((opening + settle + patience) * 1e9);
    long opened = 0;
    while (done_count + failed_count < streams_wanted && (!window_from || now < window_to + rest || now < ending)) {
        double share = ramp > 0 ? (double)(now - began) / (ramp * 1e9) : 1;
        long due = share >= 1 ? streams_wanted : (long)(share * (double)streams_wanted);
        for (int burst = 0; opened < due && burst < 32; opened++, burst++) open_stream(&streams[opened]);
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, opened < streams_wanted ? 1 : 100);
        for (int i = 0; i < n; i++) on_event(events[i].data.ptr, events[i].events);
        now = now_ns();
        if (!window_from && (answered_count == streams_wanted || now > latest)) begin_window(now);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (!strcmp(argv[i], "--port")) port = atoi(value);
        else if (!strcmp(argv[i], "--streams")) streams_wanted = atol(value);
        else if (!strcmp(argv[i], "--rate")) rate = atof(value);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(value);
        else if (!strcmp(argv[i], "--ramp")) ramp = atof(value);
        else if (!strcmp(argv[i], "--opening")) opening = atof(value);
        else if (!strcmp(argv[i], "--settle")) settle = atof(value);
        else if (!strcmp(argv[i], "--patience")) patience = atof(value);
        else if (!strcmp(argv[i], "--key")) key = value;
        else if (!strcmp(argv[i], "--model")) model = value;
        else if (!strcmp(argv[i], "--path")) path = value;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    per_stream = (long)(rate * (ramp + opening + settle * 2 + seconds));
    buckets = calloc(BUCKETS, sizeof *buckets);
    struct stream *streams = calloc((size_t)streams_wanted, sizeof *streams);
    epoll_fd = epoll_create1(0);
    make_request();
    run(streams);
    printf("{\"streams\": %ld, \"open\": %ld, \"rate\": %g, \"seconds\": %g, \"events_per_s\": %.1f, \"offered_per_s\": %.1f, "
           "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"finished\": %ld, \"failed\": %ld, "
           "\"delivered\": %ld, \"due\": %ld, \"first_failure\": \"%s\"}\n",
           streams_wanted, open_count, rate, seconds, (double)in_window / seconds, (double)streams_wanted * rate, percentile(0.5),
           percentile(0.99), (double)late_max / 1e6, done_count, failed_count, total, per_stream * streams_wanted,
           first_failure);
    return 0;
}
