# csrc.pxd: every C declaration that Cython uses, one block a header, and the
# one function that turns errno into an exception.

from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fc.h" nogil:
    enum:
        FC_OK
        FC_ERR
        FC_AGAIN
        FC_EOF

    ctypedef struct fc_span:
        const char *ptr
        size_t len


cdef extern from "timer.h" nogil:
    ctypedef struct fc_deadline:
        int64_t at_ms
        void *owner

    ctypedef struct fc_wheel:
        pass

    void fc_wheel_init(fc_wheel *wheel, int64_t now_ms)
    void fc_wheel_set(fc_wheel *wheel, fc_deadline *node, int64_t at_ms)
    void fc_wheel_clear(fc_wheel *wheel, fc_deadline *node)
    fc_deadline *fc_wheel_expired(fc_wheel *wheel, int64_t now_ms)
    int64_t fc_wheel_wait_ms(const fc_wheel *wheel, int64_t now_ms)
    int fc_deadline_is_set(const fc_deadline *node)


cdef extern from "buf.h" nogil:
    ctypedef struct fc_buf:
        char *ptr
        size_t len
        size_t cap

    int fc_buf_reserve(fc_buf *buf, size_t more)
    int fc_buf_append(fc_buf *buf, const void *bytes, size_t len)
    void fc_buf_consume(fc_buf *buf, size_t n)
    void fc_buf_free(fc_buf *buf)


cdef extern from "date.h" nogil:
    ctypedef struct fc_date:
        pass

    fc_span fc_date_text(fc_date *date, int64_t unix_second)


cdef extern from "head.h" nogil:
    enum:
        FC_SAID_DATE
        FC_SAID_SERVER
        FC_SAID_CLOSE
        FC_SAID_LENGTH
        FC_SAID_CHUNKED
        FC_SAID_TYPE
        FC_SAID_UPGRADE
        FC_FRAME_NONE
        FC_FRAME_LENGTH
        FC_FRAME_CHUNKED
        FC_CONN_NONE
        FC_CONN_CLOSE
        FC_CONN_KEEP
        FC_CONN_UPGRADE

    ctypedef struct fc_head:
        fc_buf buf
        int64_t content_length
        uint32_t said
        uint32_t serial

    int fc_head_start(fc_head *head, int status, fc_span reason)
    int fc_head_field(fc_head *head, fc_span name, fc_span value)
    int fc_head_finish(fc_head *head, int frame, int64_t length, int connection, fc_span date,
                       fc_span server)
    fc_span fc_head_reason(int status)
    void fc_head_free(fc_head *head)


cdef extern from "board.h" nogil:
    enum:
        FC_SLOT_EMPTY
        FC_SLOT_BOOTING
        FC_SLOT_READY
        FC_SLOT_DRAINING

    enum:
        FC_SLOT_NO_LIMIT
        FC_BOARD_SLOTS_MAX
        FC_NOTE_PEER_BYTES
        FC_NOTE_TEXT_BYTES
        FC_LATENCY_BUCKETS

    ctypedef struct fc_note:
        int64_t since_ms
        uint32_t len
        uint8_t *peer
        char *text

    ctypedef struct fc_tally:
        uint64_t requests
        uint64_t accepted
        uint64_t handed_over
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t *statuses
        uint64_t errors
        uint64_t lost
        uint64_t refused
        uint64_t latency_ns
        uint64_t queue_ns
        uint64_t busy_ns
        uint64_t *latency

    # Atomics, each a relaxed or sequentially consistent access when used by name.
    ctypedef struct fc_slot:
        int32_t state
        int32_t pid
        uint32_t generation
        int32_t waiting
        int32_t connections
        int32_t running
        int64_t heartbeat_ms
        uint64_t accepted
        uint64_t handed_over
        uint64_t requests
        int32_t limit
        int32_t drops
        uint32_t taken
        fc_note note
        uint64_t stall_ns
        fc_tally tally

    ctypedef struct fc_board:
        uint32_t slots
        fc_slot *slot

    fc_board *fc_board_create(uint32_t slots)
    fc_board *fc_board_open(uint32_t slots, int fd)
    size_t fc_board_bytes(uint32_t slots)
    void fc_board_destroy(fc_board *board)
    uint32_t fc_board_take(fc_board *board, uint32_t index, int64_t now_ms)
    int fc_board_least(const fc_board *board, uint32_t self, int32_t most)
    uint64_t fc_latency_floor(uint32_t bucket)
    void fc_count(uint64_t *counter, uint64_t more)
    void fc_slot_served(fc_slot *slot)
    void fc_slot_status(fc_slot *slot, int status)
    void fc_slot_answered(fc_slot *slot, int status, int64_t noticed_ns,
                          uint64_t queued_ns, int64_t now_ns)
    uint64_t fc_span_ns(int64_t from_ns, int64_t to_ns)
    void fc_slot_worked(fc_slot *slot, int64_t began_ns, int64_t since_ns, int64_t now_ns)
    void fc_slot_run(fc_slot *slot, int32_t more)
    void fc_slot_note(fc_slot *slot, const char *line, size_t len, const void *peer,
                      int64_t now_ms)
    void fc_slot_beat(fc_slot *slot, int32_t waiting, int64_t now_ms)
    void fc_slot_hold(fc_slot *slot, int32_t more)
    bint fc_slot_reserve(fc_slot *slot)
    void fc_board_want(fc_board *board)
    bint fc_board_is_wanted(fc_board *board)


cdef extern from "loop.h" nogil:
    enum:
        FC_READ
        FC_WRITE
        FC_HANGUP
        FC_LOOP_BUFFER

    ctypedef struct fc_source:
        int fd
        uint8_t kind
        uint8_t urgent
        uint8_t watching
        uint8_t added
        void *owner

    ctypedef struct fc_loop:
        int poll_fd
        int64_t now_ns
        int64_t now_ms
        int64_t unix_second
        char *buffer

    int fc_loop_init(fc_loop *loop)
    void fc_loop_destroy(fc_loop *loop)
    int fc_loop_watch(fc_loop *loop, fc_source *source, int what)
    int fc_loop_watch_shared(fc_loop *loop, fc_source *source)
    void fc_loop_unwatch(fc_loop *loop, fc_source *source)
    int fc_loop_wait(fc_loop *loop, int timeout_ms)
    int64_t fc_loop_clock()
    void fc_loop_refresh(fc_loop *loop)
    fc_source *fc_loop_next(fc_loop *loop, int *what)
    int fc_loop_left(const fc_loop *loop)
    void fc_loop_close(fc_loop *loop, fc_source *source)
    fc_source *fc_loop_next_closed(fc_loop *loop)
    int fc_loop_arm(fc_loop *loop, int64_t wait_ms)


cdef extern from "out.h" nogil:
    enum:
        FC_OUT_COPY_MAX

    ctypedef struct fc_out:
        size_t bytes
        fc_out *next

    fc_out *fc_out_new()
    void fc_out_delete(fc_out *out)
    int fc_out_copy(fc_out *out, const char *ptr, size_t len)
    int fc_out_refer(fc_out *out, const char *ptr, size_t len, void *owner)
    int fc_out_file(fc_out *out, int file_fd, int64_t offset, size_t len, void *owner)
    int fc_out_flush(fc_out *out, int socket_fd)
    void fc_out_abandon(fc_out *out)
    void *fc_out_finished(fc_out *out)
    int fc_out_is_empty(const fc_out *out)


cdef extern from "conn.h" nogil:
    ctypedef struct fc_peer:
        uint8_t family
        uint8_t bytes[16]
        uint16_t port

    ctypedef struct fc_conn:
        fc_source source
        fc_deadline deadline
        fc_out *out
        # `in` is a keyword of Python's.
        fc_buf input "in"
        fc_peer peer

    ctypedef struct fc_parcel:
        uint32_t listener
        uint32_t generation
        uint32_t requests

    int fc_conn_accept(int listener_fd, fc_peer *peer)
    void fc_conn_peer(int fd, fc_peer *peer)
    size_t fc_peer_text(const fc_peer *peer, char *text, size_t size)
    int64_t fc_conn_fill(int fd, char *ptr, size_t size)
    int fc_conn_poll(int fd, int what, int timeout_ms)
    void fc_conn_shutdown(int fd)
    void fc_conn_close(int fd)
    void fc_conn_abort(int fd)
    int fc_conn_hand_over(int inbox_fd, int fd, fc_parcel parcel)
    int fc_conn_receive(int inbox_fd, fc_parcel *parcel)


cdef extern from "request.h" nogil:
    enum:
        FC_BODY_NONE
        FC_BODY_COUNTED
        FC_BODY_CHUNKED
        FC_TARGET_ORIGIN
        FC_TARGET_ABSOLUTE
        FC_TARGET_ASTERISK
        FC_TARGET_AUTHORITY

    ctypedef struct fc_field:
        uint32_t name
        uint32_t name_len
        uint32_t value
        uint32_t value_len

    ctypedef struct fc_request:
        const char *base
        uint32_t head_len
        uint32_t method
        uint32_t method_len
        uint32_t target
        uint32_t target_len
        uint8_t major
        uint8_t minor
        uint32_t n_fields
        uint32_t max_fields
        fc_field *fields

    ctypedef struct fc_framing:
        uint64_t length
        uint8_t body
        uint8_t keep_alive
        uint8_t expect_continue
        uint8_t is_head
        uint8_t is_connect
        uint8_t upgrade
        uint8_t target_form
        uint32_t host
        uint32_t host_len
        uint32_t path
        uint32_t path_len
        uint32_t query
        uint32_t query_len

    fc_span fc_request_span(const fc_request *r, uint32_t at, uint32_t len)
    int fc_request_frame(const fc_request *request, fc_framing *framing, const char **why)
    int fc_request_scan(fc_request *request, const char *base, size_t len)
    int fc_request_line_status(const char *line, size_t len)
    size_t fc_name_hash(const char *name, size_t len)
    int fc_hex_digit(char c)
    uint32_t fc_request_unquote(const char *ptr, uint32_t len, char *out)
    const fc_field *fc_request_find(const fc_request *request, const char *name, size_t name_len)


cdef extern from "body.h" nogil:
    enum:
        FC_BODY_MORE
        FC_BODY_DATA
        FC_BODY_END
        FC_BODY_BAD

    ctypedef struct fc_body:
        uint64_t left
        uint64_t received
        uint8_t kind

    void fc_body_start(fc_body *body, const fc_framing *framing)
    int fc_body_next(fc_body *body, const char *data, size_t len, size_t *used, fc_span *span)


cdef extern from "llhttp.h" nogil:
    enum:
        FC_HEAD_MORE
        FC_HEAD_DONE
        FC_HEAD_BAD
        FC_HEAD_TOO_MANY

    ctypedef struct fc_llhttp:
        pass

    ctypedef struct fc_parser:
        fc_request request
        fc_parser *next
        fc_field *fields

    int fc_llhttp_bind(fc_llhttp *llhttp, const char *path, const char **why)
    fc_parser *fc_parser_new(uint32_t max_fields)
    void fc_parser_delete(fc_parser *parser)
    void fc_parser_start(const fc_llhttp *llhttp, fc_parser *parser)
    int fc_parser_feed(const fc_llhttp *llhttp, fc_parser *parser, const char *base, size_t start,
                       size_t stop)


cdef extern from "ws.h" nogil:
    enum:
        FC_WS_CONTINUATION
        FC_WS_TEXT
        FC_WS_BINARY
        FC_WS_CLOSE
        FC_WS_PING
        FC_WS_PONG
        FC_WS_FIN
        FC_WS_RSV1
        FC_WS_RSV2
        FC_WS_RSV3
        FC_WS_HEAD_MAX
        FC_WS_OWN_HEAD_MAX
        FC_WS_CONTROL_MAX

    ctypedef struct fc_ws_frame:
        uint64_t length
        uint8_t mask[4]
        uint8_t opcode
        uint8_t flags

    ctypedef struct fc_utf8:
        uint8_t left
        uint8_t low
        uint8_t high

    int fc_ws_read_head(fc_ws_frame *frame, const char *ptr, size_t len, const char **why)
    size_t fc_ws_write_head(char *ptr, int first, uint64_t length)
    int fc_ws_unmask(char *to, const char *source, size_t len, const uint8_t *mask, uint64_t at)
    int fc_ws_may_send_code(int code)
    int fc_utf8_feed(fc_utf8 *utf8, const char *ptr, size_t len)
    int fc_utf8_is_whole(const fc_utf8 *utf8)


cdef inline int check(int result) except? -1:
    """Return a C result as it is, or raise the OSError that errno names."""
    if result == FC_ERR:
        PyErr_SetFromErrno(OSError)
        return -1
    return result
