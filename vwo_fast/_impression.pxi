# A FullStack impression: of the dict that the SDK's dispatcher receives, what the batch endpoint takes.
#
# Only that is packed, in the order and with the names of the wire.  Finding it costs more than
# packing it, so both where the fields are and what the keys mean is remembered.

# What a batch event takes of an impression, in the order it is sent.
cdef enum:
    F_U, F_SID, F_UA, F_IP, F_COMBINATION, F_EXPERIMENT, F_GOAL, F_REVENUE, F_TAGS, F_URL, F_COUNT

cdef tuple FIELD_NAMES = (
    "u", "sId", "visitor_ua", "visitor_ip", "combination", "experiment_id", "goal_id", "r", "tags", "url",
)

cdef enum:
    E_TRACK_USER = 1
    E_TRACK_GOAL = 2
    E_PUSH = 3


cdef bint same_text(PyObject *text, PyObject *name) noexcept:
    """Whether a string equals one of ours (compact ASCII), without asking the string."""
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(name)
    if not PyUnicode_Check(text) or not VF_TEXT_READY(text) or PyUnicode_GET_LENGTH(text) != length:
        return False
    # A string of one-byte characters that is not ASCII differs from an ASCII one.
    return PyUnicode_KIND(text) == 1 and memcmp(PyUnicode_DATA(text), PyUnicode_DATA(name), <size_t>length) == 0


# Which field a key object names, remembered by its address: an SDK's keys are constants, so
# after the first impression no text is compared.  Each key is kept alive, or another string
# could take its address.  Two keys that share a slot share its two places.
cdef struct Remembered:
    PyObject *key
    int field

cdef enum:
    REMEMBERED_SLOTS = 128

cdef Remembered remembered[REMEMBERED_SLOTS][2]


cdef inline int field_of(PyObject *key) noexcept:
    cdef Remembered *slot = remembered[(<uintptr_t>key >> 4) % REMEMBERED_SLOTS]
    if slot[0].key == key:
        return slot[0].field
    if slot[1].key == key:
        return slot[1].field
    return remember(slot, key)


cdef int remember(Remembered *slot, PyObject *key) noexcept:
    cdef PyObject *names = <PyObject *>FIELD_NAMES
    cdef int field = -1, i
    for i in range(F_COUNT):
        if same_text(key, PyTuple_GET_ITEM(names, i)):
            field = i
    # Only plain short strings: they die without running any code, and hold little memory.
    if Py_TYPE(key) == &PyUnicode_Type and PyUnicode_GET_LENGTH(key) < 64:
        Py_INCREF_RAW(key)
        Py_XDECREF_RAW(slot[1].key)
        slot[1] = slot[0]
        slot[0].key = key
        slot[0].field = field
    return field


cdef int event_of(PyObject *url) noexcept:
    """The event that the last segment of an impression's url names; 0: none."""
    if not PyUnicode_Check(url) or not VF_TEXT_READY(url):
        return 0
    if ends_with_segment(url, "track-user", 10):
        return E_TRACK_USER
    if ends_with_segment(url, "track-goal", 10):
        return E_TRACK_GOAL
    if ends_with_segment(url, "push", 4):
        return E_PUSH
    return 0


cdef bint ends_with_segment(PyObject *text, const char *segment, Py_ssize_t size) noexcept:
    cdef void *data = PyUnicode_DATA(text)
    cdef int width = PyUnicode_KIND(text)
    cdef Py_ssize_t begin = PyUnicode_GET_LENGTH(text) - size, i
    if begin < 0 or (begin > 0 and vf_char_at(data, width, <size_t>begin - 1) != c"/"):
        return False
    for i in range(size):
        if vf_char_at(data, width, <size_t>(begin + i)) != <uint32_t>segment[i]:
            return False
    return True


# Where in a dict the fields of an event were found: the next impression of that size most
# likely has them in the same places, so only these are visited and not every item.  Whatever
# the places mean to the interpreter, PyDict_Next checks them, and the key found there decides.
# Only an event with all its fields has a layout; with one absent (a goal without revenue),
# every item has to be seen to know that.
cdef struct Layout:
    int count
    int event
    int fields[F_COUNT]
    Py_ssize_t places[F_COUNT]
    PyObject *keys[F_COUNT]

cdef enum:
    LAYOUTS = 16

cdef Layout layouts[LAYOUTS]

# Fields that make an event complete, as bits.
cdef enum:
    COMMON_FIELDS = 1 << F_U | 1 << F_SID | 1 << F_UA | 1 << F_IP | 1 << F_URL
    USER_FIELDS = COMMON_FIELDS | 1 << F_COMBINATION | 1 << F_EXPERIMENT
    GOAL_FIELDS = USER_FIELDS | 1 << F_GOAL | 1 << F_REVENUE
    PUSH_FIELDS = COMMON_FIELDS | 1 << F_TAGS


cdef int fields_wanted(int event) noexcept:
    if event == E_TRACK_USER:
        return USER_FIELDS
    return GOAL_FIELDS if event == E_TRACK_GOAL else PUSH_FIELDS


cdef inline int collect_by_layout(Layout *layout, PyObject *impression, PyObject **fields) noexcept:
    """As collect_fields, but for the fields that the event does not have; 0 when the layout does not fit."""
    cdef PyObject *key
    cdef Py_ssize_t place
    cdef int i
    if layout.count == 0:
        return 0
    for i in range(layout.count):
        place = layout.places[i]
        if not PyDict_Next(impression, &place, &key, &fields[layout.fields[i]]) or key != layout.keys[i]:
            return 0
    return layout.event if event_of(fields[F_URL]) == layout.event else 0


cdef int collect_fields(PyObject *impression, PyObject **fields) noexcept:
    """Borrow the fields of an exact dict, None where absent; returns the event."""
    cdef Layout *layout = &layouts[<size_t>PyDict_GET_SIZE(impression) % LAYOUTS]
    cdef Layout found
    cdef Py_ssize_t place = 0, before = 0
    cdef PyObject *key
    cdef PyObject *item
    cdef int event = collect_by_layout(layout, impression, fields), i, field, seen = 0
    if event != 0:
        return event
    for i in range(F_COUNT):
        fields[i] = Py_None
    while PyDict_Next(impression, &place, &key, &item):
        field = field_of(key)
        if field >= 0:
            fields[field] = item
            # A key that is no plain short string is not kept alive by anybody: such an event gets no layout.
            if Py_TYPE(key) == &PyUnicode_Type and PyUnicode_GET_LENGTH(key) < 64:
                seen |= 1 << field
                found.places[field] = before
                found.keys[field] = key
        before = place
    event = event_of(fields[F_URL])
    if event != 0 and seen & fields_wanted(event) == fields_wanted(event):
        keep_layout(layout, &found, event)
    return event


cdef void keep_layout(Layout *layout, const Layout *found, int event) noexcept:
    """``found`` has places and keys by field."""
    cdef int field, wanted = fields_wanted(event), i
    for field in range(F_COUNT):
        if wanted & 1 << field:
            Py_INCREF_RAW(found.keys[field])
    for i in range(layout.count):
        Py_XDECREF_RAW(layout.keys[i])
    layout.count = 0
    layout.event = event
    for field in range(F_COUNT):
        if wanted & 1 << field:
            layout.fields[layout.count] = field
            layout.places[layout.count] = found.places[field]
            layout.keys[layout.count] = found.keys[field]
            layout.count += 1


cdef inline uint8_t *put_field(uint8_t *at, uint8_t *end, const char *name, size_t size, PyObject *value) noexcept:
    at = put_literal(at, end, name, size)
    return put_any(at, end, value, VF_DEPTH_MAX - 1) if at != NULL else NULL


cdef uint8_t *put_fullstack(uint8_t *at, uint8_t *end, PyObject *impression) noexcept:
    """The event that /server-side/batch-events takes; NULL also when there is none in it."""
    cdef PyObject *fields[F_COUNT]
    cdef int event = collect_fields(impression, fields)
    cdef bint has_revenue = event == E_TRACK_GOAL and fields[F_REVENUE] != Py_None
    if event == 0 or end - at < VF_PACK_STEP:
        return NULL
    if event == E_TRACK_USER:
        at = vf_put_map_head(at, 7)
    elif event == E_TRACK_GOAL:
        at = vf_put_map_head(at, 9 if has_revenue else 8)
    else:
        at = vf_put_map_head(at, 6)
    at = put_field(at, end, "u", 1, fields[F_U])
    if at != NULL:
        at = put_field(at, end, "sId", 3, fields[F_SID])
    if at != NULL:
        at = put_field(at, end, "visitor_ua", 10, fields[F_UA])
    if at != NULL:
        at = put_field(at, end, "visitor_ip", 10, fields[F_IP])
    if at != NULL and event == E_PUSH:
        at = put_field(at, end, "t", 1, fields[F_TAGS])
    if at != NULL and event != E_PUSH:
        at = put_field(at, end, "c", 1, fields[F_COMBINATION])
        if at != NULL:
            at = put_field(at, end, "e", 1, fields[F_EXPERIMENT])
    if at != NULL and event == E_TRACK_GOAL:
        at = put_field(at, end, "g", 1, fields[F_GOAL])
    if at == NULL or end - at < 8:
        return NULL
    at = put_literal(at, at + 16, "eT", 2)
    at[0] = <uint8_t>event
    at += 1
    if has_revenue:
        at = put_field(at, end, "r", 1, fields[F_REVENUE])
    return at


cdef inline uint8_t *put_impression(uint8_t *at, uint8_t *end, PyObject *impression) noexcept:
    return put_fullstack(at, end, impression) if Py_TYPE(impression) == &PyDict_Type else NULL


cdef enum:
    IMPRESSION_ITEMS_MAX = 100000


cdef object fullstack_event(object impression):
    """The same as a dict, from any mapping that dict() understands; for the careful way."""
    cdef PyObject *fields[F_COUNT]
    cdef int event, i
    if not isinstance(impression, dict):
        raise _Refused(REASON_BAD_IMPRESSION, f"an impression is a dict, not {type_name(impression)}")
    # More items than this are no impression; a subclass may have code that never ends.
    plain = dict(islice(impression.items(), IMPRESSION_ITEMS_MAX))
    event = collect_fields(<PyObject *>plain, fields)
    if event == 0:
        raise _Refused(REASON_BAD_IMPRESSION, "its url ends in none of track-user, track-goal, push")
    result = {
        "u": <object>fields[F_U],
        "sId": <object>fields[F_SID],
        "visitor_ua": <object>fields[F_UA],
        "visitor_ip": <object>fields[F_IP],
    }
    if event == E_PUSH:
        result["t"] = <object>fields[F_TAGS]
    else:
        result["c"] = <object>fields[F_COMBINATION]
        result["e"] = <object>fields[F_EXPERIMENT]
    if event == E_TRACK_GOAL:
        result["g"] = <object>fields[F_GOAL]
    result["eT"] = event
    if event == E_TRACK_GOAL and fields[F_REVENUE] != Py_None:
        result["r"] = <object>fields[F_REVENUE]
    return result
