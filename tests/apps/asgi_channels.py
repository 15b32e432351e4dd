"""Django with Channels behind the checker: HTTP by Django, WebSockets by consumers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="not a secret: this is a test",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["channels"],
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    )

from asgi_checker import checked
from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

pages = get_asgi_application()


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello from Django", content_type="text/plain")


urlpatterns = [path("", hello)]


class Room(AsyncJsonWebsocketConsumer):
    """Says what one member says to every member of the room, through the layer."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        if self.room == "closed":
            raise DenyConnection
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"joined": self.room})

    async def receive_json(self, content: dict[str, str], **kwargs: object) -> None:
        await self.channel_layer.group_send(
            self.room, {"type": "room.said", "text": content["say"]}
        )

    async def room_said(self, event: dict[str, str]) -> None:
        await self.send_json({"said": event["text"]})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)
        await self.channel_layer.group_send(self.room, {"type": "room.said", "text": f"bye {code}"})


class Shout(WebsocketConsumer):
    """A consumer that is not async: Channels runs it in a thread."""

    def connect(self) -> None:
        self.accept("loud")
        async_to_sync(self.channel_layer.group_add)("shouts", self.channel_name)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "enough":
            self.close(4001, "as asked")
        elif text_data is not None:
            self.send(text_data.upper())
        else:
            self.send(bytes_data=bytes_data)


application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": URLRouter(
            [path("rooms/<room>", Room.as_asgi()), path("shout", Shout.as_asgi())]
        ),
    }
)
channels = checked(application)
