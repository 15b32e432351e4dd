"""A Django site in one file that uses what Django sites use: for tests and by hand."""

import io
from collections.abc import Iterator

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="not a secret: this is a test",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
    )


def hello(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse("Hello from Django", content_type="text/plain")


def args(request: HttpRequest, name: str) -> HttpResponseBase:
    return JsonResponse(
        {
            "name": name,
            "query": request.GET.dict(),
            "url": request.build_absolute_uri(),
            "client": request.META["REMOTE_ADDR"],
            "agent": request.headers.get("User-Agent"),
        }
    )


def echo(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse(request.body, content_type="application/octet-stream")


def upload(request: HttpRequest) -> HttpResponseBase:
    sizes = {name: file.size for name, file in request.FILES.items()}
    return JsonResponse({"form": request.POST.dict(), "sizes": sizes})


def stream(request: HttpRequest, blocks: int) -> HttpResponseBase:
    def body() -> Iterator[str]:
        for number in range(blocks):
            yield f"{request.path} {number}\n"

    return StreamingHttpResponse(body(), content_type="text/plain")


def file(request: HttpRequest, size: int) -> HttpResponseBase:
    return FileResponse(io.BytesIO(b"f" * size), content_type="application/octet-stream")


def source(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


def count(request: HttpRequest) -> HttpResponseBase:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


def error(request: HttpRequest) -> HttpResponseBase:
    raise RuntimeError("an error in a view")


urlpatterns = [
    path("", hello),
    path("args/<name>", args),
    path("echo", echo),
    path("upload", upload),
    path("stream/<int:blocks>", stream),
    path("file/<int:size>", file),
    path("source", source),
    path("count", count),
    path("error", error),
]

application = get_wsgi_application()
