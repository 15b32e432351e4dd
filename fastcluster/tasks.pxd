# tasks.pxd: what adapters of asynchronous applications (asgi, websocket, native_async)
# have in common: the asyncio loop they run in, its tasks, and what is awaited there.

from fastcluster.exchange cimport Connection, Consumer, Exchange, Handler, Service


cdef class TaskRunner(Handler):
    """An application and its tasks in one asyncio loop."""

    cdef readonly object app
    cdef readonly object config      # config.Config
    cdef readonly object loop        # the asyncio loop; None before attach()
    cdef readonly dict state         # what lifespan startup left, None: there is none
    cdef readonly set tasks          # those that run, strong references
    cdef object context              # contextvars.Context that every task gets a copy of
    cdef dict options                # of Task(), but for the context
    cdef dict eager_options
    cdef object make_future
    cdef object call_soon
    cdef object task_factory         # loop.create_task where the loop has a factory, else None
    cdef readonly bint draining      # tasks are being cancelled, since time is over
    cdef list unflushed              # consumers that flush_soon() was called for
    cdef bint eager                  # tasks may start at once (Python 3.12 and later)

    # Starts a task for a coroutine, which lets no exception out.  at_once: it
    # runs until it first waits before this returns, where that is possible.
    # The task is the caller's to keep: it calls forget(task) when it is over.
    cdef object start_task(self, object coro, bint at_once)
    # Holds a running task, so that it is not collected and a drain waits for it.
    cdef int remember(self, object task) except -1
    cdef int forget(self, object task) except -1
    # Has consumer.resume() called after the tasks that are due now: one callback of
    # the loop for all consumers.
    cdef int flush_soon(self, Consumer consumer) except -1

    # Around what ends an exchange from inside a task: the connection's next request
    # must not run the application on top of that task's stack.  If hold_back() says
    # True, let_go() comes after, sends, and has the connection go on a little later.
    cdef bint hold_back(self, Connection connection) except -1
    cdef int let_go(self, Connection connection) except -1


# Futures of those that wait for one thing.  Each has its own, since a task that is
# cancelled cancels what it waits for.
cdef class Waiters:
    cdef object first
    cdef list others

    cdef object add(self, TaskRunner runner)
    cdef int wake(self) except -1


cdef class Call(Consumer):
    """One call of an application that goes on in a task."""

    cdef TaskRunner runner
    cdef Service service
    cdef Exchange exchange       # None once it is over, or the client lost
    cdef object task             # asyncio.Task, None before it first waits and when it is over
    cdef bint over               # the application has returned
    cdef Waiters readers         # those that wait for more from the client, or None
    cdef Waiters writers         # those that wait until the client has taken more, or None

    # Has a task launch() the application; see start_task().
    cdef int begin_task(self, bint at_once) except -1
    # Futures for a wait(), and who ends them; writable() wakes the writers.
    cdef object wait_to_read(self)
    cdef object wait_to_write(self)
    cdef int wake_readers(self) except -1
    # The socket has failed, and lost() is about to come.
    cdef bint client_is_leaving(self) noexcept

    # ---- for the subclass to say
    # Calls the application; what it returns is awaited.
    cdef object launch(self)
    # It was awaited to its end.
    cdef int returned(self) except -1
    # The application, or launch(), let an exception out, which goes no further.
    cdef int raised(self, object error) except -1
    # The last that the task does.
    cdef int leave(self) except -1


# The coroutine that a task runs for a Call.
cdef class Steps:
    cdef Call call
    cdef object coro             # the application's; None before it is called

    @staticmethod
    cdef Steps of(Call call)

    cdef int finish(self, object error) except -1


# Awaitables, which are coroutines to asyncio (create_task, wait_for) as well.
cdef class Awaitable:
    """Something to await, once."""

    cdef object waiting          # iterator of the future it waits for, or None

    # What it is worth, or NotImplemented: not yet.  Called when it is first
    # awaited, and again when the future of the last wait() is done.
    cdef object take(self)
    # A future that is done when take() is worth another try.
    cdef object wait(self)


# What has happened already: awaiting it costs nothing and gives None.
cdef object DONE
