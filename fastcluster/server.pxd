# server.pxd: the map of server.pyx.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastcluster.connection cimport HttpConnection
from fastcluster.exchange cimport Consumer, Handler, Listener, Service
from fastcluster.csrc cimport fc_board, fc_deadline, fc_peer, fc_slot, fc_source


cdef class Board:
    cdef fc_board *board
    cdef readonly int slots


    cdef fc_slot *at(self, int index) except NULL
    cdef dict sum_of(self, int first, int last)


cdef class Watch:
    """A descriptor that is not a connection: a listener, an inbox, a callback's."""

    cdef fc_source source
    cdef object callback
    cdef Listener listener


cdef class Server(Service):
    cdef Board board
    cdef int index               # of our slot on it
    cdef Board own_board         # when there is none to share
    cdef uint32_t generation
    cdef int64_t worked_ns       # until when the turn's work is counted
    cdef list watches            # of listeners and the inbox
    cdef dict callbacks          # descriptor -> Watch
    cdef object inbox
    cdef int inbox_fd
    cdef list outboxes
    cdef int *outbox_fds
    cdef int n_outboxes
    cdef object posted           # deque of callables
    cdef int bell_fd             # whom to tell that this worker can take one more
    cdef bint drops              # connections above the maximum are closed
    cdef bint full               # accepting rests until one of ours is closed
    cdef object on_drop
    cdef Watch waker
    cdef int waker_write
    cdef bint wake_is_due        # a byte is in the waker's pipe
    cdef int spare_fd
    cdef fc_deadline resume_at   # accepting starts again
    cdef bint accepting
    cdef bint closed
    cdef bint called_back        # a watch's callback ran in this turn

    cdef Watch _watch_source(self, int fd, uint8_t kind, Listener listener)
    cdef int dispatch(self, fc_source *source, int what) except -1
    cdef int take_turn(self, int timeout_ms) except -1
    cdef int work_until(self, int64_t since_ns) except -1
    cdef int serve(self, HttpConnection connection, int what) except -1
    cdef int crash(self, HttpConnection connection) except -1
    cdef int expire(self) except -1
    cdef int run_later(self) except -1
    cdef int run_posted(self) except -1
    cdef int sweep(self) except -1
    cdef int64_t guest_wait_ms(self) noexcept
    cdef int wait_ms(self, int timeout_ms) except? -2
    cdef int accept_some(self, Listener listener, int most) except -1
    cdef int place(self, int fd, fc_peer *peer, Listener listener, bint counted) except -1
    cdef bint hand_over(self, int fd, Listener listener, uint32_t requests, int32_t most)
    cdef bint pass_to(self, int target, int fd, Listener listener, uint32_t requests)
    cdef int shed(self) except -1
    cdef int rest_full(self) except -1
    cdef int ring(self) except -1
    cdef int drop(self, int fd, fc_peer *peer, Listener listener) except -1
    cdef HttpConnection find_idle(self)
    cdef int take_in(self, int fd, fc_peer *peer, Listener listener, uint32_t requests) except -1
    cdef int read_inbox(self) except -1
    cdef int read_parcels(self) except -1
    cdef int out_of_descriptors(self, Listener listener) except -1
    cdef int pause_accepting(self) except -1
    cdef int start_accepting(self) except -1
    cdef int stop_accepting(self) except -1
