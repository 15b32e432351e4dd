"""Django's hello in one file, without a database, for both interfaces.

ASGI has a view of its own: an async view under WSGI, and a plain one under ASGI, would each be
measured with a change of threads that its users do not want.
"""

from __future__ import annotations

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.apps import HELLO

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="measured, and never served to anyone",
    )
    django.setup()


def hello(request: HttpRequest) -> HttpResponse:
    """Answer with a constant."""
    return HttpResponse(HELLO, content_type="text/plain")


async def async_hello(request: HttpRequest) -> HttpResponse:
    """Answer with a constant, on the loop's thread."""
    return HttpResponse(HELLO, content_type="text/plain")


urlpatterns = [path("", hello), path("asgi", async_hello)]
wsgi_hello = WSGIHandler()
asgi_hello = ASGIHandler()
