"""What adapters of asynchronous applications have in common: tasks, and what is awaited.

Its law: every request runs in a real asyncio.Task, so that whatever asyncio and
anyio know of tasks holds here too; what has happened already is awaited without
a future.  It knows neither messages nor bodies, and not who drives the loop.
"""

import asyncio
import collections.abc
import contextvars
import sys

cimport cython
from cpython.ref cimport Py_DECREF, PyObject

from fastcluster.exchange cimport Connection, Consumer, Exchange, Handler, Service


cdef extern from "Python.h":
    ctypedef int PySendResult
    PySendResult PYGEN_NEXT
    PySendResult PyIter_Send(object coro, object value, PyObject **result) except <PySendResult>-1
    object PyContext_Copy(object context)
    object PyObject_Call(object called, tuple args, dict options)
    bint PyCoro_CheckExact(object thing)
    void PyErr_SetObject(object kind, object value) noexcept

cdef object Task = asyncio.Task
cdef object Coroutine = collections.abc.Coroutine
cdef bint KNOWS_EAGER = sys.version_info >= (3, 12)


cdef class TaskRunner(Handler):
    """Holds an application, and runs it in tasks of the asyncio loop that it is attached to.

    app: the application.  config: a config.Config.  attach() says in which loop.
    """

    def __init__(self, app, config):
        self.app = app
        self.config = config
        self.tasks = set()
        self.unflushed = []

    def attach(self, loop, state=None):
        """Run tasks in this asyncio loop from now on.

        Called in the context that the tasks shall get copies of.  state: what
        every request's scope gets a shallow copy of; None: scopes have none.
        """
        self.loop = loop
        self.state = state
        self.context = contextvars.copy_context()
        self.make_future = loop.create_future
        self.call_soon = loop.call_soon
        self.options = {"loop": loop, "context": None}
        self.eager_options = {"loop": loop, "context": None, "eager_start": True}
        if not KNOWS_EAGER:
            # Later versions number their tasks only when somebody asks for the name; 3.11
            # takes a fifth of a microsecond to write it.
            self.options["name"] = "request"
        # A factory is the application's own wish.
        self.task_factory = loop.create_task if loop.get_task_factory() is not None else None
        self.eager = KNOWS_EAGER and self.task_factory is None

    def cancel_all(self):
        """Cancel every task, since the time to finish is over."""
        self.draining = True
        for task in list(self.tasks):
            task.cancel()

    cdef object start_task(self, object coro, bint at_once):
        cdef object context = PyContext_Copy(self.context)
        cdef dict options
        cdef object task
        if self.task_factory is not None:
            return self.task_factory(coro, context=context)
        # One dict serves all calls: Task reads it before the coroutine's first step.
        options = self.eager_options if at_once and self.eager else self.options
        options["context"] = context
        task = PyObject_Call(Task, (coro,), options)
        options["context"] = None
        return task

    cdef int remember(self, object task) except -1:
        self.tasks.add(task)
        return 0

    cdef int forget(self, object task) except -1:
        self.tasks.discard(task)
        return 0

    cdef int flush_soon(self, Consumer consumer) except -1:
        if not self.unflushed:
            self.call_soon(self.on_flush)
        self.unflushed.append(consumer)
        return 0

    def on_flush(self):
        """Hear from the loop that the tasks have had their say."""
        cdef list consumers = self.unflushed
        cdef Consumer consumer
        self.unflushed = []
        for consumer in consumers:
            try:
                consumer.resume()
            except Exception as error:
                self.loop.call_exception_handler(
                    {"message": "internal error in a flush", "exception": error})

    cdef bint hold_back(self, Connection connection) except -1:
        # In a turn the connection goes on when we are back there.  A task that does
        # not start at once is on no stack, nor is one that has nothing to start from.
        if connection.corked or not self.eager or connection.io.input.len == 0:
            return False
        connection.corked = True
        return True

    cdef int let_go(self, Connection connection) except -1:
        connection.corked = False
        self.call_soon(Advance.of(connection))
        return connection.flush()


@cython.final
cdef class Advance:
    """A call of a connection's advance() that asyncio makes."""

    cdef Connection connection

    @staticmethod
    cdef Advance of(Connection connection):
        cdef Advance advance = Advance.__new__(Advance)
        advance.connection = connection
        return advance

    def __call__(self):
        self.connection.advance()


# ---- what a task runs

cdef class Call(Consumer):
    cdef int begin_task(self, bint at_once) except -1:
        cdef object task = self.runner.start_task(Steps.of(self), at_once)
        if not self.over:
            self.task = task
            self.runner.remember(task)
        return 0

    cdef object wait_to_read(self):
        if self.readers is None:
            self.readers = Waiters.__new__(Waiters)
        return self.readers.add(self.runner)

    cdef object wait_to_write(self):
        if self.writers is None:
            self.writers = Waiters.__new__(Waiters)
        return self.writers.add(self.runner)

    cdef int wake_readers(self) except -1:
        if self.readers is not None:
            self.readers.wake()
            self.readers = None
        return 0

    cdef bint client_is_leaving(self) noexcept:
        return self.exchange is not None and self.exchange.connection.broken

    cdef int writable(self) except -1:
        if self.writers is not None:
            self.writers.wake()
            self.writers = None
        return 0

    cdef object launch(self):
        raise NotImplementedError

    cdef int returned(self) except -1:
        return 0

    cdef int raised(self, object error) except -1:
        raise error

    cdef int leave(self) except -1:
        self.over = True
        if self.task is not None:
            self.runner.forget(self.task)
            self.task = None
        if self.gate is not None:
            self.pass_gate(self.service)
        return 0

    cdef bint is_running(self) except -1:
        return not self.over


# By hand, since a coroutine of Cython's makes an object for its variables and another
# one to await the application's through.
@cython.final
@cython.freelist(64)
cdef class Steps:
    @staticmethod
    cdef Steps of(Call call):
        cdef Steps steps = Steps.__new__(Steps)
        steps.call = call
        return steps

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject *result = NULL
        cdef object yielded
        cdef PySendResult how
        try:
            if self.coro is None:
                self.coro = coroutine_of(self.call.launch())
            how = PyIter_Send(self.coro, None, &result)
            yielded = <object>result
            Py_DECREF(yielded)
            if how == PYGEN_NEXT:
                return yielded
        except GeneratorExit:
            # The loop is closed, and with it everything that could be answered.
            raise
        except BaseException as error:
            self.finish(error)
        else:
            self.finish(None)
        raise StopIteration

    cdef int finish(self, object error) except -1:
        if error is None:
            self.call.returned()
        else:
            self.call.raised(error)
        self.call.leave()
        return 0

    def send(self, value):
        """Go on, as a coroutine does."""
        return self.__next__()

    def throw(self, kind, value=None, trace=None):
        """Raise an exception where the application waits, as a coroutine does."""
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        if trace is not None:
            value = value.with_traceback(trace)
        try:
            if self.coro is None:
                raise value  # before the application was called
            return self.coro.throw(value)
        except StopIteration:
            self.finish(None)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.finish(error)
        raise StopIteration

    def close(self):
        """Have the application's coroutine closed."""
        if self.coro is not None:
            self.coro.close()

    # What Task.get_stack() and repr() look for: of the application's coroutine.

    @property
    def __name__(self):
        return getattr(self.coro, "__name__", "request")

    @property
    def cr_frame(self):
        return getattr(self.coro, "cr_frame", None)

    @property
    def cr_code(self):
        return getattr(self.coro, "cr_code", None)

    @property
    def cr_running(self):
        return getattr(self.coro, "cr_running", False)


cdef object coroutine_of(object awaitable):
    if PyCoro_CheckExact(awaitable) or isinstance(awaitable, Coroutine):
        return awaitable
    return awaited(awaitable)


async def awaited(awaitable):
    """Await what is no coroutine: a generator's, an object's."""
    return await awaitable


# ---- awaitables

@cython.freelist(64)
cdef class Awaitable:
    cdef object take(self):
        raise NotImplementedError

    cdef object wait(self):
        raise NotImplementedError

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef object result
        if self.waiting is not None:
            # Ends, by an exception that is passed on, when the future was cancelled.
            for future in self.waiting:
                return future
            self.waiting = None
        result = self.take()
        if result is NotImplemented:
            self.waiting = iter(self.wait())
            return next(self.waiting)
        if result is not None:
            # Raised as an object it would get a traceback, which costs half a microsecond
            # and which nobody sees.  A tuple would be taken for several values.
            PyErr_SetObject(StopIteration, result)
        raise StopIteration

    def send(self, value):
        """Go on, as a coroutine does."""
        return self.__next__()

    def throw(self, kind, value=None, trace=None):
        """Raise an exception where this waits, as a coroutine does."""
        self.waiting = None
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        raise value if trace is None else value.with_traceback(trace)

    def close(self):
        """Wait no more."""
        self.waiting = None


@cython.final
cdef class Done(Awaitable):
    def __next__(self):
        raise StopIteration

    cdef object take(self):
        return None


DONE = Done.__new__(Done)

# asyncio.create_task() and others want coroutines and would refuse what is merely awaitable.
collections.abc.Coroutine.register(Awaitable)
collections.abc.Coroutine.register(Steps)


cdef class Waiters:
    cdef object add(self, TaskRunner runner):
        cdef object future = runner.make_future()
        if self.first is None or self.first.done():
            self.first = future
            return future
        if self.others is None:
            self.others = []
        # Those that were cancelled are not kept for ever.
        self.others = [other for other in self.others if not other.done()]
        self.others.append(future)
        return future

    cdef int wake(self) except -1:
        cdef object first = self.first
        cdef list others = self.others
        self.first = None
        self.others = None
        if first is not None and not first.done():
            first.set_result(None)
        if others is not None:
            for future in others:
                if not future.done():
                    future.set_result(None)
        return 0
