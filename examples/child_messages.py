"""The same with child_process.fork alone: no cluster, any script or function as the child."""

from fastcluster import child_process


def answer():
    @child_process.parent.once("message")
    def asked(message, handle):
        print("child got", message, flush=True)
        child_process.parent.send({"hello": "parent"})
        child_process.parent.disconnect()


if __name__ == "__main__":
    child = child_process.fork(answer)
    child.send({"hello": "child"})
    child.on("message", lambda message, handle: print("parent got", message, flush=True))
    child.on("disconnect", lambda: print("child disconnected", flush=True))
    child_process.run()
