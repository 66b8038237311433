/* The twins in C of what looks at each byte of an HTTP/1.1 message: parse_request, parse_response, unchunk; and of what
puts many small pieces together for each: serialise_request, serialise_response, access_line.

Theory of operation
-------------------
A head is read in one pass: each line is validated and its name looked up among the few fields that mean something to a
proxy, and the lines that go on are copied in runs between those that end here. What is taken is what the expressions of
heads.py take, and the usual fields wherever they are: heads that are canonical as they stand. Whatever is incomplete,
unusual or wrong goes to the slow path in Python, from the start of the head, so nothing here knows an error message.
Fields whose meaning is rare or intricate (Connection, Expect, X-Forwarded-For, ...) are handed, in order, to the same
Python functions that record them in the other twin; `setup` hands over the tables with those functions, so the names
are written down once.

Memory: every read stays inside the bytes object that was given. A scan ends at the first byte outside its class, and
the NUL that CPython keeps behind the last byte is in no class; a comparison of several bytes asks for the room first.
Nothing is kept between calls but what `setup` got and the text of the second that the last line was of. Heads are instances of the Python classes: their slots are filled in
by offset, which costs a tenth of calling `__init__`. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h> /* PyMemberDef, before 3.12 */
#include <stdint.h>
#include <string.h>
#include <time.h>

/* --- bytes by class --------------------------------------------------------------------------------------------- */

enum { TOKEN = 1, VALUE = 2, TARGET = 4, HOST = 8, HEX = 16, DIGIT = 32 };

static unsigned char classes[256];
static unsigned char lowered[256];

static void
mark(const char *characters, int class)
{
    for (; *characters; characters++) {
        classes[(unsigned char)*characters] |= class;
    }
}

static void
make_tables(void)
{
    for (int byte = 0; byte < 256; byte++) {
        lowered[byte] = byte >= 'A' && byte <= 'Z' ? byte + 32 : byte;
        if (byte == '\t' || (byte >= ' ' && byte != 127)) {
            classes[byte] |= VALUE;
        }
    }
    mark("0123456789", TOKEN | TARGET | HOST | HEX | DIGIT);
    mark("abcdefABCDEF", HEX);
    mark("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", TOKEN | TARGET | HOST);
    mark("!#$%&'*+-.^_`|~", TOKEN);
    mark("!$%&'()*+,-./:;=?@[]^_`{|}~", TARGET);
    mark("._-", HOST);
}

#define IS(byte, class) (classes[(unsigned char)(byte)] & (class))
#define SKIP(at, class) while (IS(*(at), class)) (at)++

/* The end of a field's value that begins at `at`. Eight bytes at a time while all of them are above 31 and not DEL, which
takes a third of the time that looking each of them up takes. */
static const char *
value_end(const char *at, const char *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    for (; end - at >= 8; at += 8) {
        uint64_t bytes, from_del;
        memcpy(&bytes, at, 8);
        from_del = bytes ^ (ones * 127);
        if ((((bytes - ones * 32) & ~bytes) | ((from_del - ones) & ~from_del)) & tops) {
            break;
        }
    }
    SKIP(at, VALUE);
    return at;
}

static int
is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

/* Whether `size` bytes spell `name`, which is in lower case. */
static int
spells(const char *bytes, Py_ssize_t size, const char *name, Py_ssize_t length)
{
    if (size != length) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (lowered[(unsigned char)bytes[i]] != (unsigned char)name[i]) {
            return 0;
        }
    }
    return 1;
}

/* --- what setup was given --------------------------------------------------------------------------------------- */

#define MAX_NAME 31
#define MAX_NAMED 64   /* fields that mean something to one side */
#define MAX_MARKED 32  /* such fields in one head; one with more is not plain */

typedef enum {
    RECORDED, DROPPED, HOST_FIELD, USER_AGENT, REQUEST_ID, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION
} Kind;

typedef struct {
    char name[MAX_NAME + 1];
    Py_ssize_t length;
    Kind kind;
    PyObject *key;     /* the name as bytes; this and the next are borrowed from State.held */
    PyObject *record;  /* (head, name, value) -> None */
} Field;

/* Requests and responses alike: the class of the heads, the fields by length of name, and what is done in Python. */
typedef struct {
    PyTypeObject *type;       /* borrowed, like all objects here */
    Field fields[MAX_NAMED];
    int first[MAX_NAME + 2];  /* fields[first[n]] to fields[first[n + 1] - 1] have names of length n */
    PyObject *check;          /* (head) -> None */
    PyObject *slowly;         /* (data, start, limits) -> head or None */
} Side;

enum {
    R_METHOD, R_TARGET, R_PERSISTENT, R_KEEP_ALIVE, R_FIELDS, R_END, R_HOST, R_CONTENT_LENGTH, R_CHUNKED, R_CONNECTION,
    R_USER_AGENT, R_REQUEST_ID, R_OTHERS, R_SLOTS
};
static const char *const request_slots[R_SLOTS] = {
    "method", "target", "persistent", "keep_alive", "fields", "end", "host", "content_length", "chunked", "connection",
    "user_agent", "request_id", "others"};

enum {
    S_STATUS, S_REASON, S_LINE, S_PERSISTENT, S_KEEP_ALIVE, S_FIELDS, S_END, S_CONTENT_LENGTH, S_CHUNKED, S_CONNECTION,
    S_TRAILER, S_UPGRADE, S_DATED, S_SLOTS
};
static const char *const response_slots[S_SLOTS] = {
    "status", "reason", "line", "persistent", "keep_alive", "fields", "end", "content_length", "chunked", "connection",
    "trailer", "upgrade", "dated"};

#define METHODS 7
static const char *const methods[METHODS] = {"GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"};

typedef struct {
    int ready;
    Side request, response;
    Py_ssize_t request_offsets[R_SLOTS], response_offsets[S_SLOTS];
    PyObject *limits, *escaped;       /* borrowed */
    PyObject *method_names[METHODS];  /* borrowed */
    PyObject *held;                   /* a list of all that is borrowed */
    time_t stamped;                   /* the second that `stamp` is of */
    char stamp[24];                   /* 2026-11-21T12:00:00 */
} State;

static Kind
kind_of(const char *name)
{
    static const struct { const char *name; Kind kind; } known[] = {
        {"host", HOST_FIELD}, {"user-agent", USER_AGENT}, {"x-request-id", REQUEST_ID},
        {"content-length", CONTENT_LENGTH}, {"transfer-encoding", TRANSFER_ENCODING}, {"connection", CONNECTION}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            return known[i].kind;
        }
    }
    return RECORDED;
}

/* Where instances of `type` keep the slot `name`; -1 with an exception if it has none. */
static Py_ssize_t
slot_offset(PyTypeObject *type, const char *name)
{
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
    if (descriptor == NULL) {
        return -1;
    }
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) {
        offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    }
    else {
        PyErr_Format(PyExc_TypeError, "%s.%s is not a slot", type->tp_name, name);
    }
    Py_DECREF(descriptor);
    return offset;
}

static int
add_field(Side *side, int count, PyObject *key, PyObject *record)
{
    Field *field = &side->fields[count];
    if (count == MAX_NAMED || !PyBytes_Check(key) || PyBytes_GET_SIZE(key) > MAX_NAME) {
        PyErr_SetString(PyExc_ValueError, "too many fields, or a name that is too long");
        return -1;
    }
    field->length = PyBytes_GET_SIZE(key);
    memcpy(field->name, PyBytes_AS_STRING(key), field->length + 1);
    field->kind = record == Py_None ? DROPPED : kind_of(field->name);
    field->key = key;
    field->record = record;
    return 0;
}

static int
set_up_side(State *state, Side *side, PyObject *given, const char *const *slots, Py_ssize_t *offsets, int slot_count)
{
    PyObject *type, *fields;
    if (!PyArg_ParseTuple(given, "O!O!OO", &PyType_Type, &type, &PyDict_Type, &fields, &side->check, &side->slowly)
        || PyList_Append(state->held, given) < 0 || (fields = PyDict_Copy(fields)) == NULL) {
        return -1;
    }
    int failed = PyList_Append(state->held, fields);
    Py_DECREF(fields);
    if (failed) {
        return -1;
    }
    side->type = (PyTypeObject *)type;
    for (int i = 0; i < slot_count; i++) {
        offsets[i] = slot_offset(side->type, slots[i]);
        if (offsets[i] < 0) {
            return -1;
        }
    }
    int count = 0;
    for (Py_ssize_t length = 0; length <= MAX_NAME + 1; length++) {
        side->first[length] = count;
        Py_ssize_t position = 0;
        PyObject *key, *record;
        while (PyDict_Next(fields, &position, &key, &record)) {
            if (PyObject_Length(key) == length && add_field(side, count++, key, record) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

static PyObject *
setup(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    PyTypeObject *tuple = &PyTuple_Type;
    PyObject *request, *response, *limits, *escaped;
    if (state->ready) {
        PyErr_SetString(PyExc_RuntimeError, "set up twice");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!O!O!O:setup", tuple, &request, tuple, &response, tuple, &limits, &escaped)
        || set_up_side(state, &state->request, request, request_slots, state->request_offsets, R_SLOTS) < 0
        || set_up_side(state, &state->response, response, response_slots, state->response_offsets, S_SLOTS) < 0
        || PyList_Append(state->held, limits) < 0 || PyList_Append(state->held, escaped) < 0) {
        return NULL;
    }
    state->limits = limits;
    state->escaped = escaped;
    state->ready = 1;
    Py_RETURN_NONE;
}

/* --- arguments -------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject *data, *limits;
    const char *start, *end;
    Py_ssize_t max_line, max_section, max_fields;
} Arguments;

static int
read_arguments(State *state, PyObject *const *args, Py_ssize_t count, Arguments *out)
{
    if (!state->ready || count < 1 || count > 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "expected (data: bytes, start: int = 0, limits: HeadLimits), after setup");
        return -1;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    Py_ssize_t start = count > 1 ? PyLong_AsSsize_t(args[1]) : 0;
    out->data = args[0];
    out->limits = count > 2 ? args[2] : state->limits;
    if (!PyTuple_Check(out->limits) || PyTuple_GET_SIZE(out->limits) < 3 || start < 0 || start > size) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "start is outside of data, or limits are not HeadLimits");
        }
        return -1;
    }
    out->start = PyBytes_AS_STRING(out->data) + start;
    out->end = PyBytes_AS_STRING(out->data) + size;
    out->max_line = PyLong_AsSsize_t(PyTuple_GET_ITEM(out->limits, 0));
    out->max_section = PyLong_AsSsize_t(PyTuple_GET_ITEM(out->limits, 1));
    out->max_fields = PyLong_AsSsize_t(PyTuple_GET_ITEM(out->limits, 2));
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
slowly(const Side *side, const Arguments *given)
{
    PyObject *start = PyLong_FromSsize_t(given->start - PyBytes_AS_STRING(given->data));
    if (start == NULL) {
        return NULL;
    }
    PyObject *args[] = {given->data, start, given->limits};
    PyObject *head = PyObject_Vectorcall(side->slowly, args, 3, NULL);
    Py_DECREF(start);
    return head;
}

/* --- the fields of a head --------------------------------------------------------------------------------------- */

typedef struct {
    const char *at;
    Py_ssize_t size;
} Span;

typedef struct {
    const Field *field;
    Span value;
} Recorded;

/* What the lines of a plain field section say. */
typedef struct {
    Span host, user_agent, request_id;  /* `at` NULL: there is none */
    long long content_length;           /* -1: there is none */
    int chunked;
    Recorded recorded[MAX_MARKED];
    int recorded_count;
    Span dropped[MAX_MARKED];
    int dropped_count;
    Py_ssize_t dropped_size;
    int dated;  /* there is a Date */
    const char *start;  /* the CR LF before the first line */
    const char *end;    /* after the CR LF CR LF */
} Section;

static const Field *
find_field(const Side *side, const char *name, Py_ssize_t length)
{
    if (length > MAX_NAME) {
        return NULL;
    }
    const Field *field = &side->fields[side->first[length]], *end = &side->fields[side->first[length + 1]];
    for (; field < end; field++) {
        if (spells(name, length, field->name, length)) {
            return field;
        }
    }
    return NULL;
}

/* As _HOST in heads.py. */
static int
is_host(const char *at, Py_ssize_t size)
{
    const char *end = at + size;
    if (*at == '[') {
        const char *first = ++at;
        while (IS(*at, HEX) || *at == ':' || *at == '.') at++;
        if (at == first || *at++ != ']') {
            return 0;
        }
    }
    else {
        if (!IS(*at, HOST) || *at == '.' || *at == '-') {
            return 0;
        }
        SKIP(at, HOST);
    }
    if (at < end && *at == ':') {
        const char *first = ++at;
        SKIP(at, DIGIT);
        if (at - first > 5) {
            return 0;
        }
    }
    return at == end;
}

/* As _content_length in heads.py; -1 if it is not a length. */
static long long
length_of(Span value)
{
    long long length = 0;
    if (value.size > 18) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < value.size; i++) {
        if (!IS(value.at[i], DIGIT)) {
            return -1;
        }
        length = length * 10 + (value.at[i] - '0');
    }
    return length;
}

/* Note one field that means something. 1: its line goes on, 0: it ends here, -1: not plain. */
static int
note(Section *section, const Field *field, Span value)
{
    switch (field->kind) {
    case HOST_FIELD:
        if (section->host.at != NULL || !is_host(value.at, value.size)) {
            return -1;
        }
        section->host = value;
        return 0;
    case USER_AGENT:
        section->user_agent = value;
        return 1;
    case REQUEST_ID:
        if (section->request_id.at == NULL) {
            section->request_id = value;
        }
        return 0;  /* it is written anew */
    case CONTENT_LENGTH:
        if (section->content_length >= 0) {
            return -1;
        }
        section->content_length = length_of(value);
        return section->content_length < 0 ? -1 : 1;
    case TRANSFER_ENCODING:
        if (section->chunked || !spells(value.at, value.size, "chunked", 7)) {
            return -1;
        }
        section->chunked = 1;
        return 0;
    case CONNECTION:
        if (spells(value.at, value.size, "keep-alive", 10)) {
            return 0;  /* what HTTP/1.1 does anyway, and what a `close` beside it overrules */
        }
        break;
    case DROPPED:
        return 0;
    case RECORDED:
        break;
    }
    if (section->recorded_count == MAX_MARKED) {
        return -1;
    }
    section->recorded[section->recorded_count++] = (Recorded){field, value};
    return 0;
}

/* Read the lines from `at` on, which follows a CR LF. 1: plain, 0: not plain. */
static int
read_section(const Side *side, const Arguments *given, const char *at, Section *section)
{
    Py_ssize_t count = 0;
    section->host = section->user_agent = section->request_id = (Span){NULL, 0};
    section->content_length = -1;
    section->chunked = section->recorded_count = section->dropped_count = 0;
    section->dropped_size = 0;
    section->dated = 0;
    section->start = at - 2;
    while (*at != '\r') {
        const char *name = at;
        SKIP(at, TOKEN);
        Py_ssize_t length = at - name;
        if (length == 0 || at[0] != ':' || at[1] != ' ' || ++count > given->max_fields) {
            return 0;
        }
        Span value = {at += 2, 0};
        at = value_end(at, given->end);
        value.size = at - value.at;
        if (value.size == 0 || is_blank(*value.at) || is_blank(at[-1]) || at[0] != '\r' || at[1] != '\n') {
            return 0;
        }
        at += 2;
        const Field *field = find_field(side, name, length);
        if (field != NULL) {
            int goes_on = note(section, field, value);
            if (goes_on < 0 || (!goes_on && section->dropped_count == MAX_MARKED)) {
                return 0;
            }
            if (!goes_on) {
                section->dropped[section->dropped_count++] = (Span){name, at - name};
                section->dropped_size += at - name;
            }
        }
        else if (length == 4 && spells(name, 4, "date", 4)) {
            section->dated = 1;
        }
    }
    if (at[1] != '\n' || at - 2 - section->start > given->max_section) {
        return 0;
    }
    section->end = at + 2;
    return !(section->chunked && section->content_length >= 0);
}

/* The lines that go on, with a CR LF before, between and after them. */
static PyObject *
kept_lines(const Section *section)
{
    const char *from = section->start, *end = section->end - 2;
    PyObject *fields = PyBytes_FromStringAndSize(NULL, end - from - section->dropped_size);
    if (fields == NULL) {
        return NULL;
    }
    char *to = PyBytes_AS_STRING(fields);
    for (int i = 0; i < section->dropped_count; i++) {
        memcpy(to, from, section->dropped[i].at - from);
        to += section->dropped[i].at - from;
        from = section->dropped[i].at + section->dropped[i].size;
    }
    memcpy(to, from, end - from);
    return fields;
}

static PyObject *
bytes_of(Span span)
{
    return PyBytes_FromStringAndSize(span.at, span.size);  /* b"" for one that is not there: its size is 0 */
}

static PyObject *
length_object(const Section *section)
{
    return section->content_length < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(section->content_length);
}

static PyObject *
concatenated(const Span *pieces, int count)
{
    Py_ssize_t size = 0;
    for (int i = 0; i < count; i++) {
        size += pieces[i].size;
    }
    PyObject *whole = PyBytes_FromStringAndSize(NULL, size);
    if (whole != NULL) {
        char *to = PyBytes_AS_STRING(whole);
        for (int i = 0; i < count; i++) {
            memcpy(to, pieces[i].at, pieces[i].size);
            to += pieces[i].size;
        }
    }
    return whole;
}

/* Have Python record what is left to it, in order, and judge the whole. */
static int
record(const Side *side, const Section *section, PyObject *head)
{
    for (int i = 0; i < section->recorded_count; i++) {
        const Recorded *one = &section->recorded[i];
        PyObject *value = PyBytes_FromStringAndSize(one->value.at, one->value.size);
        if (value == NULL) {
            return -1;
        }
        PyObject *args[] = {head, one->field->key, value};
        PyObject *result = PyObject_Vectorcall(one->field->record, args, 3, NULL);
        Py_DECREF(value);
        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
    }
    PyObject *result = PyObject_CallOneArg(side->check, head);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* A head with its slots set to `values`, whose references it takes over, also on failure. */
static PyObject *
make_head(const Side *side, const Py_ssize_t *offsets, PyObject **values, int count)
{
    PyObject *head = side->type->tp_alloc(side->type, 0);
    for (int i = 0; i < count; i++) {
        if (values[i] == NULL) {
            Py_CLEAR(head);
        }
    }
    for (int i = 0; i < count; i++) {
        if (head == NULL) {
            Py_XDECREF(values[i]);
        }
        else {
            *(PyObject **)((char *)head + offsets[i]) = values[i];
        }
    }
    return head;
}

/* --- the two kinds of head -------------------------------------------------------------------------------------- */

static PyObject *
method_object(State *state, Span method)
{
    for (int i = 0; i < METHODS; i++) {
        PyObject *name = state->method_names[i];
        if (PyBytes_GET_SIZE(name) == method.size && memcmp(PyBytes_AS_STRING(name), method.at, method.size) == 0) {
            return Py_NewRef(name);
        }
    }
    return PyBytes_FromStringAndSize(method.at, method.size);
}

static int
is_refused(Span method)
{
    return (method.size == 7 && memcmp(method.at, "CONNECT", 7) == 0)
        || (method.size == 5 && memcmp(method.at, "TRACE", 5) == 0);
}

static PyObject *
parse_request(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    const Side *side = &state->request;
    Arguments given;
    if (read_arguments(state, args, nargs, &given) < 0) {
        return NULL;
    }
    const char *at = given.start;
    Span method = {at, 0};
    SKIP(at, TOKEN);
    method.size = at - method.at;
    if (method.size == 0 || *at != ' ' || is_refused(method)) {
        return slowly(side, &given);
    }
    Span target = {++at, 0};
    if (*at != '/') {
        return slowly(side, &given);
    }
    SKIP(at, TARGET);
    target.size = at - target.at;
    if (given.end - at < 11 || memcmp(at, " HTTP/1.1\r\n", 11) != 0 || at + 9 - given.start > given.max_line) {
        return slowly(side, &given);
    }
    Section section;
    if (!read_section(side, &given, at + 11, &section) || section.host.at == NULL) {
        return slowly(side, &given);
    }
    PyObject *values[R_SLOTS] = {
        [R_METHOD] = method_object(state, method),
        [R_TARGET] = bytes_of(target),
        [R_PERSISTENT] = Py_NewRef(Py_True),
        [R_KEEP_ALIVE] = Py_NewRef(Py_True),
        [R_FIELDS] = kept_lines(&section),
        [R_END] = PyLong_FromSsize_t(section.end - PyBytes_AS_STRING(given.data)),
        [R_HOST] = bytes_of(section.host),
        [R_CONTENT_LENGTH] = length_object(&section),
        [R_CHUNKED] = PyBool_FromLong(section.chunked),
        [R_CONNECTION] = Py_NewRef(Py_None),
        [R_USER_AGENT] = bytes_of(section.user_agent),
        [R_REQUEST_ID] = bytes_of(section.request_id),
        [R_OTHERS] = Py_NewRef(Py_None),
    };
    PyObject *head = make_head(side, state->request_offsets, values, R_SLOTS);
    if (head != NULL && section.recorded_count && record(side, &section, head) < 0) {
        Py_CLEAR(head);
    }
    return head;
}

static PyObject *
parse_response(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    const Side *side = &state->response;
    Arguments given;
    if (read_arguments(state, args, nargs, &given) < 0) {
        return NULL;
    }
    const char *at = given.start;
    if (given.end - at < 15 || memcmp(at, "HTTP/1.1 ", 9) != 0 || at[9] < '1' || at[9] > '5' || !IS(at[10], DIGIT)
        || !IS(at[11], DIGIT) || at[12] != ' ') {
        return slowly(side, &given);
    }
    int status = (at[9] - '0') * 100 + (at[10] - '0') * 10 + (at[11] - '0');
    Span reason = {at += 13, 0};
    SKIP(at, VALUE);
    reason.size = at - reason.at;
    Section section;
    if (at[0] != '\r' || at[1] != '\n' || !read_section(side, &given, at + 2, &section)
        || section.end - 4 - given.start > given.max_line + given.max_section) {
        return slowly(side, &given);
    }
    PyObject *values[S_SLOTS] = {
        [S_STATUS] = PyLong_FromLong(status),
        [S_REASON] = bytes_of(reason),
        [S_LINE] = bytes_of((Span){given.start, at - given.start}),
        [S_PERSISTENT] = Py_NewRef(Py_True),
        [S_KEEP_ALIVE] = Py_NewRef(Py_True),
        [S_FIELDS] = kept_lines(&section),
        [S_END] = PyLong_FromSsize_t(section.end - PyBytes_AS_STRING(given.data)),
        [S_CONTENT_LENGTH] = length_object(&section),
        [S_CHUNKED] = PyBool_FromLong(section.chunked),
        [S_CONNECTION] = Py_NewRef(Py_None),
        [S_TRAILER] = Py_NewRef(Py_None),
        [S_UPGRADE] = Py_NewRef(Py_None),
        [S_DATED] = PyBool_FromLong(section.dated),
    };
    PyObject *head = make_head(side, state->response_offsets, values, S_SLOTS);
    if (head != NULL && (section.recorded_count || status < 200 || status == 204) && record(side, &section, head) < 0) {
        Py_CLEAR(head);
    }
    return head;
}

/* --- chunked content -------------------------------------------------------------------------------------------- */

enum { SIZE = 0, DATA_END = -1, TRAILERS = -2 };  /* as in bodies.py */
#define MAX_PIECES 64  /* of one call: the caller reads the next size line itself, and calls again */

/* The size line at `*at`, which is moved behind it. -1: it is not complete or not plain. */
static long long
chunk_size(const char **at, const char *end)
{
    const char *digit = *at;
    long long size = 0;
    for (; IS(*digit, HEX) && digit - *at < 15; digit++) {
        size = size * 16 + (*digit <= '9' ? *digit - '0' : (*digit | 32) - 'a' + 10);
    }
    if (digit == *at || end - digit < 2 || digit[0] != '\r' || digit[1] != '\n') {
        return -1;
    }
    *at = digit + 2;
    return size;
}

static PyObject *
joined(PyObject *data, const Span *pieces, int count)
{
    if (count == 1 && pieces[0].size == PyBytes_GET_SIZE(data)) {
        return Py_NewRef(data);
    }
    return concatenated(pieces, count);
}

static PyObject *
unchunk(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "expected (data: bytes, position: int, remaining: int)");
        return NULL;
    }
    Py_ssize_t position = PyLong_AsSsize_t(args[1]);
    long long remaining = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (position < 0 || position > PyBytes_GET_SIZE(args[0])) {
        PyErr_SetString(PyExc_ValueError, "position is outside of data");
        return NULL;
    }
    const char *data = PyBytes_AS_STRING(args[0]), *at = data + position, *end = data + PyBytes_GET_SIZE(args[0]);
    Span pieces[MAX_PIECES];
    int count = 0;
    for (;;) {
        if (remaining > 0) {
            if (at == end) {
                break;
            }
            Py_ssize_t size = remaining < end - at ? (Py_ssize_t)remaining : end - at;
            pieces[count++] = (Span){at, size};
            at += size;
            remaining -= size;
            if (remaining) {
                break;
            }
            remaining = DATA_END;
        }
        if (remaining == DATA_END) {
            if (end - at < 2 || at[0] != '\r' || at[1] != '\n') {
                break;
            }
            at += 2;
            remaining = SIZE;
        }
        long long size = remaining == SIZE && count < MAX_PIECES ? chunk_size(&at, end) : -1;
        if (size < 0) {
            break;
        }
        remaining = size ? size : TRAILERS;
    }
    PyObject *content = joined(args[0], pieces, count);
    return content == NULL ? NULL : Py_BuildValue("(NnL)", content, (Py_ssize_t)(at - data), remaining);
}

/* --- heads out -------------------------------------------------------------------------------------------------- */

#define TEXT(literal) ((Span){literal, sizeof literal - 1})

/* The bytes of `object`; `at` NULL with an exception if it is something else, or no object at all. */
static Span
span_of(PyObject *object)
{
    if (object == NULL || !PyBytes_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "expected bytes");
        return (Span){NULL, 0};
    }
    return (Span){PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object)};
}

/* What a head has in a slot, borrowed; NULL if it is not set. */
static PyObject *
slot_at(PyObject *head, Py_ssize_t offset)
{
    return *(PyObject **)((char *)head + offset);
}

/* The same of a RequestHead. */
static PyObject *
in_slot(const State *state, PyObject *head, int slot)
{
    return slot_at(head, state->request_offsets[slot]);
}

static PyObject *
serialise_request(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    const State *state = PyModule_GetState(module);
    if (!state->ready || nargs != 6 || !Py_IS_TYPE(args[0], state->request.type)) {
        PyErr_SetString(PyExc_TypeError, "expected (RequestHead, host, fields, about, added, request_id)");
        return NULL;
    }
    PyObject *head = args[0];
    Span request_id = span_of(args[5]);
    Span pieces[] = {
        span_of(in_slot(state, head, R_METHOD)), TEXT(" "), span_of(in_slot(state, head, R_TARGET)),
        TEXT(" HTTP/1.1\r\nhost: "), span_of(args[1]), span_of(args[2]), span_of(args[3]), span_of(args[4]),
        TEXT("x-request-id: "), request_id, TEXT("\r\n"),
        in_slot(state, head, R_CHUNKED) == Py_True ? TEXT("transfer-encoding: chunked\r\n\r\n") : TEXT("\r\n")};
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (request_id.size == 0) {
        pieces[8] = pieces[10] = request_id;
    }
    return concatenated(pieces, sizeof pieces / sizeof *pieces);
}

static PyObject *
serialise_response(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    const State *state = PyModule_GetState(module);
    if (!state->ready || nargs < 2 || nargs > 4 || !Py_IS_TYPE(args[0], state->response.type)) {
        PyErr_SetString(PyExc_TypeError, "expected (ResponseHead, framing, data = b\"\", start = 0)");
        return NULL;
    }
    Span content = nargs > 2 ? span_of(args[2]) : (Span){"", 0};
    Py_ssize_t start = nargs > 3 ? PyLong_AsSsize_t(args[3]) : 0;
    Span pieces[] = {
        span_of(slot_at(args[0], state->response_offsets[S_LINE])),
        span_of(slot_at(args[0], state->response_offsets[S_FIELDS])), span_of(args[1]), TEXT("\r\n"), content};
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (start < 0 || start > content.size) {
        PyErr_SetString(PyExc_ValueError, "start is outside of data");
        return NULL;
    }
    pieces[4].at += start;
    pieces[4].size -= start;
    return concatenated(pieces, sizeof pieces / sizeof *pieces);
}

/* --- a line of the access log ----------------------------------------------------------------------------------- */

/* Whether JSON has these bytes as they are: printable ASCII, but neither quote nor backslash. */
static int
is_plain(Span text)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    const char *at = text.at, *end = text.at + text.size;
    for (; end - at >= 8; at += 8) {
        uint64_t bytes, from_quote, from_backslash, from_del;
        memcpy(&bytes, at, 8);
        from_quote = bytes ^ (ones * '"');
        from_backslash = bytes ^ (ones * '\\');
        from_del = bytes ^ (ones * 127);
        if ((bytes | (bytes - ones * 32) | (from_quote - ones) | (from_backslash - ones) | (from_del - ones)) & tops) {
            break;
        }
    }
    while (at < end && *at >= ' ' && *at < 127 && *at != '"' && *at != '\\') at++;
    return at == end;
}

/* What stands for `text` between the quotes of a JSON string; `at` NULL with an exception. `made`: to be released after
use. */
static Span
in_json(const State *state, PyObject *text, PyObject **made)
{
    Span span = span_of(text);
    if (span.at == NULL || is_plain(span)) {
        return span;
    }
    *made = PyObject_CallOneArg(state->escaped, text);
    return *made == NULL ? (Span){NULL, 0} : span_of(*made);
}

/* The digits of `number`, at least `least`, in the last bytes of `room`. */
static Span
digits_of(unsigned long long number, int least, char room[24])
{
    char *at = room + 24;
    for (; number || least > 0; number /= 10, least--) {
        *--at = '0' + number % 10;
    }
    return (Span){at, room + 24 - at};
}

/* The text of a second since 1970; `at` NULL with an exception if it has none. */
static Span
stamp_of(State *state, double when)
{
    time_t second = when >= 0 && when < 253402300800.0 ? (time_t)when : -1;  /* to the year 9999 */
    struct tm parts;
    if (second != state->stamped) {
        if (second < 0 || gmtime_r(&second, &parts) == NULL) {
            PyErr_SetString(PyExc_ValueError, "there is no such time");
            return (Span){NULL, 0};
        }
        strftime(state->stamp, sizeof state->stamp, "%Y-%m-%dT%H:%M:%S", &parts);
        state->stamped = second;
    }
    return (Span){state->stamp, 19};
}

static PyObject *
access_line(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (!state->ready || nargs != 11 || !Py_IS_TYPE(args[2], state->request.type) || !PyUnicode_Check(args[7])) {
        PyErr_SetString(PyExc_TypeError, "expected (when, duration, RequestHead, status, sent, revision, endpoint, "
                                         "flag, request_id, client, protocol)");
        return NULL;
    }
    PyObject *head = args[2], *host = in_slot(state, head, R_HOST), *made[2] = {NULL, NULL}, *line = NULL;
    double when = PyFloat_AsDouble(args[0]), duration = PyFloat_AsDouble(args[1]);
    long long status = PyLong_AsLongLong(args[3]), sent = PyLong_AsLongLong(args[4]);
    Span flag = {NULL, 0};
    flag.at = PyUnicode_AsUTF8AndSize(args[7], &flag.size);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Span stamp = stamp_of(state, when);
    Span request_id = stamp.at == NULL ? stamp : in_json(state, args[8], &made[0]);
    Span agent = request_id.at == NULL ? request_id : in_json(state, in_slot(state, head, R_USER_AGENT), &made[1]);
    if (agent.at != NULL) {
        unsigned long long millis = (unsigned long long)((when - (double)state->stamped) * 1000);
        unsigned long long micros = duration > 0 && duration < 1e12 ? (unsigned long long)(duration * 1e6) : 0;
        char rooms[5][24];
        Span pieces[] = {
            TEXT("{\"time\":\""), stamp, TEXT("."), digits_of(millis, 3, rooms[0]),
            TEXT("Z\",\"method\":\""), span_of(in_slot(state, head, R_METHOD)),
            TEXT("\",\"host\":\""), host == Py_None ? TEXT("") : span_of(host),
            TEXT("\",\"path\":\""), span_of(in_slot(state, head, R_TARGET)),
            TEXT("\",\"status\":"), digits_of((unsigned long long)status, 1, rooms[1]),
            TEXT(",\"bytes\":"), digits_of((unsigned long long)sent, 1, rooms[2]),
            TEXT(",\"duration\":"), digits_of(micros / 1000000, 1, rooms[3]),
            TEXT("."), digits_of(micros % 1000000, 6, rooms[4]),
            TEXT(",\"revision\":\""), span_of(args[5]), TEXT("\",\"endpoint\":\""), span_of(args[6]),
            TEXT("\",\"flag\":\""), flag, TEXT("\",\"requestId\":\""), request_id,
            TEXT("\",\"userAgent\":\""), agent, TEXT("\",\"client\":\""), span_of(args[9]),
            TEXT("\",\"protocol\":\""), span_of(args[10]), TEXT("\"}\n")};
        line = PyErr_Occurred() ? NULL : concatenated(pieces, sizeof pieces / sizeof *pieces);
    }
    Py_XDECREF(made[0]);
    Py_XDECREF(made[1]);
    return line;
}

/* --- the module ------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"setup", setup, METH_VARARGS, "setup(request, response, limits, escaped): see http1.py; once, before anything else."},
    {"parse_request", (PyCFunction)(void (*)(void))parse_request, METH_FASTCALL, "As heads.parse_request."},
    {"parse_response", (PyCFunction)(void (*)(void))parse_response, METH_FASTCALL, "As heads.parse_response."},
    {"unchunk", (PyCFunction)(void (*)(void))unchunk, METH_FASTCALL, "As bodies.unchunk."},
    {"serialise_request", (PyCFunction)(void (*)(void))serialise_request, METH_FASTCALL, "As heads.serialise_request."},
    {"serialise_response", (PyCFunction)(void (*)(void))serialise_response, METH_FASTCALL,
     "As heads.serialise_response."},
    {"access_line", (PyCFunction)(void (*)(void))access_line, METH_FASTCALL, "As accessline.access_line."},
    {NULL, NULL, 0, NULL}};

static int
execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    make_tables();
    state->stamped = -1;
    state->held = PyList_New(0);
    for (int i = 0; state->held != NULL && i < METHODS; i++) {
        PyObject *name = state->method_names[i] = PyBytes_FromString(methods[i]);
        int failed = name == NULL || PyList_Append(state->held, name) < 0;
        Py_XDECREF(name);
        if (failed) {
            return -1;
        }
    }
    return state->held == NULL ? -1 : 0;
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((State *)PyModule_GetState(module))->held);
    return 0;
}

static int
clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->ready = 0;
    Py_CLEAR(state->held);
    return 0;
}

static void
release(void *module)
{
    clear(module);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gateway.core._http1",
    .m_doc = "The compiled twins of functions in heads, bodies and accessline.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC
PyInit__http1(void)
{
    return PyModuleDef_Init(&definition);
}
