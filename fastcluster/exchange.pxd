# exchange.pxd: one request and its response, as the adapters that run
# applications (native, wsgi, asgi) see them, and what all of them share.
#
# Read it as a protocol.  When a head is complete, Handler.begin(exchange) is
# called, once, on the loop's thread.  The adapter builds what its application
# wants from exchange.request and exchange.framing, and answers with
# start, field…, send_head, write…, finish: now, or later from a Consumer's
# method, or from a later turn.  A request body comes to the Consumer that
# begin() set, never before begin() has returned; without one it is discarded.
#
# Everything here runs on the loop's thread with the GIL held.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastcluster.csrc cimport (
    fc_body, fc_conn, fc_date, fc_framing, fc_head, fc_loop, fc_out, fc_parser, fc_request,
    fc_slot, fc_span, fc_wheel,
)


cdef struct Limits:
    # Sizes in bytes, durations in milliseconds; 0 means "no limit" where the
    # option says so.  config.Config has the words for each.
    uint32_t request_line
    uint32_t fields
    uint32_t field_size
    uint32_t head
    uint64_t body
    uint64_t unread_body
    uint32_t body_rate
    uint32_t requests
    int32_t connections
    int64_t keep_alive_ms
    int64_t head_ms
    int64_t body_ms
    int64_t write_ms
    int64_t first_byte_ms       # when draining, for a connection without a request yet
    int64_t quiet_ms            # when draining, for one between two requests
    size_t high_water
    size_t low_water
    bint allow_connect


cdef enum:
    REQUEST_BODY        # body bytes are still to come
    REQUEST_DONE
    REQUEST_BROKEN

cdef enum:
    RESPONSE_WAITING    # start() was not followed by send_head() yet
    RESPONSE_STARTED
    RESPONSE_DONE


cdef class Handler:
    """Runs an application: one object per server, subclassed by the adapters."""

    # A head is complete and its framing decided.  exchange.request is valid
    # until this returns, or longer after exchange.keep().  An exception that
    # leaves here is logged and answered with 500.
    cdef int begin(self, Exchange exchange) except -1
    # Lets the application know that it has the paths below prefix, which the root_path
    # of its configuration does not have; False: it does not know of such things.
    cdef bint mount(self, str prefix) except -1

    # ---- for one that was put between, see overload.pyx

    # An exchange that has it as its gate parts from its connection; consumer: its own.
    cdef int left(self, Exchange exchange, Consumer consumer) except -1
    # A deadline of its own has passed.
    cdef int expired(self) except -1


cdef class Consumer:
    """What an exchange tells its adapter after begin(); every method may be left out."""

    # Whom to tell released() when the application has returned although its client is
    # gone, or None.
    cdef Handler gate

    # Body bytes; ptr is dead when this returns.  To slow the client down call
    # exchange.pause(), and exchange.proceed() to go on.
    cdef int data(self, const char *ptr, size_t len) except -1
    # The body is complete and verified.  Not called for requests without one.
    cdef int end(self) except -1
    # The connection is gone, or the body broke, before the exchange was over.
    # The last call; the exchange is dead.
    cdef int lost(self) except -1
    # The client has sent its last byte while the response is still running: it
    # is gone, or it only closed its side and waits.
    cdef int half_closed(self) except -1
    # The server takes nothing new: an exchange that would last may come to its end.
    cdef int draining(self) except -1
    # What waits to be sent has fallen to the low-water mark.
    cdef int writable(self) except -1
    # A later turn, after service.resume_later(consumer).
    cdef int resume(self) except -1
    # True if the application goes on although its client is gone.
    cdef bint is_running(self) except -1
    # Tells the gate; for any thread.
    cdef int pass_gate(self, Service service) except -1


cdef class Observer:
    """Hears of exchanges, if anybody wants to know; see observer.pyx."""

    # The head is complete and the handler not called; sets exchange.notes, without
    # which nothing else is heard of the exchange.  May add one field to the head.
    cdef int begun(self, Exchange exchange, fc_request *request) except -1
    # The response's head is still to be finished, then it is.
    cdef int answering(self, Exchange exchange) except -1
    cdef int answered(self, Exchange exchange) except -1
    # The response is over, or the client lost before that.
    cdef int ended(self, Exchange exchange) except -1
    cdef int gone(self, Exchange exchange) except -1


cdef class Service:
    """What all connections of one server share; server.Server is the whole of it."""

    cdef fc_loop loop
    cdef fc_wheel wheel
    cdef fc_date date
    cdef fc_head head            # the one response head under construction
    cdef fc_out *tray            # what the connection being served writes to
    cdef void *serving           # that connection, borrowed; NULL between two
    cdef fc_out *trays           # spare ones
    cdef int n_trays
    cdef fc_parser *parser       # what reads the next fresh head
    cdef fc_parser *parsers      # spare ones
    cdef int n_parsers
    cdef fc_slot *slot           # this worker's line on the scoreboard, never NULL
    cdef int64_t clock_ns        # monotonic, as it was read last: by a turn or an answer
    cdef Limits limits
    cdef readonly Handler handler
    cdef readonly Handler gate   # overload.OverloadHandler or None
    cdef readonly object config  # config.Config
    cdef object log              # a logging.Logger
    cdef Observer observer       # None: nobody wants to know
    cdef object proxies          # forwarded.Proxies, None: nobody is trusted
    cdef bytes server_field      # value of the Server field, or b""
    cdef bint date_field
    cdef public int worker       # number of this worker, 0 to n - 1
    cdef readonly bint draining
    cdef readonly bint is_last   # ... and no other process listens any more
    cdef bint limited            # it has a maximum of connections
    cdef readonly bint leaving   # it is going to drain: nobody new is to be sent here
    cdef list consumers_later
    cdef readonly list listeners # one Listener a listening socket, see server.pyx
    cdef void *first             # all open connections, a borrowed chain
    cdef readonly int n_connections

    cdef fc_span date_text(self) noexcept
    cdef fc_out *take_tray(self) except NULL
    cdef void give_tray(self, fc_out *tray) noexcept
    cdef fc_parser *take_parser(self) except NULL
    cdef void give_parser(self, fc_parser *parser) noexcept
    # Has consumer.resume() called once in the next turn, which will not wait.
    cdef int resume_later(self, Consumer consumer) except -1
    # A draining server's last connection is closed.
    cdef int emptied(self) except -1
    # A server with a maximum of connections has closed one.
    cdef int has_room(self) except -1
    # From any thread: has callback() called on the loop's thread soon.
    cpdef object post(self, object callback)


cdef class Listener:
    """A listening socket as the applications see it."""

    cdef readonly object socket      # socket.socket
    cdef int socket_fd
    cdef readonly str host           # "" for unix sockets' SERVER_NAME rules see wsgi.pyx
    cdef readonly int port           # 0 for unix
    cdef readonly str path           # of a unix socket, else ""
    cdef readonly str scheme         # "http"
    cdef readonly int index


cdef class Connection:
    """What an exchange knows of its connection; connection.HttpConnection is the whole."""

    cdef fc_conn io
    cdef fc_body body
    cdef Service service
    cdef readonly Listener listener
    cdef str client              # the peer's address as text, made when first asked for
    cdef int64_t since_ms        # HEAD: its first byte; BODY: the last progress
    cdef int64_t body_since_ms   # when the body began, less the time it was not wanted
    cdef int64_t paused_ms       # when it was last not wanted
    cdef bint keep_alive
    cdef bint corked             # somebody above us on the stack will flush
    cdef bint paused             # the consumer takes no more for now
    cdef bint eof                # the peer has sent its last byte
    cdef bint full               # above high water: writable() is owed
    cdef bint broken             # the socket failed; closed at the next settle()
    cdef bint reset              # close so that the client notices a cut-off body

    # The peer's numeric address, "" for unix sockets; its port, 0 for those.
    cdef str client_host(self)
    cdef int client_port(self)

    # Where the next bytes go.
    cdef fc_out *outlet(self) except NULL
    # Sends what is queued as far as the socket takes it.
    cdef int flush(self) except -1
    # Goes on with what was read, after something outside of a turn changed.
    cdef int advance(self) except -1
    # Decides what to wait for and until when, or closes.
    cdef int settle(self) except -1
    cdef int set_interest(self) except -1
    # Lets the spans of the exchange's head outlive the bytes they came in.
    cdef int preserve_head(self, Exchange exchange) except -1
    # The exchange has switched protocols: all bytes go to its consumer.
    cdef int become_tunnel(self) except -1


cdef class Exchange:
    """One request and its response."""

    cdef Connection connection       # None once the exchange is over or lost
    cdef Consumer consumer
    cdef Handler gate                # who wants to know when it is over, or None
    cdef const fc_request *request   # borrowed, see Handler.begin; NULL when dead
    cdef fc_framing framing
    cdef uint64_t sent               # body bytes of the response
    cdef int64_t declared            # its Content-Length, -1: none
    cdef int64_t began_ms
    cdef int64_t ended_ms
    cdef int64_t noticed_ns          # the turn that read the request
    cdef uint64_t queued_ns          # from then until the handler had it
    cdef bytes trailers              # what add_trailer() has gathered, or None
    cdef tuple origin                # (host, port, scheme) by a trusted proxy's word, or None
    cdef object notes                # of the observer, or None: it does not look at this one
    cdef readonly int status         # 0 until start()
    cdef uint8_t request_state
    cdef uint8_t response_state
    cdef uint8_t major
    cdef uint8_t minor
    cdef object head_copy            # the head's bytes, once `request` outlives a feed
    cdef bint kept
    cdef bint chunked                # the response is framed by chunks
    cdef bint bodyless               # HEAD, 1xx, 204, 304: body bytes are not sent
    cdef bint ends_by_close          # ... by the connection's end
    cdef bint switched               # by a 101: no HTTP any more
    cdef bint told_half_closed
    cdef bint excess                 # bytes beyond Content-Length were withheld
    cdef bint continued              # 100 Continue was sent, or none is expected

    # ---- the request

    # Who asks, while the connection is there: the connection's peer ("" and 0 on a
    # unix socket) and the listener's scheme, unless a trusted proxy says otherwise.
    cdef str client_host(self)
    cdef int client_port(self)
    cdef str scheme(self)
    # Takes the word of a trusted proxy, once, when the exchange begins.
    cdef int ask_proxy(self) except -1
    cdef list values(self, bytes name)

    # Copies of parts of the head, for as long as `request` is valid.
    cdef bytes part(self, uint32_t at, uint32_t len)
    # Keeps `request` valid until the exchange is over.
    cdef int keep(self) except -1
    # The body goes to this consumer; also who hears of loss and writability.
    cdef int collect(self, Consumer consumer) except -1
    # Backpressure on the client's body.
    cdef int pause(self) except -1
    cdef int proceed(self) except -1
    # Sends 100 Continue if the client waits for it; harmless otherwise.
    cdef int send_continue(self) except -1
    # True while body bytes are still to come.
    cdef bint body_is_pending(self)

    # ---- the response: start, field…, send_head, write…, finish

    # Begins the head.  ValueError: status not in 100..999 or a bad reason.  May
    # be called again before send_head: the head starts anew.
    cdef int start(self, int status, fc_span reason) except -1
    # ValueError: a name or value that would split the head, a bad Content-Length.
    cdef int field(self, fc_span name, fc_span value) except -1
    # Decides the framing and queues the head.  length: the body's if it is known
    # whole, else -1; a Content-Length that the application gave wins.
    cdef int send_head(self, int64_t length) except -1
    # Queues a 1xx response (RFC 9110 section 15.2): start(1xx), field…, then this.
    cdef int send_informational(self) except -1
    # Queues body bytes.  owner keeps ptr alive until they are sent and may be
    # None only if len <= FC_OUT_COPY_MAX.  Bytes beyond the declared length are
    # withheld and logged.  Raises BrokenPipeError when the client is gone.
    cdef int write(self, const char *ptr, size_t len, object owner) except -1
    # Queues a file range, sent by the kernel; owner keeps the descriptor open.
    cdef int send_file(self, int fd, int64_t offset, int64_t len, object owner) except -1
    # After send_head() with 101: the consumer's data() gets every byte from here
    # on, write() sends bytes as they are, finish() ends the connection.
    cdef bint is_tunnel(self)
    # Ends a chunked body with trailer fields: "name: value" lines, checked here.
    cdef int add_trailer(self, fc_span name, fc_span value) except -1
    # The last word: ends the body, then the exchange.
    cdef int finish(self) except -1
    # The application failed: a short error response if nothing was started,
    # else the connection is closed without the body's end.
    cdef int fail(self, int status) except -1
    # Sends what is queued now instead of at the end of the turn.
    cdef int flush(self) except -1
    # Bytes that the kernel has not taken yet.
    cdef size_t queued(self)
    # Blocks (GIL released) until the queue is at the low-water mark; raises
    # TimeoutError after the write timeout, BrokenPipeError if the client is gone.
    cdef int wait_writable(self) except -1

    # ---- for connection.pyx
    cdef int failed_by_exception(self) except -1
    cdef int put(self, const char *ptr, size_t len, object owner) except -1
    cdef int room_for(self, uint64_t len, uint64_t *allowed) except -1
    cdef bint keeps_alive(self) noexcept
    cdef int cut_off(self) except -1
    cdef int put_last_chunk(self) except -1
    cdef int end(self) except -1


cdef fc_span span_of(const char *ptr, size_t len) noexcept
cdef fc_span span_of_bytes(bytes text) noexcept
