# Packing: a Python object becomes the msgpack bytes of what json.dumps would write.
#
# There are two ways.  The quick one writes into room that is given, usually the lane
# itself; it reads objects through macros only, so no Python code can run and nothing
# can be reordered while the reservation is open.  It gives up (NULL) where it meets
# anything else: no room, a subclass of a container, an integer beyond 64 bits,
# something JSON cannot carry.
# The careful way then packs the whole object again into memory of its own.  It may run
# Python code (the items() of a dict subclass), so it works on snapshots, and it is the
# one that knows why an object is refused.

cdef extern from *:
    """
    #include <math.h>

    /* Before 3.12 a string may still wait for its final form, which can fail. */
    #if PY_VERSION_HEX < 0x030C0000
    #define VF_TEXT_READY(text) PyUnicode_IS_READY(text)
    #else
    #define VF_TEXT_READY(text) 1
    #endif
    """
    bint VF_TEXT_READY(PyObject *text) noexcept
    int isfinite(double value) noexcept

cdef extern from "Python.h":
    PyTypeObject PyUnicode_Type, PyLong_Type, PyFloat_Type, PyDict_Type, PyList_Type, PyTuple_Type
    PyTypeObject *Py_TYPE(PyObject *value) noexcept
    bint PyUnicode_Check(PyObject *value) noexcept
    bint PyLong_Check(PyObject *value) noexcept
    bint PyFloat_Check(PyObject *value) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(PyObject *text) noexcept
    int PyUnicode_KIND(PyObject *text) noexcept
    void *PyUnicode_DATA(PyObject *text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *text) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) noexcept
    double PyFloat_AS_DOUBLE(PyObject *value) noexcept
    Py_ssize_t PyDict_GET_SIZE "PyDict_Size"(PyObject *value) noexcept
    bint PyDict_Next(PyObject *value, Py_ssize_t *place, PyObject **key, PyObject **item) noexcept
    Py_ssize_t PyList_GET_SIZE(PyObject *value) noexcept
    PyObject *PyList_GET_ITEM(PyObject *value, Py_ssize_t index) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *value) noexcept
    PyObject *PyTuple_GET_ITEM(PyObject *value, Py_ssize_t index) noexcept
    void Py_INCREF_RAW "Py_INCREF"(PyObject *value) noexcept
    void Py_XDECREF_RAW "Py_XDECREF"(PyObject *value) noexcept
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False


# ---- the quick way ----

cdef uint8_t *put_str(uint8_t *at, uint8_t *end, PyObject *text) noexcept:
    cdef size_t length, size
    cdef int width
    if not VF_TEXT_READY(text):
        return NULL
    length = <size_t>PyUnicode_GET_LENGTH(text)
    if PyUnicode_IS_COMPACT_ASCII(text):
        if <size_t>(end - at) < length + VF_PACK_STEP:
            return NULL
        at = vf_put_str_head(at, <uint32_t>length)
        memcpy(at, PyUnicode_DATA(text), length)
        return at + length
    width = PyUnicode_KIND(text)
    size = vf_utf8_size(PyUnicode_DATA(text), width, length)
    if <size_t>(end - at) < size + VF_PACK_STEP:
        return NULL
    at = vf_put_str_head(at, <uint32_t>size)
    return vf_put_text(at, PyUnicode_DATA(text), width, length)


cdef uint8_t *put_literal(uint8_t *at, uint8_t *end, const char *text, size_t size) noexcept:
    if <size_t>(end - at) < size + VF_PACK_STEP:
        return NULL
    at = vf_put_str_head(at, <uint32_t>size)
    memcpy(at, text, size)
    return at + size


cdef uint8_t *put_key(uint8_t *at, uint8_t *end, PyObject *key) noexcept:
    """A dict's key as json.dumps turns it into text; floats are left to the careful way."""
    cdef uint8_t digits[24]
    cdef int overflow = 0
    cdef long long number
    if PyUnicode_Check(key):
        return put_str(at, end, key)
    if key == Py_None:
        return put_literal(at, end, "null", 4)
    if key == Py_True:
        return put_literal(at, end, "true", 4)
    if key == Py_False:
        return put_literal(at, end, "false", 5)
    if PyLong_Check(key):
        number = PyLong_AsLongLongAndOverflow(key, &overflow)
        if overflow == 0:
            return put_literal(at, end, <const char *>digits, vf_put_decimal(digits, number))
    return NULL


cdef uint8_t *put_dict(uint8_t *at, uint8_t *end, PyObject *value, int depth) noexcept:
    cdef Py_ssize_t place = 0
    cdef PyObject *key
    cdef PyObject *item
    at = vf_put_map_head(at, <uint32_t>PyDict_GET_SIZE(value))
    while PyDict_Next(value, &place, &key, &item):
        at = put_key(at, end, key)
        if at == NULL:
            return NULL
        at = put_any(at, end, item, depth)
        if at == NULL:
            return NULL
    return at


cdef uint8_t *put_list(uint8_t *at, uint8_t *end, PyObject *value, int depth) noexcept:
    cdef Py_ssize_t count = PyList_GET_SIZE(value), i
    at = vf_put_array_head(at, <uint32_t>count)
    for i in range(count):
        at = put_any(at, end, PyList_GET_ITEM(value, i), depth)
        if at == NULL:
            return NULL
    return at


cdef uint8_t *put_tuple(uint8_t *at, uint8_t *end, PyObject *value, int depth) noexcept:
    cdef Py_ssize_t count = PyTuple_GET_SIZE(value), i
    at = vf_put_array_head(at, <uint32_t>count)
    for i in range(count):
        at = put_any(at, end, PyTuple_GET_ITEM(value, i), depth)
        if at == NULL:
            return NULL
    return at


cdef uint8_t *put_number(uint8_t *at, PyObject *value) noexcept:
    """An int or a float, or a subclass of them: the number itself, as json.dumps takes it."""
    cdef int overflow = 0
    cdef long long number
    if PyLong_Check(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        return vf_put_int(at, number) if overflow == 0 else NULL
    if PyFloat_Check(value) and isfinite(PyFloat_AS_DOUBLE(value)):
        return vf_put_double(at, PyFloat_AS_DOUBLE(value))
    return NULL


cdef uint8_t *put_any(uint8_t *at, uint8_t *end, PyObject *value, int depth) noexcept:
    """``depth``: containers that may still be opened."""
    cdef PyTypeObject *kind = Py_TYPE(value)
    if end - at < VF_PACK_STEP:
        return NULL
    if kind == &PyUnicode_Type:
        return put_str(at, end, value)
    if kind == &PyLong_Type or kind == &PyFloat_Type:
        return put_number(at, value)
    if value == Py_None:
        at[0] = 0xc0
        return at + 1
    if value == Py_True or value == Py_False:
        at[0] = 0xc3 if value == Py_True else 0xc2
        return at + 1
    if kind == &PyDict_Type:
        return put_dict(at, end, value, depth - 1) if depth > 0 else NULL
    if kind == &PyList_Type:
        return put_list(at, end, value, depth - 1) if depth > 0 else NULL
    if kind == &PyTuple_Type:
        return put_tuple(at, end, value, depth - 1) if depth > 0 else NULL
    if PyUnicode_Check(value):
        return put_str(at, end, value)
    return put_number(at, value)


# ---- the careful way ----

class _Refused(Exception):
    """Why an object cannot be an event; never shown outside this module."""

    def __init__(self, reason, detail):
        super().__init__(detail)
        self.reason = reason


cdef str type_name(object value):
    return shown(type(value).__name__, 60)


cdef str shown(object name, Py_ssize_t most):
    """A name as a log may show it. What does not look like one may be anything: data, or a line of its own."""
    if isinstance(name, int):
        return str(name)
    if isinstance(name, str) and str.isascii(name) and str.isidentifier(name) and len(name) <= most:
        return str.__str__(name)
    return "?"


cdef class Packer:
    """Memory of its own that grows; what is packed into it may run Python code."""

    cdef uint8_t *data
    cdef size_t size
    cdef size_t room
    cdef size_t limit
    cdef list path

    def __cinit__(self, size_t limit):
        self.limit = limit
        self.path = []

    def __dealloc__(self):
        free(self.data)

    cdef int grow(self, size_t extra) except -1:
        """Make room for ``extra`` bytes beyond the size."""
        cdef size_t room
        cdef uint8_t *data
        if extra > self.limit or self.size + extra > self.limit:
            raise _Refused(REASON_TOO_LARGE, f"more than {self.limit} bytes packed")
        if self.size + extra <= self.room:
            return 0
        room = max(self.size + extra, 2 * self.room, <size_t>1024)
        data = <uint8_t *>realloc(self.data, room)
        if data == NULL:
            raise MemoryError
        self.data = data
        self.room = room
        return 0

    cdef int moved(self, uint8_t *at) except -1:
        if at == NULL:
            raise MemoryError
        self.size = <size_t>(at - self.data)
        return 0

    cdef str where(self):
        text = ".".join([shown(step, 24) for step in self.path])
        return f" at {text[:160]}" if text else ""

    cdef int text(self, str value) except -1:
        cdef PyObject *raw = <PyObject *>value
        cdef size_t length = <size_t>len(value)
        if not VF_TEXT_READY(raw):
            # A hash needs the string in its final form.
            hash(value)
        self.grow(vf_utf8_size(PyUnicode_DATA(raw), PyUnicode_KIND(raw), length) + VF_PACK_STEP)
        return self.moved(put_str(self.data + self.size, self.data + self.room, raw))

    cdef int integer(self, object value) except -1:
        cdef uint8_t *at
        cdef bytes digits
        if -0x8000000000000000 <= value < 0x8000000000000000:
            self.grow(VF_PACK_STEP)
            return self.moved(vf_put_int(self.data + self.size, value))
        if 0 < value <= 0xffffffffffffffff:
            self.grow(VF_PACK_STEP)
            return self.moved(vf_put_uint(self.data + self.size, value))
        digits = self.decimal(value).encode("ascii")
        self.grow(<size_t>len(digits) + VF_PACK_STEP)
        at = vf_put_ext_head(self.data + self.size, VF_EXT_BIGINT, <uint32_t>len(digits))
        memcpy(at, <const char *>digits, <size_t>len(digits))
        return self.moved(at + len(digits))

    cdef str decimal(self, object value):
        # Four bits make more than one digit: what cannot fit is refused before it is computed.
        if value.bit_length() // 4 > self.limit // 3:
            raise _Refused(REASON_TOO_LARGE, f"an int of {value.bit_length()} bits")
        return "-" + decimal_digits(-value) if value < 0 else decimal_digits(value)

    cdef str key_text(self, object key):
        """The text that json.dumps gives to a key."""
        if isinstance(key, str):
            return str.__str__(key)
        if key is None:
            return "null"
        if key is True:
            return "true"
        if key is False:
            return "false"
        if isinstance(key, int):
            return self.decimal(int.__index__(key))
        if isinstance(key, float):
            return self.finite(key)
        raise _Refused(REASON_NOT_JSON, f"a key of type {type_name(key)}{self.where()}")

    cdef str finite(self, object value):
        if not isfinite(PyFloat_AS_DOUBLE(<PyObject *>value)):
            raise _Refused(REASON_NOT_JSON, f"a float that is not finite{self.where()}")
        return float.__repr__(value)

    cdef int any(self, object value, int depth) except -1:
        """``depth``: containers that may still be opened."""
        if value is None or value is True or value is False:
            self.grow(VF_PACK_STEP)
            return self.moved(put_any(self.data + self.size, self.data + self.room, <PyObject *>value, 0))
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, int):
            return self.integer(int.__index__(value))
        if isinstance(value, float):
            self.finite(value)
            self.grow(VF_PACK_STEP)
            return self.moved(vf_put_double(self.data + self.size, PyFloat_AS_DOUBLE(<PyObject *>value)))
        if not isinstance(value, (dict, list, tuple)):
            raise _Refused(REASON_NOT_JSON, f"a value of type {type_name(value)}{self.where()}")
        if depth == 0:
            raise _Refused(REASON_TOO_DEEP, f"nested deeper than {VF_DEPTH_MAX} containers, or circular")
        if isinstance(value, dict):
            return self.mapping(self.elements(value.items(), 5), depth - 1)
        return self.sequence(self.elements(value, 2), depth - 1)

    cdef list elements(self, object container, size_t json_min):
        """What is in a container now. A subclass may have code of its own, and that may never end.

        ``json_min``: bytes of JSON that an element has at least; the limit is three times those that are allowed.
        """
        cdef size_t most = self.limit // 3 // json_min
        cdef list found = list(islice(container, <Py_ssize_t>most))
        if <size_t>len(found) >= most:
            raise _Refused(REASON_TOO_LARGE, f"a container of {len(found)} elements or more")
        return found

    cdef int mapping(self, list items, int depth) except -1:
        self.grow(VF_PACK_STEP)
        self.moved(vf_put_map_head(self.data + self.size, <uint32_t>len(items)))
        for pair in items:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise _Refused(REASON_NOT_JSON, f"a dict whose items are no pairs{self.where()}")
            key = self.key_text(pair[0])
            self.text(key)
            self.path.append(key)
            self.any(pair[1], depth)
            self.path.pop()
        return 0

    cdef int sequence(self, list items, int depth) except -1:
        cdef Py_ssize_t i
        self.grow(VF_PACK_STEP)
        self.moved(vf_put_array_head(self.data + self.size, <uint32_t>len(items)))
        for i in range(len(items)):
            self.path.append(i)
            self.any(items[i], depth)
            self.path.pop()
        return 0


cdef str decimal_digits(object value):
    """Decimal digits of a positive int of any size, whatever sys.set_int_max_str_digits says.

    The interpreter never refuses an int of up to 640 digits.  For larger ones the decimal
    module multiplies halves, which is far quicker than division digit by digit.
    """
    if value.bit_length() <= 2000:
        return int.__repr__(value)
    import decimal

    with decimal.localcontext(decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, traps=[])):
        return format(as_decimal(decimal.Decimal, value, {}), "f")


cdef object as_decimal(object decimal_type, object value, dict powers):
    # A Python int: shifting a C one by this much would overflow.
    cdef object half = value.bit_length() // 2
    if half <= 1000:
        return decimal_type(value)
    # Halves of one level have widths that differ by one bit at most, so few powers are made.
    if half not in powers:
        powers[half] = decimal_type(2) ** half
    high = as_decimal(decimal_type, value >> half, powers)
    return high * powers[half] + as_decimal(decimal_type, value & ((1 << half) - 1), powers)


cdef Packer pack_carefully(object event, int shape, size_t body_bytes_max):
    """Pack the careful way. Raises _Refused, also for what the event's own classes raise; or MemoryError."""
    # No msgpack is more than three times its JSON (a float like 0.0 is), the buffer's slack aside.
    cdef Packer packer = Packer(3 * body_bytes_max + 4096)
    try:
        packer.any(fullstack_event(event) if shape == SHAPE_FULLSTACK else event, VF_DEPTH_MAX)
    except (_Refused, MemoryError):
        raise
    except Exception as exc:
        raise _Refused(REASON_NOT_JSON, f"{type_name(exc)} while it was read{packer.where()}") from None
    check_json_size(packer.data, packer.size, body_bytes_max)
    return packer


cdef int check_json_size(const uint8_t *data, size_t size, size_t body_bytes_max) except -1:
    """Refuse what would not fit into a request even alone: {"ev":[event]}."""
    cdef size_t json_size = 0
    # One byte of msgpack is six of JSON at most: "\\u0001", or "false" and its comma.
    if size * 6 + 16 <= body_bytes_max:
        return 0
    if vf_json_size(data, size, &json_size) != VF_OK:
        raise _Refused(REASON_INTERNAL, "packed bytes that are no JSON")
    if json_size + 9 > body_bytes_max:
        raise _Refused(REASON_TOO_LARGE, f"a body of {json_size + 9} bytes; {body_bytes_max} are allowed")
    return 0
