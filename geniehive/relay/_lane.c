/* The lane: from an engine's socket to a client's for stream events that are like the one before them.

   An engine sends hundreds of events that differ in nothing but a few characters. Once one of them was read as JSON and
   found to change nothing (gateway.express cuts it into head, text and tail), those with another text between the same
   bytes need not be read: whatever a JSON string says, they mean the same. Such events, each whole in a chunk of its own
   (RFC 9112, 7.1), go on as they came. Everything else goes to `slow`, which is the gateway in Python; so this file
   decides nothing but "like the last" or "not", and the gateway is the same without it, only slower.

   The lane knows no HTTP. It is `open` only while the last byte that came was the end of a chunk, which llhttp has said:
   so it may pass whole chunks without llhttp, whose state is the same before and behind them. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define SIZE_DIGITS 6 /* of a chunk, in hexadecimal: up to 16 MB */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *slow;          /* takes what this lane does not; NULL once closed */
    PyObject *write;         /* of the client's transport */
    PyObject *client;        /* its protocol, has `writing_paused` */
    PyObject *paused;        /* called when the client takes no more */
    PyObject *moved;         /* called when something passed at `due` or later */
    PyObject *keep;          /* takes the events that pass, before they do; or NULL */
    PyObject *head, *tail;   /* bytes around the text; NULL while there is nothing to compare with */
    double due;              /* by time.monotonic() */
    Py_ssize_t budget;       /* bytes of events that may still pass */
    Py_ssize_t events, bytes; /* that passed since `taken` was asked */
    char open;
} Lane;

static PyObject *writing_paused; /* the attribute's name, interned */

/* --- what an event is like ------------------------------------------------------------------------------------- */

static int digit_of(unsigned char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* Whether these bytes may stand in a JSON string (RFC 8259, 7): UTF-8 and the simple escapes; \u is for the parser. */
static bool is_text(const char *text, Py_ssize_t size) {
    bool ascii = true;
    for (Py_ssize_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\\') {
            if (++i == size || !memchr("\"\\/bfnrt", text[i], 8)) return false;
        } else if (c < 0x20 || c == '"' || c == 0x7f) {
            return false;
        } else if (c >= 0x80) {
            ascii = false;
        }
    }
    if (ascii) return true;
    PyObject *decoded = PyUnicode_DecodeUTF8(text, size, NULL);
    if (!decoded) PyErr_Clear();
    Py_XDECREF(decoded);
    return decoded != NULL;
}

/* One chunk: where its event begins, how long that is, and where the chunk ends, all from its first byte. */
typedef struct { Py_ssize_t event, size, end; } Chunk;

/* Read the frame of a chunk; false where it is not whole, is the last, or has more on its size line than a size. */
static bool read_frame(const char *at, Py_ssize_t left, Chunk *chunk) {
    Py_ssize_t size = 0, n = 0;
    for (int value; n < SIZE_DIGITS && n < left && (value = digit_of((unsigned char)at[n])) >= 0; n++)
        size = size * 16 + value;
    if (!n || *at == '0' || left < n + 2 + size + 2 || memcmp(at + n, "\r\n", 2) || memcmp(at + n + 2 + size, "\r\n", 2))
        return false;
    *chunk = (Chunk){n + 2, size, n + 2 + size + 2};
    return true;
}

/* Whether an event is the last one with another text. */
static bool is_alike(Lane *lane, const char *event, Py_ssize_t size) {
    Py_ssize_t head = PyBytes_GET_SIZE(lane->head), tail = PyBytes_GET_SIZE(lane->tail);
    return size >= head + tail && !memcmp(event, PyBytes_AS_STRING(lane->head), (size_t)head)
        && !memcmp(event + size - tail, PyBytes_AS_STRING(lane->tail), (size_t)tail)
        && is_text(event + head, size - head - tail);
}

/* How many events there are in `data`, and how long they are together, if it has nothing but events like the last in
   their chunks; else 0. */
static Py_ssize_t count(Lane *lane, PyObject *data, Py_ssize_t *bytes) {
    const char *at = PyBytes_AS_STRING(data);
    Py_ssize_t left = PyBytes_GET_SIZE(data), events = 0;
    Chunk chunk;
    *bytes = 0;
    for (; left; left -= chunk.end, at += chunk.end, events++) {
        if (!read_frame(at, left, &chunk) || !is_alike(lane, at + chunk.event, chunk.size)) return 0;
        *bytes += chunk.size;
    }
    return events;
}

/* --- what happens to it ---------------------------------------------------------------------------------------- */

/* Call with one argument, or none; holds what is called, which may leave the lane meanwhile. 0, or -1 with an error. */
static int tell(PyObject *whom, PyObject *what) {
    if (!whom) return 0; /* left meanwhile */
    Py_INCREF(whom);
    PyObject *done = what ? PyObject_CallOneArg(whom, what) : PyObject_CallNoArgs(whom);
    Py_DECREF(whom);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int keep_events(Lane *lane, PyObject *data) {
    const char *at = PyBytes_AS_STRING(data);
    Chunk chunk;
    for (Py_ssize_t left = PyBytes_GET_SIZE(data); left && lane->keep; left -= chunk.end, at += chunk.end) {
        if (!read_frame(at, left, &chunk)) break; /* counted before: cannot be */
        PyObject *event = PyBytes_FromStringAndSize(at + chunk.event, chunk.size);
        int failed = event ? tell(lane->keep, event) : -1;
        Py_XDECREF(event);
        if (failed) return -1;
    }
    return 0;
}

static double now(void) {
    struct timespec t;
#ifdef __APPLE__
    clock_gettime(CLOCK_UPTIME_RAW, &t); /* what time.monotonic() reads there */
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Behind a write: the client may want no more, and the stream's deadline may have to move. */
static int after_write(Lane *lane) {
    if (!lane->client) return 0; /* left meanwhile */
    PyObject *client = Py_NewRef(lane->client);
    PyObject *full = PyObject_GetAttr(client, writing_paused);
    Py_DECREF(client);
    if (!full) return -1;
    Py_DECREF(full); /* True and False outlive it */
    if (full == Py_True) return tell(lane->paused, NULL);
    return now() >= lane->due ? tell(lane->moved, NULL) : 0;
}

/* 1 if `data` went to the client, 0 if it is not for this lane, -1 with an error. */
static int pass(Lane *lane, PyObject *data) {
    Py_ssize_t bytes, events;
    if (!lane->open || !lane->head || !PyBytes_CheckExact(data)) return 0;
    if (!(events = count(lane, data, &bytes)) || bytes > lane->budget) return 0;
    if (lane->keep && keep_events(lane, data) < 0) return -1;
    if (!lane->write) return 0;
    if (tell(lane->write, data) < 0) { /* to a client that is gone: `slow` finds that out, and whose fault it is */
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return -1;
        PyErr_Clear();
        return 0;
    }
    lane->events += events;
    lane->bytes += bytes;
    lane->budget -= bytes;
    return after_write(lane) < 0 ? -1 : 1;
}

static PyObject *lane_take(PyObject *self, PyObject *const *args, size_t flags, PyObject *names) {
    Lane *lane = (Lane *)self;
    if (PyVectorcall_NARGS(flags) != 1 || names) {
        PyErr_SetString(PyExc_TypeError, "a lane is called with one piece of data");
        return NULL;
    }
    int passed = pass(lane, args[0]);
    if (!passed) {
        lane->open = 0; /* until whoever parses it says so again */
        if (lane->slow && tell(lane->slow, args[0]) < 0) passed = -1;
    }
    if (passed < 0) return NULL;
    Py_RETURN_NONE;
}

/* --- the type -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(join_doc, "join(write, client, paused, moved, keep, due)\n--\n\nLead to this client from now on.");

static PyObject *lane_join(Lane *lane, PyObject *args) {
    PyObject *write, *client, *paused, *moved, *keep;
    double due;
    if (!PyArg_ParseTuple(args, "OOOOOd", &write, &client, &paused, &moved, &keep, &due)) return NULL;
    Py_XSETREF(lane->write, Py_NewRef(write));
    Py_XSETREF(lane->client, Py_NewRef(client));
    Py_XSETREF(lane->paused, Py_NewRef(paused));
    Py_XSETREF(lane->moved, Py_NewRef(moved));
    Py_XSETREF(lane->keep, keep == Py_None ? NULL : Py_NewRef(keep));
    Py_CLEAR(lane->head);
    Py_CLEAR(lane->tail);
    lane->due = due;
    lane->events = lane->bytes = lane->open = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(learn_doc, "learn(head, tail, budget)\n--\n\nThis is around the text of an event; so many bytes may pass.");

static PyObject *lane_learn(Lane *lane, PyObject *args) {
    PyObject *head, *tail;
    Py_ssize_t budget;
    if (!PyArg_ParseTuple(args, "SSn", &head, &tail, &budget)) return NULL;
    if (!lane->write) {
        PyErr_SetString(PyExc_RuntimeError, "the lane leads nowhere: join it first");
        return NULL;
    }
    Py_XSETREF(lane->head, Py_NewRef(head));
    Py_XSETREF(lane->tail, Py_NewRef(tail));
    lane->budget = budget;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(taken_doc, "taken()\n--\n\nEvents that passed since this was last asked, and their bytes.");

static PyObject *lane_taken(Lane *lane, PyObject *Py_UNUSED(none)) {
    PyObject *taken = Py_BuildValue("nn", lane->events, lane->bytes);
    lane->events = lane->bytes = 0;
    return taken;
}

PyDoc_STRVAR(leave_doc, "leave()\n--\n\nLead nowhere: everything is for `slow`.");

static PyObject *lane_leave(Lane *lane, PyObject *Py_UNUSED(none)) {
    lane->open = 0;
    Py_CLEAR(lane->write);
    Py_CLEAR(lane->client);
    Py_CLEAR(lane->paused);
    Py_CLEAR(lane->moved);
    Py_CLEAR(lane->keep);
    Py_CLEAR(lane->head);
    Py_CLEAR(lane->tail);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc, "close()\n--\n\nLeave, and take nothing any more.");

static PyObject *lane_close(Lane *lane, PyObject *none) {
    Py_CLEAR(lane->slow);
    return lane_leave(lane, none);
}

static PyObject *lane_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"slow", NULL};
    PyObject *slow;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &slow)) return NULL;
    Lane *lane = (Lane *)type->tp_alloc(type, 0);
    if (!lane) return NULL;
    lane->call = lane_take;
    lane->slow = Py_NewRef(slow);
    return (PyObject *)lane;
}

static int lane_clear(Lane *lane) {
    Py_XDECREF(lane_close(lane, NULL));
    return 0;
}

static int lane_traverse(Lane *lane, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(lane));
    Py_VISIT(lane->slow);
    Py_VISIT(lane->write);
    Py_VISIT(lane->client);
    Py_VISIT(lane->paused);
    Py_VISIT(lane->moved);
    Py_VISIT(lane->keep);
    return 0;
}

static void lane_dealloc(Lane *lane) {
    PyTypeObject *type = Py_TYPE(lane);
    PyObject_GC_UnTrack(lane);
    lane_clear(lane);
    type->tp_free(lane);
    Py_DECREF(type);
}

static PyObject *lane_ready(Lane *lane, void *Py_UNUSED(closure)) { return PyBool_FromLong(lane->head != NULL); }

static PyMethodDef methods[] = {
    {"join", (PyCFunction)lane_join, METH_VARARGS, join_doc},
    {"learn", (PyCFunction)lane_learn, METH_VARARGS, learn_doc},
    {"taken", (PyCFunction)lane_taken, METH_NOARGS, taken_doc},
    {"leave", (PyCFunction)lane_leave, METH_NOARGS, leave_doc},
    {"close", (PyCFunction)lane_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Lane, call), READONLY, NULL},
    {"open", T_BOOL, offsetof(Lane, open), 0, "Whether what came last ended with a chunk, and nothing of it waits."},
    {"due", T_DOUBLE, offsetof(Lane, due), 0, "When `moved` is to be told next, by time.monotonic()."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"ready", (getter)lane_ready, NULL, "Whether it knows what the events are like.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Lane(slow)\n--\n\nTakes what comes off a socket; `slow` gets what this does not know."},
    {Py_tp_new, lane_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, attributes},
    {Py_tp_traverse, lane_traverse},
    {Py_tp_clear, lane_clear},
    {Py_tp_dealloc, lane_dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    "geniehive.relay._lane.Lane", sizeof(Lane), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, slots,
};

static int fill(PyObject *module) {
    if (!writing_paused && !(writing_paused = PyUnicode_InternFromString("writing_paused"))) return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    int done = type ? PyModule_AddObjectRef(module, "Lane", type) : -1;
    Py_XDECREF(type);
    return done;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_lane", "The compiled part of the relay.", 0, NULL, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__lane(void) { return PyModuleDef_Init(&module); }
